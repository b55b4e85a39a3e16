"""A corpus of four clips, and how tests look at its export."""

import pandas as pd
from datasets import load_dataset

from annot_hf.data.corpus import VoteCorpus
from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable

EMOTION = Question.category("emotion", ("anger", "calm"))
VALENCE = Question.scale("valence", 0, 5)
ITEMS = ["a", "b", "c", "d"]


class Small(VoteCorpus):
    """Four clips of three speakers; tests change its items and votes."""

    name = "small"
    license = "cc-by-4.0"
    questions = (EMOTION, VALENCE)
    default_questions = ("emotion",)
    items: pd.DataFrame
    votes: VoteTable

    def read_items(self):
        return self.items

    def read_votes(self):
        return self.votes


def vote_rows():
    return {
        "item": ["a", "a", "a", "b", "b", "c", "d", "a"],
        "annotator": ["r1", "r2", None, "r1", None, "r2", "r1", "r1"],
        "question": ["emotion"] * 7 + ["valence"],
        "value": ["anger", "anger", "calm", "calm", "calm", "anger", "calm", "2.5"],
    }


def load(folder, config, tmp_path, **options):
    return load_dataset(str(folder), config, cache_dir=str(tmp_path / "cache"), **options)


def findings(report):
    return {finding.reason: finding for finding in report.findings}
