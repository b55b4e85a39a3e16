"""A small text corpus: thirty texts whose raters disagree."""

import numpy as np
import pandas as pd

from annot_hf.data.corpus import VoteCorpus
from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable

WORDS = ("good", "bad", "so", "very", "!")
LEVELS = Question.category("severity", ["none", "mild", "severe"])
SCALES = tuple(Question.scale(name, 1, 5) for name in ("valence", "activation"))


class Sayings(VoteCorpus):
    """Thirty texts of 1 to 40 words, each judged by three of four raters."""

    name = "sayings"
    questions = (LEVELS, *SCALES)
    default_questions = ("severity",)
    texts = tuple(" ".join(WORDS[(row + word) % 5] for word in range(1 + row * 4 // 3)) for row in range(30))

    def read_items(self):
        split = ["train"] * 18 + ["validation"] * 6 + ["test"] * 6
        names = [f"t{row}" for row in range(30)]
        return pd.DataFrame({"item": names, "text": self.texts, "speaker": names, "split": split})

    def read_votes(self):
        rng, rows = np.random.default_rng(0), []
        for item in range(30):
            for rater in rng.choice(4, 3, replace=False):
                level = LEVELS.labels[min(2, (item % 3 + int(rng.random() < 0.4)))]
                rows.append((f"t{item}", f"r{rater}", "severity", level))
                rows += [(f"t{item}", f"r{rater}", scale.name, str(rng.integers(1, 6))) for scale in SCALES]
        item, rater, question, value = zip(*rows, strict=True)
        return VoteTable.from_columns(self.questions, item=item, annotator=rater, question=question, value=value)
