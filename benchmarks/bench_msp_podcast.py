"""Import of 1.5 million MSP-Podcast rater lines, in two generations: at most 60 s and 2 GB, measured in a fresh process."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from benchmarks.timing import Result

LINES, TURNS, WORKERS = 1_500_000, 268_000, 14_000
SECONDS, GIGABYTES = 60.0, 2.0
SCRIPT = Path(__file__).parents[1] / "dataset_scripts" / "msp_podcast"
WORDS = "Angry Sad Happy Surprise Fear Disgust Contempt Neutral Other".split()
WORDS += "Frustrated Annoyed Disappointed Depressed Confused Concerned Amused Excited".split()
# which of the first nine a further word counts as; -1 is none
NEAR = (0, 0, 1, 1, -1, 1, 2, 2)
MARKS = (("A:", "Act"), ("V:", "Val"), ("D:", "Dom"))
# VmHWM is the peak of this process alone; ru_maxrss would start at the peak of the process that started it
CODE = """
import json, re, sys, time
from annot_hf.data.corpus import load_corpus_script
corpus = load_corpus_script(sys.argv[1])(sys.argv[2])
start = time.perf_counter()
votes = corpus.read_votes()
seconds = time.perf_counter() - start
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024 / 1e9
sums = [votes.counts(name).sum(0).tolist() for name in ("emotion", "emotion_secondary")]
sums += [votes.ratings[votes.rows_of(name)].sum() for name in ("activation", "valence", "dominance")]
print(json.dumps([seconds, peak, sums]))
"""


def run() -> Iterator[Result]:
    for release in ("2.0", "1.12"):
        with tempfile.TemporaryDirectory() as folder:
            expected = write_lines(Path(folder) / "Labels" / "labels_detailed.csv", release)
            command = [sys.executable, "-c", CODE, str(SCRIPT), folder]
            seconds, peak, sums = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        difference = float(max(np.abs(np.subtract(*pair)).max() for pair in zip(sums, expected, strict=True)))
        subject = f"MSP-Podcast {release}, 1.5M lines"
        yield Result(f"{subject}, time", "the goal of 60 s", SECONDS, seconds, 1.0, difference, 0)
        yield Result(f"{subject}, RAM", "the goal of 2 GB (in MB)", GIGABYTES, peak, 1.0, difference, 0)


def write_lines(path: Path, release: str) -> list:
    """Write random rater lines; returns label counts and rating sums, worked out from the numbers that were drawn."""
    path.parent.mkdir()
    generator = np.random.default_rng(0)
    turn = np.sort(generator.integers(0, TURNS, LINES))
    worker = (turn * 7 + np.arange(LINES)) % WORKERS  # neighbours differ: nobody rates a turn twice
    chosen = generator.integers(0, len(WORDS), (3, LINES))
    chosen[0] %= 9
    further = generator.integers(0, 3, LINES)
    ratings = generator.integers(1, 8, (3, LINES))

    free_text = np.array([f"Other-free text {number}, (really?)" for number in range(20_000)])
    words = pa.array([*WORDS[:8], *free_text, *WORDS[9:]])
    spelt = np.where(chosen == 8, 8 + generator.integers(0, len(free_text), chosen.shape), chosen)
    spelt = np.where(chosen > 8, chosen + len(free_text) - 1, spelt)
    major, second, third = (words.take(pa.array(row)) for row in spelt)
    second = pc.if_else(pa.array(further > 0), pc.binary_join_element_wise(major, second, ","), major)
    second = pc.if_else(pa.array(further > 1), pc.binary_join_element_wise(second, third, ","), second)
    columns = {
        "FileName": pa.array([f"MSP-PODCAST_{n // 99:04d}_{n % 99:04d}.wav" for n in range(TURNS)]).take(
            pa.array(turn)
        ),
        "WorkerID": pa.array([f"WORKER{n:08d}" for n in range(WORKERS)]).take(pa.array(worker)),
        "EmoClass_Major": major,
        "EmoClass_Second": second,
    }
    values = pa.array([f"{n}.000000" for n in range(8)])
    columns |= {f"Emo{n}": values.take(pa.array(row)) for n, row in zip(("Act", "Val", "Dom"), ratings, strict=True)}
    if release == "1.12":
        marked = [pc.binary_join_element_wise(mark, columns[f"Emo{n}"], "") for mark, n in MARKS]
        line = pc.binary_join_element_wise(columns["WorkerID"], major, second, *marked, "; ")
        columns = {"FileName": columns["FileName"], "EmoDetail": pc.binary_join_element_wise(line, ";", "")}
    pyarrow.csv.write_csv(pa.table(columns), path)

    picked, label = np.zeros((LINES, 9), bool), np.array([*range(9), *NEAR])[chosen]
    for least in (0, 1, 2):
        rows = np.flatnonzero((further >= least) & (label[least] >= 0))
        picked[rows, label[least][rows]] = True
    return [np.bincount(chosen[0], minlength=9), picked.sum(0), *ratings.sum(1)]
