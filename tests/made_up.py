"""Votes and predictions that are made up, and reports without figures: fixtures of several folders."""

import matplotlib
import numpy as np
import pandas as pd
import pytest

from annot_hf.data.predictions import Predictions
from annot_hf.data.questions import Question
from annot_hf.data.simulate import Truth
from annot_hf.data.targets import make_targets
from annot_hf.data.votes import VoteTable
from annot_hf.report import pages

EMOTIONS = ("anger", "disgust", "fear", "happy", "neutral", "sad")
ACTIVATION, VALENCE = Question.scale("activation", 1, 5), Question.scale("valence", 1, 5)


def softmax(logits):
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@pytest.fixture
def unrendered(monkeypatch):
    """Reports draw their figures and write a dot in their place, for tests that read the text only."""

    def save(draw, path, *, dpi):
        path.parent.mkdir(parents=True, exist_ok=True)
        with matplotlib.rc_context(pages.STYLE):
            draw()
            pages.Figure(figsize=(0.1, 0.1)).savefig(path, metadata={"Software": None})
        return path

    monkeypatch.setattr(pages, "save_figure", save)


@pytest.fixture(scope="session")
def emotion_run():
    """A category question, 240 items of 12 speakers, 7 named raters each, and an imperfect model."""
    rng = np.random.default_rng(3)
    n, k, raters = 240, len(EMOTIONS), 20
    items = np.array([f"clip{i:03d}" for i in range(n)], dtype=object)
    speakers = {item: f"speaker{i % 12:02d}" for i, item in enumerate(items)}
    opinion = softmax(2 * rng.normal(size=(n, k)) + np.array([0, -1, -1, 0, 1.5, 0]))
    who = np.stack([rng.choice(raters, 7, replace=False) for _ in range(n)])
    said = np.stack([rng.choice(k, 7, p=row) for row in opinion])
    votes = VoteTable.from_columns(
        Question.category("emotion", EMOTIONS),
        item=np.repeat(items, 7).tolist(),
        value=[EMOTIONS[code] for code in said.ravel()],
        annotator=[f"rater{code:02d}" for code in who.ravel()],
    )
    targets = make_targets(votes, "emotion")
    probs = softmax(np.log(opinion) + 0.7 * rng.normal(size=(n, k)))
    own = softmax(np.log(np.repeat(probs, 7, axis=0)) + 0.3 * rng.normal(size=(n * 7, k)))
    predictions = Predictions(
        items=items,
        support=EMOTIONS,
        probs=probs,
        questions=targets.questions,
        rater_items=np.repeat(np.arange(n), 7),
        rater_names=np.array([f"rater{code:02d}" for code in who.ravel()], dtype=object),
        rater_values=own,
        rater_fallback=who.ravel() >= 18,
        meta={"model": "a made-up model"},
    )
    return votes, targets, predictions, speakers


@pytest.fixture(scope="session")
def grid_run():
    """Two scale questions, 150 items of 10 speakers, 16 raters with known biases of whom 6 answer each item."""
    rng = np.random.default_rng(4)
    n, raters, per_item = 150, 16, 6
    items = np.array([f"clip{i:03d}" for i in range(n)], dtype=object)
    speakers = {item: f"speaker{i % 10}" for i, item in enumerate(items)}
    bias = rng.normal(0, 0.6, (raters, 2))
    true = rng.uniform(1.5, 4.5, (n, 2))
    who = np.stack([rng.choice(raters, per_item, replace=False) for _ in range(n)])
    said = np.clip(np.round(true[:, None] + bias[who] + 0.5 * rng.normal(size=(n, per_item, 2))), 1, 5)
    names = np.array([f"rater{code:02d}" for code in who.ravel()], dtype=object)
    votes = VoteTable.from_columns(
        (ACTIVATION, VALENCE),
        item=np.tile(np.repeat(items, per_item), 2).tolist(),
        question=np.repeat(["activation", "valence"], n * per_item).tolist(),
        value=np.concatenate([said[..., 0].ravel(), said[..., 1].ravel()]),
        annotator=np.tile(names, 2).tolist(),
    )
    targets = make_targets(votes, ("activation", "valence"), "kde")
    guess = ACTIVATION.normalise(true + 0.3 * rng.normal(size=true.shape))
    centres = np.array([-0.75, -0.25, 0.25, 0.75])
    one = [softmax(-((guess[:, d, None] - centres) ** 2) / 0.15) for d in (0, 1)]
    probs = (one[0][:, :, None] * one[1][:, None, :]).reshape(n, -1)
    own = np.repeat(guess, per_item, axis=0) + bias[who.ravel()] / 2 + 0.1 * rng.normal(size=(n * per_item, 2))
    predictions = Predictions(
        items=items,
        support=targets.support,
        probs=probs,
        questions=targets.questions,
        consensus=guess,
        rater_items=np.repeat(np.arange(n), per_item),
        rater_names=names,
        rater_values=own,
        rater_fallback=who.ravel() == 15,
        meta={},
    )
    truth = Truth(
        raters=pd.DataFrame(
            bias / 2,  # from points of the 1 to 5 scale to [-1, 1]
            columns=["bias_activation", "bias_valence"],
            index=[f"rater{code:02d}" for code in range(raters)],
        ),
        items=pd.DataFrame(),
    )
    return votes, targets, predictions, speakers, truth
