"""The database of a run: what is in it, and when it is damaged, full or gone."""

import collections
import errno
import itertools
import json
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from answers import PAID, first
from hypothesis import given, strategies as st

from annot_hf.data.synthetic import read_annotations
from annot_hf.proxies.store import IDENTITY, RESERVE, Store, export_attempts, open_store, read_store
from benchmarks.chat_server import Reply


def test_a_votes_file_that_was_edited_is_made_again_from_the_log(ask, tmp_path):
    ask(first)
    path = tmp_path / "out" / "votes.parquet"
    before = path.read_bytes()
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)
    with pytest.raises(ValueError, match="edited"):
        read_annotations(tmp_path / "out")
    ask(first)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_text("no database"),
        lambda path: path.write_bytes(path.read_bytes()[:-5000]),
        lambda path: path.write_bytes(path.read_bytes()[:4096] + b"x" * 4096 + path.read_bytes()[8192:]),
        lambda path: (path.unlink(), sqlite3.connect(path).execute("CREATE TABLE run (id)")),
    ],
    ids=["text", "cut", "overwritten", "another"],
)
def test_a_damaged_database_is_named_before_anything_is_asked(ask, tmp_path, damage):
    ask(first)
    damage(tmp_path / "out" / "attempts.sqlite")
    with pytest.raises(ValueError, match="out/attempts.sqlite cannot be opened as the database of a run"):
        ask(lambda *_: pytest.fail("nothing is asked"))


@pytest.mark.parametrize(
    ("options", "changed"),
    [({"plan": "crossed"}, "plan"), ({"parsing": "published"}, "parsing"), ({"seed": 1}, "seed")],
)
def test_another_run_in_the_same_folder_is_refused(ask, job, options, changed):
    ask(first)
    with pytest.raises(ValueError, match=f"holds a run of another {changed}"):
        ask(first, job(**options))
    with pytest.raises(ValueError, match="another model"):
        ask(first, model="other")


def test_a_full_disk_ends_the_run_and_keeps_what_was_under_way(ask, job, small_disk, tmp_path):
    def answer(question, number):
        if number == 9:
            small_disk(0)
        return Reply("anger " * 1600, usage=PAID)

    report, server = ask(answer, job(annotators=10), concurrency=4)
    assert "attempts.sqlite cannot be written" in report.stopped and "full" in report.stopped
    assert report.counts["off-list"] == report.spent == len(server.questions) < 80
    assert not any("not be written" in note for note in report.notes)
    (tmp_path / "out" / "filler").unlink()
    report, more = ask(first, job(annotators=10))
    assert report.counts["label"] == len(more.questions) == 80 - len(server.questions)
    assert not set(more.keys) & set(server.keys)
    assert not any("under way" in note for note in report.notes)


def test_a_disk_without_room_is_named_before_anything_is_asked(ask, small_disk):
    small_disk(600_000)
    with pytest.raises(ValueError, match=r"cannot be written \(.*No space left on device\); nothing was asked"):
        ask(lambda *_: pytest.fail("nothing is asked"))
    small_disk(2_500_000)
    assert ask(first)[0].counts["label"] == 24


def full_disk():
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    return error


def failing(monkeypatch, rows, *, new):
    """After so many rows, new attempts, or else the ends of attempts, cannot be written, as on a disk that is full."""
    real, count = Store._write_row, itertools.count()

    def fail(self, number, values):
        if (number is None) == new and next(count) >= rows:
            raise full_disk()
        return real(self, number, values)

    monkeypatch.setattr(Store, "_write_row", fail)


def test_what_waits_is_stored_together(ask, monkeypatch):
    groups, real = [], Store.write

    def write(self, group):
        groups.append(len(group))
        return real(self, group)

    monkeypatch.setattr(Store, "write", write)
    report, _ = ask(first, concurrency=4)
    assert report.counts["label"] == 24
    assert groups[0] == 4 and sum(groups) == 2 * 24


def test_of_a_group_the_answers_are_stored_in_the_reserve_and_no_new_attempt(job, tmp_path, monkeypatch):
    made, full = job(items=3, annotators=1), []

    def commit(self, group):
        if not full:
            full.append(True)
            raise full_disk()
        return real(self, group)

    attempts = [{"item": made.names[row], "annotator": 0, "begun": "now"} for row in made.rows]
    with open_store(tmp_path / "out", made.facts("m", "", 64), made.names, made.rows, at="now") as store:
        (numbers,) = store.write([[(None, one) for one in attempts[:2]]])
        real = Store._commit
        monkeypatch.setattr(Store, "_commit", commit)
        ends = [[(number, {"status": "refusal"})] for number in numbers]
        written, failed, also = store.write([ends[0], [(None, attempts[2])], ends[1]])
        assert ([*written, *also], store.full, store.counts()["refusal"]) == (numbers, True, 2)
        assert "full" in str(failed) and store.counts()["not asked"] == 1
        assert not (tmp_path / "out" / "attempts.reserve").exists()


def test_only_what_is_stored_is_a_vote_and_the_rest_is_shown_and_counts_as_paid(ask, tmp_path, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        failing(patch, 5, new=False)
        report, server = ask(lambda *_: Reply("anger", usage=PAID), concurrency=4)
    # answers that came together are stored together, or not at all
    asked, stored = len(server.questions), report.counts["label"]
    assert 1 <= stored <= 5 and stored < asked < 24
    assert report.counts == dict.fromkeys(report.counts, 0) | {"label": stored, "not asked": 24 - stored}
    assert report.spent == len(read_annotations(tmp_path / "out").votes) == stored
    assert len(pq.read_table(tmp_path / "out" / "replies.parquet")) == stored
    lost = asked - stored
    assert f"{lost} answers could not be written" in " ".join(report.notes)
    shown = [json.loads(line.removeprefix("not saved: ")) for line in caplog.messages if line.startswith("not saved: ")]
    assert [one["reply"] for one in shown] == ["anger"] * lost
    report, more = ask(lambda *_: Reply("anger", usage=PAID), max_cost=23, concurrency=1)
    assert report.counts["label"] == 23 - lost  # each that is not stored counts as much as the dearest
    assert f"{lost} questions were under way" in " ".join(report.notes)


def test_where_an_attempt_cannot_be_stored_it_is_not_sent(ask, monkeypatch):
    with monkeypatch.context() as patch:
        failing(patch, 5, new=True)
        report, server = ask(lambda *_: Reply("anger", usage=PAID), concurrency=1)
    assert report.asked == len(server.questions) == report.counts["label"] == 5
    assert "cannot be written (database or disk is full)" in report.stopped
    report, more = ask(lambda *_: Reply("anger", usage=PAID), max_cost=24, concurrency=1)
    assert report.counts["label"] == 24
    assert "under way" not in " ".join(report.notes)


def test_a_disk_that_is_full_when_the_votes_are_written(ask, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("annot_hf.proxies.annotate.write_annotations", full)
        with pytest.raises(
            ValueError, match=r"votes of .* cannot be written \(No space left on device\); attempts.sqlite has"
        ):
            ask(first)
    report, server = ask(first)
    assert (report.counts["label"], server.questions) == (24, [])


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.unlink(),
        lambda path: path.rename(path.with_name("mine.sqlite")),
        lambda path: path.parent.rename(path.parent.with_name("moved")),
        lambda path: (shutil.copy(path, path.with_name("copy")), path.with_name("copy").replace(path)),
        lambda path: path.write_bytes(b""),
        lambda path: path.with_name(f"{path.name}-wal").unlink(),
    ],
    ids=["deleted", "renamed", "folder", "replaced", "emptied", "wal"],
)
def test_a_database_that_goes_away_ends_the_run_at_once(ask, tmp_path, caplog, change):
    asked = []

    def answer(question, number):
        asked.append(number)
        if number == 5:
            change(tmp_path / "out" / "attempts.sqlite")
        return Reply("anger", usage=PAID)

    with pytest.raises(ValueError, match=r"out/attempts.sqlite(-wal)? was .* meanwhile: put it back and run again"):
        ask(answer, concurrency=2)
    assert len(asked) <= 7  # what was under way, and what was already begun
    assert not (tmp_path / "out" / "votes.parquet").exists()
    assert any('"status": "label"' in line for line in caplog.messages)  # paid for, and shown


def test_a_database_that_is_put_back_has_every_answer_that_was_stored(ask, tmp_path):
    path = tmp_path / "out" / "attempts.sqlite"

    def answer(question, number):
        if number == 5:
            path.rename(tmp_path / "mine.sqlite")
        return Reply("anger", usage=PAID)

    with pytest.raises(ValueError, match="put it back"):
        ask(answer, concurrency=1)
    (tmp_path / "mine.sqlite").rename(path)
    report, server = ask(first)
    assert (report.counts["label"], len(server.questions)) == (24, 20)


ENDS = st.one_of(
    st.fixed_dictionaries(
        {
            "place": st.tuples(st.integers(0, 1), st.integers(0, 1)),
            "parsed": st.sampled_from(["label", "refusal"]),
            "right": st.booleans(),
            "label": st.integers(0, 2),
            "cost": st.sampled_from([0.5, 2.0, None]),
        }
    ),
    st.fixed_dictionaries(
        {
            "place": st.tuples(st.integers(0, 1), st.integers(0, 1)),
            "status": st.sampled_from(["rejected", "failed", "not sent", None]),
        }
    ),
)


@given(st.lists(ENDS, max_size=12), st.booleans())
def test_what_counts_of_all_attempts_at_a_question(ends, accepted):
    facts = dict.fromkeys(IDENTITY) | {"model": "m", "question": {"labels": ["x", "y", "z"]}, "annotators": [{}, {}]}
    options = {"answers_as": "other" if accepted else ""}
    with read_store(Path("nowhere"), facts, ["a", "b"], np.array([1, 0]), **options) as store:
        for end in ends:
            row, annotator = end["place"]
            attempt = {"item": "ab"[row], "annotator": annotator, "begun": "now", "status": end.get("status")}
            if "parsed" in end:
                attempt |= {"status": end["parsed"] if end["right"] else "wrong-model", "parsed": end["parsed"]}
                attempt |= {"model": "m" if end["right"] else "other", "cost": end["cost"]}
                attempt |= {"label": "xyz"[end["label"]] if end["parsed"] == "label" else None}
            store.write([[(None, attempt)]])
        votes, counts, totals, open_ = store.votes(), store.counts(), store.totals(), store.open()
    # by hand: the first answer of the right model, else the first that was accepted later, else the last attempt
    chosen = {}
    for place in itertools.product(range(2), range(2)):
        mine = [end for end in ends if end["place"] == place and end.get("status", "") is not None]
        right = [end for end in mine if end.get("right")]
        later = [end for end in mine if accepted and end.get("right") is False]
        end = (right + later or mine[-1:] or [{}])[0]
        wrong = end.get("right") is False and not accepted
        chosen[place] = "wrong-model" if wrong else end.get("parsed", end.get("status", "not asked")), end
    expected = [[*place, end["label"]] for place, (status, end) in chosen.items() if status == "label"]
    assert votes.tolist() == expected
    assert {name: count for name, count in counts.items() if count} == collections.Counter(
        status for status, _ in chosen.values()
    )
    waits = {"not asked": 0, "wrong-model": 0, "failed": 1, "not sent": 2}
    left = [(waits[status], 1 - row, annotator) for (row, annotator), (status, _) in chosen.items() if status in waits]
    assert open_.tolist() == [[1 - row, annotator] for _, row, annotator in sorted(left)]
    costs = [end["cost"] for end in ends if "parsed" in end]
    known = [cost for cost in costs if cost is not None]
    assert (totals.answers, totals.unpriced, totals.spent) == (len(costs), len(costs) - len(known), sum(known))
    assert totals.dearest == max(known, default=None)


def test_another_error_than_a_full_disk_is_not_called_one(job, tmp_path, monkeypatch):
    made = job(items=3, annotators=1)
    with open_store(tmp_path / "out", made.facts("m", "", 64), made.names, made.rows, at="now") as store:
        (numbers,) = store.write([[(None, {"item": made.names[0], "annotator": 0, "begun": "now"})]])
        locked = sqlite3.OperationalError("database is locked")
        locked.sqlite_errorcode = sqlite3.SQLITE_BUSY

        def commit(self, group):
            raise locked

        monkeypatch.setattr(Store, "_commit", commit)
        with pytest.raises(sqlite3.OperationalError, match="database is locked"):
            store.write([[(numbers[0], {"status": "label"})]])
        assert not store.full and (tmp_path / "out" / RESERVE).exists()


def test_the_export_replaces_no_file_of_the_run(ask, tmp_path):
    ask(first)
    with pytest.raises(ValueError, match="does not end with .jsonl"):
        export_attempts(tmp_path / "out", tmp_path / "out" / "attempts.sqlite")
    assert ask(first)[0].counts["label"] == 24
