"""Run the benchmarks and exit with 1 when a ratio or a parity does not hold."""

import os
import sys

os.environ.setdefault("POLARS_MAX_THREADS", "2")
os.environ.setdefault("OMP_NUM_THREADS", "2")

from benchmarks import (
    bench_annotate,
    bench_dime,
    bench_divergence,
    bench_import,
    bench_kde,
    bench_layers,
    bench_msp_podcast,
    bench_predict,
    bench_saliency,
    bench_saturation,
    bench_seedbert,
    bench_votes,
)
from benchmarks.timing import HEADER

SUBJECTS = {
    "votes": bench_votes.run,
    "divergence": bench_divergence.run,
    "kde": bench_kde.run,
    "import": bench_import.run,
    "msp_podcast": bench_msp_podcast.run,
    "layers": bench_layers.run,
    "predict": bench_predict.run,
    "saliency": bench_saliency.run,
    "saturation": bench_saturation.run,
    "seedbert": bench_seedbert.run,
    "annotate": bench_annotate.run,
    "dime": bench_dime.run,
}


def main() -> int:
    chosen = sys.argv[1:] or list(SUBJECTS)
    unknown = [name for name in chosen if name not in SUBJECTS]
    if unknown:
        print(f"There is no benchmark {unknown[0]!r}; choose from {', '.join(SUBJECTS)}.", file=sys.stderr)
        return 2
    print(HEADER)
    passed = True
    for name in chosen:
        for result in SUBJECTS[name]():
            print(result, flush=True)
            passed &= result.passed
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
