"""Run the benchmarks and exit with 1 when a ratio or a parity does not hold."""

import argparse
import ast
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("POLARS_MAX_THREADS", "2")
os.environ.setdefault("OMP_NUM_THREADS", "2")

from benchmarks.timing import HEADER

SUBJECTS = "votes divergence kde import msp_podcast layers predict saliency saturation seedbert annotate".split()
SUBJECTS += "dime statistics agreement raters whisper".split()


def main(arguments: Sequence[str] | None = None) -> int:
    listing = "\n".join(f"  {name:12} {_line(name)}" for name in SUBJECTS)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=f"benchmarks:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="*", help="which to run; all by default")
    chosen = parser.parse_args(arguments).name or SUBJECTS
    for name in chosen:
        if name not in SUBJECTS:
            parser.error(f"there is no benchmark {name!r}; choose from\n{listing}")
    print(HEADER)
    passed = True
    for name in chosen:
        for result in importlib.import_module(f"benchmarks.bench_{name}").run():
            print(result, flush=True)
            passed &= result.passed
    return 0 if passed else 1


def _line(name: str) -> str:
    """The first line of what a benchmark says of itself; it is read and not imported, as some import much."""
    source = Path(__file__).with_name(f"bench_{name}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)).partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
