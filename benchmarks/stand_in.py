"""A stand-in for an audio-language model: a server that knows a clip by its sound and answers as its raters did, sharpened.

    python -m benchmarks.stand_in --corpus data/cremad --question voice --sharpen 2 --port 8765

Its distribution over labels is q^s / sum q^s, with q the fractions of the human votes and s the sharpening: 1 answers as
people do, more is surer than they are. So it is known what an analysis of its votes should find. What it draws follows from
the seed of the request. Without a corpus it answers every clip with the first label, at once.
"""

import argparse
import hashlib
import signal
import time

import numpy as np
from tqdm.auto import tqdm

from annot_hf.data.export import read_export
from annot_hf.proxies.job import as_sent
from benchmarks.chat_server import Question, Reply, serve


class StandIn:
    """Answers questions about the clips of a corpus.

    Args:
        corpus: Folder of the export.
        question: The category question that it answers.
        sharpen: s.
        seconds: How long an answer takes (s).
    """

    def __init__(self, corpus: str, question: str, sharpen: float, seconds: float = 0.0) -> None:
        exported = read_export(corpus)
        self.labels, self.seconds = exported.votes.question(question).labels, seconds
        items = exported.items
        counts = exported.votes.counts(question, items=items["item"]).astype(float)
        sharp = counts**sharpen
        self.probs = sharp / sharp.sum(1, keepdims=True)
        clips = tqdm(items["audio"], desc="listen", unit="clip")
        self.row = {hashlib.sha256(as_sent(clip, 600.0)).digest(): row for row, clip in enumerate(clips)}

    def __call__(self, question: Question) -> Reply:
        """A label drawn for the clip that the request holds; 400 for a clip that it never heard."""
        row = self.row.get(hashlib.sha256(question.audio).digest())
        if row is None:
            return Reply("I do not know this recording.", status=400)
        drawn = np.random.default_rng(question.body["seed"]).choice(len(self.labels), p=self.probs[row])
        return Reply(self.labels[drawn], stall=self.seconds)


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus")
    parser.add_argument("--question", default="voice")
    parser.add_argument("--sharpen", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=0.0, help="How long an answer takes (s).")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    answer = lambda question: Reply(question.text.split("\n- ")[1].split("\n")[0])  # noqa: E731
    if options.corpus:
        answer = StandIn(options.corpus, options.question, options.sharpen, options.seconds)
    signal.signal(signal.SIGTERM, lambda *_: exit(0))
    with serve(answer, options.port) as url:
        print(url, flush=True)
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()
