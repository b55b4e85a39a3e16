"""Segments of clips that raters marked: each is an item of its own, from the export of a tool to what a model hears."""

import io
import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import soundfile
from datasets import Audio, load_dataset

from annot_hf.data.audio import AudioLimits, audio_info, load_audio, wav_bytes
from annot_hf.data.corpus import VoteCorpus, check_items
from annot_hf.data.export import export_corpus, item_audio, read_export
from annot_hf.data.own_corpus import OwnCorpus
from annot_hf.data.own_votes import Reading, read_own_votes
from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable
from annot_hf.models.waves import AudioError
from annot_hf.report.opening import _heard
from annot_hf.training.features import _stamp

CLIPS = ["a.wav", "b.wav", "c.wav"]
# clip, rater, start, end, label; the times of the raters differ by less than 10 ms, but for the last
MARKED = [
    (clip, rater, place + slip, place + 1 - slip, "joy" if (place + n) % 2 else "sad")
    for clip in CLIPS
    for n, (rater, slip) in enumerate({"ann": 0, "ben": 0.004}.items())
    for place in (0, 2)
] + [("a.wav", "ben", 1.5, 2.25, "joy")]
NAMED = [
    (name, "a.wav", start, start + length, who, label)
    for name, start, length in (("u1", 0, 0.5), ("u2", 1, 1.5))
    for who, label in (("ann", "joy"), ("ben", "sad"))
]
WHOLE = {(clip, rater): "good" if rater == "ann" else "bad" for clip in CLIPS for rater in ("ann", "ben")}


def of(clip, rater):
    return [(start, end, label) for one, who, start, end, label in MARKED if (one, who) == (clip, rater)]


def label_studio(home):
    def results(clip, rater):
        yield {"from_name": "quality", "type": "choices", "value": {"choices": [WHOLE[clip, rater]]}}
        for n, (start, end, label) in enumerate(of(clip, rater)):
            times = {"start": start, "end": end, "channel": 0}
            yield {"id": f"r{n}", "from_name": "mood", "type": "labels", "value": times | {"labels": [label]}}
            yield {"id": f"r{n}", "from_name": "words", "type": "textarea", "value": times | {"text": ["so"]}}

    tasks = [
        {
            "id": n,
            "data": {"audio": f"/data/upload/1/{clip}"},
            "annotations": [
                {"completed_by": {"email": rater}, "result": list(results(clip, rater))} for rater in ("ann", "ben")
            ],
        }
        for n, clip in enumerate(CLIPS)
    ]
    (home / "p.json").write_text(json.dumps(tasks))
    return home / "p.json"


def label_studio_min(home, write=json.dumps, name="p.json"):
    rows = [
        {"audio": f"/data/upload/1/{clip}", "id": n, "quality": WHOLE[clip, rater]}
        | {"mood": [{"start": a, "end": b, "channel": 0, "labels": [label]} for a, b, label in of(clip, rater)]}
        | {"annotator": rater, "annotation_id": n, "lead_time": 1}
        for n, clip in enumerate(CLIPS)
        for rater in ("ann", "ben")
    ]
    if name.endswith(".csv"):
        pd.DataFrame(rows).assign(mood=[json.dumps(row["mood"]) for row in rows]).to_csv(home / name, index=False)
    else:
        (home / name).write_text(write(rows))
    return home / name


def label_studio_csv(home):
    return label_studio_min(home, name="p.csv")


def potato(home):
    for rater in ("ann", "ben"):
        state = {"user_id": rater, "instance_id_to_label_to_value": {}}
        for clip in CLIPS:
            segments = [
                {"id": f"segment_{n}", "start_time": a, "end_time": b, "label": label, "annotations": {}}
                for n, (a, b, label) in enumerate(of(clip, rater))
            ]
            state["instance_id_to_label_to_value"][clip] = [
                [{"schema": "quality", "name": WHOLE[clip, rater]}, "true"],
                [{"schema": "mood", "name": "_data"}, json.dumps({"segments": segments})],
            ]
        (home / rater).mkdir()
        (home / rater / "user_state.json").write_text(json.dumps(state))
    return home


def prodigy(home):
    tasks = [
        {"audio": clip, "_input_hash": 1, "_task_hash": 2, "answer": "accept", "_annotator_id": rater}
        | {"audio_spans": [{"start": a, "end": b, "label": label} for a, b, label in of(clip, rater)]}
        for clip in CLIPS
        for rater in ("ann", "ben")
    ]
    (home / "p.jsonl").write_text("\n".join(map(json.dumps, tasks)))
    return home / "p.jsonl"


def write_clips(folder):
    """Four seconds each, of a level that tells the second: 0.1, 0.2, 0.3, 0.4."""
    folder.mkdir()
    for n, clip in enumerate(CLIPS):
        rate = (16_000, 44_100, 8_000)[n]
        wave = np.repeat(np.arange(1, 5) / 10, rate)
        soundfile.write(folder / clip, np.stack([wave, wave], axis=1), rate, subtype="FLOAT")
    return folder


@pytest.mark.parametrize("write", [label_studio, label_studio_min, label_studio_csv, potato, prodigy])
def test_every_tool_gives_the_same_segments_and_every_vote(write, tmp_path):
    found = read_own_votes(write(tmp_path))
    mood = found.frame[found.frame["question"] != "quality"]
    wanted = Counter(
        (f"{clip}#{round(start, 2):.2f}-{round(end, 2):.2f}", rater, label) for clip, rater, start, end, label in MARKED
    )
    assert Counter(mood[["item", "annotator", "value"]].itertuples(index=False, name=None)) == wanted
    assert mood.groupby("item")["annotator"].nunique().value_counts().to_dict() == {2: 6, 1: 1}
    assert found.left_out["segments that only one rater marked"].count == 1
    assert found.facts["a.wav#1.50-2.25"] == {"audio": "a.wav", "start": "1.50", "end": "2.25"} or write is potato
    whole = found.frame[found.frame["question"] == "quality"]
    assert write is prodigy or {(item, who): value for item, who, _, value in whole.to_numpy()} == WHOLE
    # A clip is an item where its whole was voted on, and only there.
    assert [item for item in found.facts if "#" not in item] == ([] if write is prodigy else CLIPS)
    asked = read_own_votes(
        write(tmp_path / "again") if write is potato and (tmp_path / "again").mkdir() else found.path
    )
    assert asked.votes_read == found.votes_read


def test_a_table_may_name_segments(tmp_path):
    rows = [
        {"clip": clip, "onset": start, "offset": end, "rater": who, "label": label}
        for clip, who, start, end, label in MARKED
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "v.csv", index=False)
    found = read_own_votes(tmp_path / "v.csv")
    assert (found.columns["start"], found.columns["end"]) == ("onset", "offset") and found.votes_read == len(MARKED)
    assert found.frame.groupby("item")["annotator"].nunique().value_counts().to_dict() == {2: 6, 1: 1}
    # Segments that have names keep them.
    named = [dict(zip(("utterance", "file", "start", "end", "rater", "label"), one, strict=True)) for one in NAMED]
    pd.DataFrame(named).to_csv(tmp_path / "v.csv", index=False)
    found = read_own_votes(tmp_path / "v.csv")
    assert found.facts["u2"] == {"audio": "a.wav", "start": "1.00", "end": "2.50"} and set(found.facts) == {"u1", "u2"}
    corpus = OwnCorpus(found, write_clips(tmp_path / "clips"), reading=Reading(group="item"))
    assert len(found.frame) == 4 and corpus.has_audio
    # Offsets in a text are none, and neither are times of the day.
    for words in ({"text": "so good"}, {"start": "10:15"}):
        pd.DataFrame([one | words for one in named]).to_csv(tmp_path / "v.csv", index=False)
        assert not any("start" in facts for facts in read_own_votes(tmp_path / "v.csv").facts.values())
    pd.DataFrame([one | {"end": "0.2"} for one in named]).to_csv(tmp_path / "v.csv", index=False)
    with pytest.raises(
        ValueError, match=r"v\.csv: row 4: a region of 'u2' goes from 1 to 0\.2 s; correct its times, or give"
    ):
        read_own_votes(tmp_path / "v.csv")


def test_questions_of_a_segment_in_potato_are_questions(tmp_path):
    def state(rater, who, clarity):
        one = {"start_time": 0, "end_time": 1.5, "annotations": {"who": who, "rate": {"clear": clarity}, "cues": ["x"]}}
        drawn = json.dumps({"segments": [one, {"start_time": 2, "end_time": 3}]})
        labels = {"a.wav": [[{"schema": "parts", "name": "_data"}, drawn]]}
        (tmp_path / rater).mkdir()
        (tmp_path / rater / "user_state.json").write_text(
            json.dumps({"user_id": rater, "instance_id_to_label_to_value": labels})
        )

    state("ann", "host", "4")
    state("ben", "guest", "2")
    found = read_own_votes(tmp_path)
    assert {one.name for one in found.questions} == {"who", "rate/clear"} and set(found.frame["item"]) == {
        "a.wav#0.00-1.50"
    }
    counted = {reason: (one.count, one.votes) for reason, one in found.left_out.items()}
    assert counted == {"regions without a label": (2, 0), "votes on a question that has only one answer": (2, 2)}


@pytest.mark.parametrize("embed_audio", [False, True])
def test_an_export_holds_the_sound_of_each_segment(embed_audio, tmp_path):
    reading = Reading(question=["mood"])
    votes = read_own_votes(label_studio(tmp_path), reading)
    corpus = OwnCorpus(votes, write_clips(tmp_path / "clips"), reading=reading)
    report = export_corpus(corpus, tmp_path / "out", embed_audio=embed_audio)
    assert (report.items, report.votes, report.votes_left_out) == (7, 13, 19)
    items = read_export(tmp_path / "out").items.set_index("item")
    assert (items.groupby("file")["split"].nunique() == 1).all() and items["split"].nunique() == 3
    for item, row in items.iterrows():
        wave = load_audio(row["audio"])
        assert (
            len(wave) == pytest.approx(16_000 * row["seconds"], abs=2) and row["seconds"] == row["end"] - row["start"]
        )
        level = 0.1 + 0.1 * int(row["start"])
        # Resampling rings where the level changes.
        assert np.median(wave) == pytest.approx(level, abs=1e-3), item
    if embed_audio:
        for clip in CLIPS:
            (tmp_path / "clips" / clip).unlink()
    data = load_dataset(str(tmp_path / "out"), "items", cache_dir=str(tmp_path / "cache"))
    row = data[items["split"]["b.wav#2.00-3.00"]]
    row = row[row["item"].index("b.wav#2.00-3.00")]
    assert row["audio"]["path"] == ("b.wav" if embed_audio else "../clips/b.wav") and row["start"] == 2
    assert np.median(load_audio(item_audio(tmp_path / "out", row))) == pytest.approx(0.3, abs=1e-3)


def test_clips_are_not_divided_among_splits_unless_it_is_asked_for(tmp_path):
    votes = read_own_votes(prodigy(tmp_path))
    clips = write_clips(tmp_path / "clips")
    for fact in votes.facts.values():
        fact["split"] = "train" if fact["start"] == "0.00" else "test"
    with pytest.raises(ValueError, match=r"3 clips are in several splits, such as 'a\.wav'; move each .* --allow-leak"):
        check_items(corpus := OwnCorpus(votes, clips), corpus.read_items())
    corpus = OwnCorpus(votes, clips, allow_leak=True)
    assert len(check_items(corpus, corpus.read_items())) == 7
    for fact in votes.facts.values():
        del fact["split"]
    freely = OwnCorpus(votes, clips, reading=Reading(group="item"))
    check_items(freely, freely.read_items())
    assert "splits drawn by item, seed 0" in freely.findings


class Parts(VoteCorpus):
    name, questions, default_questions = "parts", (Question.category("mood", ["a", "b"]),), ("mood",)
    times = ((0.5, 1.0), (None, None))

    def read_items(self):
        starts, ends = zip(*self.times, strict=True)
        frame = pd.DataFrame({"item": ["x", "y"], "audio": "a.wav", "split": "train"})
        return frame.assign(start=pd.Series(starts, dtype=object), end=pd.Series(ends, dtype=object))

    def read_votes(self):
        return VoteTable.from_counts(self.questions[0], ["x", "y"], [[1, 1], [2, 0]])


def test_a_corpus_script_may_name_segments(tmp_path):
    corpus = Parts(write_clips(tmp_path / "clips"))
    assert export_corpus(corpus, tmp_path / "out").seconds == 4.5
    items = read_export(tmp_path / "out").items
    assert items["audio"][1] == str(tmp_path / "clips" / "a.wav") and items["audio"][0]["end"] == 1
    corpus.times = ((0.5, 1.0), (3.0, 4.04))
    assert export_corpus(corpus, tmp_path / "out").seconds == 1.5


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ((0.5, None), r"item 'x' goes from 0\.5 to None; columns start and end hold seconds of the clip, both or none"),
        (("now", 1), r"item 'x' goes from 'now' to 1; "),
        ((1, 1), r"x: a\.wav lasts 4\.00 s and has no segment from 1\.00 to 1\.00 s\. Correct its times\)"),
        ((5, 6), r"x: a\.wav lasts 4\.00 s and has no segment from 5\.00 to 6\.00 s"),
        ((3, 4.5), r"x: a\.wav ends before 4\.50 s, where a segment does"),
    ],
)
def test_times_that_cannot_be_are_refused(times, message, tmp_path):
    corpus = Parts(write_clips(tmp_path / "clips"))
    corpus.times = (times, (None, None))
    with pytest.raises(ValueError, match=message):
        export_corpus(corpus, tmp_path / "out")


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3"])
def test_a_segment_is_the_slice_of_the_decoded_clip(form, tmp_path):
    path = tmp_path / f"long.{form.lower()}"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 80_000), 16_000, format=form)
    whole = load_audio(path)
    part = {"path": path, "start": 1.25, "end": 3.5}
    np.testing.assert_allclose(load_audio(part), whole[20_000:56_000], atol=1e-6)
    assert audio_info(part).seconds == 2.25
    tail = load_audio({"bytes": path.read_bytes(), "start": 4.5, "end": 9})
    np.testing.assert_allclose(tail, whole[72_000:], atol=1e-6)
    limits = AudioLimits(max_seconds=3)
    assert len(load_audio(part, limits=limits)) == 36_000
    with pytest.raises(AudioError, match=r"at most 3 s"):
        load_audio({"path": path, "start": 0, "end": 4}, limits=limits)
    heard, rate = soundfile.read(io.BytesIO(wav_bytes(part, sampling_rate=8_000)))
    assert rate == 8_000 and heard.shape == (18_000,)


def test_segments_of_a_file_are_told_apart_and_can_be_heard(tmp_path):
    path = write_clips(tmp_path / "clips") / "a.wav"
    first, second = ({"bytes": None, "path": str(path), "start": start, "end": start + 1.0} for start in (0.0, 1.0))
    assert _stamp(first) != _stamp(second) and _stamp(first) != _stamp(str(path))
    inline, why_not = _heard(second)
    assert not why_not and inline["kind"] == "audio/wav" and len(inline["base64"]) < 50_000


def test_what_datasets_decodes_itself(tmp_path):
    """With the extra "audio": what is embedded."""
    try:
        import torchcodec  # noqa: F401
    except Exception as error:
        pytest.skip(f"torchcodec does not load: {error}")
    votes = read_own_votes(prodigy(tmp_path))
    export_corpus(OwnCorpus(votes, write_clips(tmp_path / "clips")), tmp_path / "out", embed_audio=True)
    data = load_dataset(str(tmp_path / "out"), "items", cache_dir=str(tmp_path / "cache"))["train"]
    heard = data.cast_column("audio", Audio(16_000))[0]["audio"].get_all_samples().data[0].numpy()
    np.testing.assert_allclose(heard, load_audio(data[0]["audio"]), atol=1e-4)
