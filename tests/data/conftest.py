"""The small corpus on disk."""

import numpy as np
import pandas as pd
import pytest
import soundfile
from small_corpus import EMOTION, ITEMS, VALENCE, Small, vote_rows

from annot_hf.data.votes import VoteTable


@pytest.fixture
def corpus(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    for item in ITEMS:
        soundfile.write(root / f"{item}.wav", np.full(1600, 0.1), 16_000)
    small = Small(root)
    small.items = pd.DataFrame(
        {
            "item": ITEMS,
            "audio": [f"{item}.wav" for item in ITEMS],
            "speaker": ["s1", "s1", "s2", "s3"],
            "split": ["train", "train", "validation", "test"],
            "age": [30, 30, None, 50],
        }
    )
    small.votes = VoteTable.from_columns([EMOTION, VALENCE], **vote_rows())
    return small
