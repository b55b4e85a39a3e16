"""The simulated corpus: reproducible, honest about its truth, and audible."""

import numpy as np
import pandas as pd
import pytest
from scipy.signal import stft

from annot_hf.data import simulate
from annot_hf.data.audio import audio_info, load_audio
from annot_hf.data.export import export_corpus, read_export
from annot_hf.data.predictions import Predictions
from annot_hf.data.simulate import (
    EMOTIONS,
    SimulatedCorpus,
    read_newcomers,
    read_truth,
    simulate_corpus,
    synthesise,
)
from annot_hf.data.targets import make_targets


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return simulate_corpus(tmp_path_factory.mktemp("simulated") / "corpus", clips_per_speaker=8)


def read(folder):
    corpus = SimulatedCorpus(folder)
    return corpus.read_items(), corpus.read_votes(), read_truth(folder)


def small(out, **options):
    return simulate_corpus(out, **{"speakers": 3, "clips_per_speaker": 2, "annotators": 5, "ratings": (2, 4)} | options)


def test_speakers_are_in_one_split_each(folder):
    items, _, truth = read(folder)
    assert len(items) == 24 * 8 == len(truth.items)
    assert items.groupby("speaker")["split"].nunique().max() == 1
    assert items.groupby("split")["speaker"].nunique().to_dict() == {"train": 16, "validation": 4, "test": 4}
    assert items.set_index("item")["split"].equals(truth.items["split"].astype("str"))


def test_audio_is_one_to_three_seconds_at_16_khz_and_not_silent(folder):
    items, _, _ = read(folder)
    for name in items["audio"]:
        info = audio_info(folder / name)
        assert info.sampling_rate == 16_000 and info.channels == 1 and 0.99 <= info.seconds <= 3
    assert 0.01 < load_audio(folder / items["audio"][0]).std() < 0.3


def test_every_clip_has_as_many_raters_as_asked_for_and_all_answer_all_questions(folder):
    _, votes, truth = read(folder)
    frame = votes.to_pandas()
    per_item = frame[frame["question"] == "valence"].groupby("item", observed=True).size()
    assert set(per_item) == {6, 7, 8}
    assert frame.groupby(["item", "annotator"], observed=True).size().eq(3).all()
    rated = frame[frame["question"] == "emotion"].groupby("annotator", observed=True).size() / len(truth.items)
    np.testing.assert_allclose(rated.reindex(truth.raters.index), truth.raters["coverage"], atol=1e-6)
    assert truth.raters["coverage"].max() > 1.5 * truth.raters["coverage"].min()


def test_ratings_are_whole_steps_and_labels_are_known(folder):
    _, votes, _ = read(folder)
    ratings = votes.ratings[~np.isnan(votes.ratings)]
    assert set(ratings) == {1, 2, 3, 4, 5}
    assert votes.question("emotion").labels == tuple(EMOTIONS) == ("anger", "happy", "neutral", "sad")
    shares = votes.counts("emotion").sum(0) / votes.counts("emotion").sum()
    assert shares.min() > 0.1


@pytest.mark.parametrize("dimension", ["activation", "valence"])
def test_least_squares_recovers_the_raters(folder, dimension):
    """Where clipping is rare, a rater's answers regressed on the truth give back scale and bias."""
    _, votes, truth = read(folder)
    frame = votes.select(questions=[dimension]).to_pandas()
    true = truth.items[dimension].reindex(frame["item"].astype(str)).to_numpy()
    frame = frame.assign(true=true, given=(frame["rating"] - 3) / 2)[np.abs(true) < 0.6]
    fits = pd.DataFrame(
        {name: np.polyfit(rows["true"], rows["given"], 1) for name, rows in frame.groupby("annotator", observed=True)}
    ).T.reindex(truth.raters.index)
    assert np.corrcoef(fits[1], truth.raters[f"bias_{dimension}"])[0, 1] > 0.85
    assert np.corrcoef(fits[0], truth.raters[f"scale_{dimension}"])[0, 1] > 0.5


def test_disagreement_varies_and_follows_ambiguity(folder):
    _, votes, truth = read(folder)
    counts = votes.counts("emotion", items=list(truth.items.index))
    probs = counts / counts.sum(1, keepdims=True)
    entropy = -(probs * np.log(np.maximum(probs, 1e-12))).sum(1) / np.log(4)
    assert entropy.min() < 0.01 and entropy.max() > 0.7 and entropy.std() > 0.15
    spread = votes.select(questions=["activation"]).to_pandas().groupby("item", observed=True)["rating"].std()
    assert np.corrcoef(spread.reindex(truth.items.index), truth.items["ambiguity"])[0, 1] > 0.4


def log_spectrum_statistics(wave, bands=24):
    power = np.abs(stft(wave, 16_000, nperseg=400, noverlap=240, nfft=512)[2]) ** 2
    edges = np.unique(np.geomspace(2, 257, bands + 1).astype(int))
    log = np.log(np.add.reduceat(power, edges[:-1]) + 1e-8)
    return np.concatenate([log.mean(1), log.std(1), np.abs(np.diff(log, axis=1)).mean(1)])


@pytest.mark.parametrize("dimension, least", [("activation", 0.7), ("valence", 0.5)])
def test_simple_acoustics_tell_the_truth_of_unseen_speakers(folder, dimension, least):
    items, _, truth = read(folder)
    features = np.array([log_spectrum_statistics(load_audio(folder / name)) for name in items["audio"]])
    true = truth.items[dimension].to_numpy()
    speakers = items["speaker"].to_numpy()
    guess = np.zeros(len(true))
    for fold in range(6):
        test = np.isin(speakers, np.unique(speakers)[fold::6])
        mean, scale, centre = features[~test].mean(0), features[~test].std(0), true[~test].mean()
        train = (features[~test] - mean) / scale
        weights = np.linalg.solve(train.T @ train + 30 * np.eye(train.shape[1]), train.T @ (true[~test] - centre))
        guess[test] = (features[test] - mean) / scale @ weights + centre
    assert 1 - np.mean((true - guess) ** 2) / np.var(true) > least


def test_seeds(tmp_path):
    one, two, other = small(tmp_path / "1"), small(tmp_path / "2"), small(tmp_path / "3", seed=1)
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert [(one / file).read_bytes() for file in files] == [(two / file).read_bytes() for file in files]
    assert (one / "votes.csv").read_bytes() != (other / "votes.csv").read_bytes()


def test_newcomers_leave_the_corpus_as_it_is_and_are_not_in_it(tmp_path, monkeypatch):
    sizes = {"clips_per_speaker": 12}
    one = small(tmp_path / "1", **sizes)
    monkeypatch.setattr(simulate, "NEWCOMERS", 3)
    other = small(tmp_path / "2", **sizes)
    for name in ("items.csv", "votes.csv", "audio/s002_c003.wav"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    truth, asked = read_truth(one), SimulatedCorpus(one).read_votes().annotators
    assert list(truth.newcomers.index) == [f"n{number:03d}" for number in range(1, 7)]
    assert not set(truth.newcomers.index) & set(asked)
    split = truth.items["split"]
    few = pd.read_csv(one / "newcomers.csv")
    assert set(few["item"].map(split)) == {"validation"}
    assert (few.groupby(["annotator", "question"])["item"].nunique() == 10).all()
    later = read_newcomers(one).to_pandas()
    assert set(later["item"].astype(str).map(split)) == {"test"}
    assert (later.groupby(["annotator", "question"], observed=True)["item"].nunique() == 12).all()


def test_the_best_answers_are_those_of_many_simulated_votes(tmp_path):
    """Expected votes, and the distribution of drawn groups of raters, by Monte Carlo over the recipe of the simulation."""
    corpus = small(tmp_path / "corpus", clips_per_speaker=1, annotators=4, ratings=(4, 4))
    truth = read_truth(corpus)
    targets = make_targets(SimulatedCorpus(corpus).read_votes(), ("activation", "valence"), "kde")
    items, names = np.repeat(np.arange(3), 5), np.tile(["r001", "r002", "r003", "r004", "n002"], 3)
    like = Predictions(
        items=list(truth.items.index),
        support=targets.support,
        probs=np.full((3, 16), 1 / 16),
        questions=targets.questions,
        rater_items=items[::-1],
        rater_names=names[::-1],
        rater_values=np.zeros((15, 2)),
        rater_fallback=np.zeros(15, bool),
    )
    best = truth.best(like)
    rng, count = np.random.default_rng(0), 200_000
    raters, drawn = pd.concat([truth.raters, truth.newcomers]), {}
    for item, name, value in zip(best.rater_items, best.rater_names, best.rater_values, strict=True):
        clip, rater = truth.items.iloc[item], raters.loc[name]
        for column, question in enumerate(("activation", "valence")):
            perceived = rater[f"scale_{question}"] * clip[question] + rater[f"bias_{question}"]
            perceived = perceived + rater["noise"] * clip["ambiguity"] * rng.normal(size=count)
            votes = (np.clip(np.round(3 + 2 * perceived), 1, 5) - 3) / 2
            assert value[column] == pytest.approx(votes.mean(), abs=0.006)
            drawn.setdefault((item, name), []).append(votes)
    # Means of random subsets of the raters' votes, plus uniform noise as wide as the votes' spread: the targets' own recipe.
    for item in range(3):
        votes = np.stack([drawn[item, name] for name in ("r001", "r002", "r003", "r004", "n002")])
        votes = votes[..., :60_000].transpose(2, 0, 1)
        keys, size = rng.random((60_000, 5)), rng.integers(1, 6, (60_000, 1))
        chosen = keys.argsort(1).argsort(1) < size
        mean = (votes * chosen[..., None]).sum(1) / size
        wide = np.sqrt(votes.var(axis=1, ddof=1).mean(0))
        seen = np.clip(mean + wide * (rng.random(mean.shape) - 0.5), -1, 1)
        cells = np.clip(((seen + 1) * 2).astype(int), 0, 3)
        share = np.bincount(4 * cells[:, 0] + cells[:, 1], minlength=16) / len(cells)
        assert 0.5 * abs(best.probs[item] - share).sum() < 0.12


def test_the_truth_answers_for_its_own_corpus_only(tmp_path):
    truth = read_truth(small(tmp_path / "corpus"))
    question = (SimulatedCorpus.questions[0],)
    told = {"support": ("a 1/2", "a 2/2"), "probs": [[0.5, 0.5]], "questions": question}
    asked = {"rater_items": [0], "rater_values": [[0.0]], "rater_fallback": [False]}
    with pytest.raises(ValueError, match="The truth knows no item 'elsewhere'"):
        truth.best(Predictions(items=["elsewhere"], rater_names=["r001"], **told, **asked))
    with pytest.raises(ValueError, match="The truth knows no rater 'somebody'"):
        truth.best(Predictions(items=["s001_c001"], rater_names=["somebody"], **told, **asked))
    with pytest.raises(ValueError, match="The ceiling needs scale questions, and a rater's answer to every item"):
        truth.best(Predictions(items=["s001_c001"], **told))


def test_it_exports(tmp_path):
    report = export_corpus(SimulatedCorpus(small(tmp_path / "corpus")), tmp_path / "out")
    assert report.findings == () and report.splits == {"train": 2, "validation": 2, "test": 2}
    assert len(read_export(tmp_path / "out").votes) == report.votes


def test_an_earlier_simulation_is_replaced_and_nothing_else(tmp_path):
    small(tmp_path / "corpus")
    small(tmp_path / "corpus", seed=3)
    (tmp_path / "corpus" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="left alone"):
        small(tmp_path / "corpus")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"speakers": 2}, "speakers is 2"),
        ({"speakers": 6, "held_out": 3}, "held_out is 3"),
        ({"clips_per_speaker": 0}, "clips_per_speaker 0"),
        ({"ratings": (0, 3)}, r"ratings is \(0, 3\)"),
        ({"ratings": (4, 3)}, r"ratings is \(4, 3\)"),
        ({"ratings": (2, 6)}, "<= 5 raters"),
    ],
)
def test_impossible_numbers(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        small(tmp_path / "corpus", **options)
    assert not (tmp_path / "corpus").exists()


def test_truth_of_another_folder(tmp_path):
    with pytest.raises(ValueError, match="no simulated corpus"):
        read_truth(tmp_path)
    with pytest.raises(ValueError, match="items.csv is not in"):
        SimulatedCorpus(tmp_path).read_items()


@pytest.mark.parametrize("ambiguity", [0.3, 1.7])
@pytest.mark.parametrize("valence", [-1, 1])
@pytest.mark.parametrize("activation", [-1, 1])
def test_the_corners_of_the_plane_are_sound(activation, valence, ambiguity):
    voice = {"pitch": 110.0, "tract": 1.0, "gain": 0.0}
    wave = synthesise(activation, valence, ambiguity, voice, np.random.default_rng(0))
    assert np.isfinite(wave).all() and np.abs(wave).max() <= 1 and wave.std() > 0.01


def test_as_many_speakers_as_wanted_are_held_out(tmp_path):
    items = pd.read_csv(simulate_corpus(tmp_path, speakers=7, clips_per_speaker=1, held_out=2) / "items.csv")
    assert items["split"].value_counts().to_dict() == {"train": 3, "validation": 2, "test": 2}
