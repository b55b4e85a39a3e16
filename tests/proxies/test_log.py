import errno
import json
import os
import subprocess
import sys

import pytest
from hypothesis import given, strategies as st

from annot_hf.proxies.store import RESERVE, AnswerLog, line_of, read_entries, read_log, record_of

RECORDS = [{"kind": "asked", "item": f"a{number}", "text": 'é "x" \n, "crc": "0"'} for number in range(3)]


def write(folder, records=RECORDS):
    with AnswerLog(folder) as log:
        for record in records:
            log.append(record)
    return folder / "log.jsonl"


def test_records_come_back_in_order_and_as_plain_json(tmp_path):
    path = write(tmp_path / "out")
    assert list(read_log(path)) == RECORDS
    assert [json.loads(line)["item"] for line in path.read_text().splitlines()] == ["a0", "a1", "a2"]
    write(tmp_path / "out", RECORDS[:1])
    assert list(read_log(path)) == [*RECORDS, RECORDS[0]]


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.none() | st.floats(allow_nan=False), min_size=1))
def test_any_record_comes_back(record):
    assert record_of(line_of(record)[:-1]) == record


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_torn_end_is_put_aside_and_the_rest_is_kept(tmp_path, cut):
    path = write(tmp_path)
    whole = path.read_bytes()
    last = whole[:-1].rfind(b"\n") + 1
    path.write_bytes(whole[: len(whole) - cut])
    with AnswerLog(tmp_path) as log:
        assert log.torn == (0 if cut == 1 else len(whole) - cut - last)  # only its end of line was missing: whole
        log.append(RECORDS[0])
    kept = RECORDS if cut == 1 else RECORDS[:2]
    assert list(read_log(path)) == [*kept, RECORDS[0]]
    if cut > 1:
        assert (tmp_path / "log.torn").read_bytes() == whole[last : len(whole) - cut] + b"\n"


def test_a_line_in_the_middle_that_was_edited_is_named(tmp_path):
    path = write(tmp_path)
    path.write_text(path.read_text().replace("a1", "b1"))
    with pytest.raises(ValueError, match="log.jsonl, line 2: the record was cut off or changed by hand"):
        list(read_log(path))


@pytest.mark.parametrize("line", ["", "{}", "no json", '{"a": 1}', '{"a": 1, "crc": "00000000"}'])
def test_what_is_no_record(line):
    with pytest.raises(ValueError, match="checksum"):
        record_of(line)


def test_a_line_that_is_being_written_is_not_read(tmp_path):
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:-7])
    assert list(read_log(path)) == RECORDS[:2]


def test_two_runs_refuse_each_other(tmp_path):
    code = "import sys; from annot_hf.proxies.store import AnswerLog\nwith AnswerLog(sys.argv[1]): pass"
    with AnswerLog(tmp_path):
        other = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert "Another run is writing to" in other.stderr
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == 0


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be made"):
        AnswerLog(tmp_path / "file" / "out")


def fill(monkeypatch, folder, *, accept, for_ever=False):
    """From now on the disk takes only so many bytes, and more once the reserve is gone."""
    room, real = [accept], os.write

    def write(file, data):
        if not for_ever and not (folder / RESERVE).exists():
            return real(file, data)
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = real(file, data[: room[0]])
        room[0] -= written
        return written

    monkeypatch.setattr("annot_hf.proxies.store.os.write", write)


def test_a_full_disk_takes_the_reserve_and_loses_nothing(tmp_path, monkeypatch):
    with AnswerLog(tmp_path) as log:
        log.append(RECORDS[0])
        fill(monkeypatch, tmp_path, accept=10)  # in the middle of a line
        log.append(RECORDS[1])
        assert log.full
        log.append(RECORDS[2])
    assert list(read_log(log.path)) == RECORDS


def test_without_any_room_the_log_ends_with_a_whole_record(tmp_path, monkeypatch):
    with AnswerLog(tmp_path) as log:
        log.append(RECORDS[0])
        fill(monkeypatch, tmp_path, accept=10, for_ever=True)
        with pytest.raises(OSError, match="No space left"):
            log.append(RECORDS[1])
    assert list(read_log(log.path)) == RECORDS[:1]


def test_nothing_starts_without_room_for_the_reserve(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("annot_hf.proxies.store.os.write", full)
    with pytest.raises(ValueError, match="has no room for 1 MB"), AnswerLog(tmp_path):
        pass
    assert not (tmp_path / RESERVE).exists()


def test_a_blank_line_is_no_record_and_space_around_one_does_no_harm(tmp_path):
    path = write(tmp_path)
    path.write_text("".join(f" {line}\t\r\n\n" for line in path.read_text().splitlines()) + " \n", newline="")
    assert list(read_log(path)) == RECORDS


def test_an_entry_has_its_place_and_checksum(tmp_path):
    path = write(tmp_path)
    whole = path.read_bytes()
    with AnswerLog(tmp_path) as log:
        assert log.append(RECORDS[0]) == len(whole)
    found = list(read_entries(path))
    for entry in found:
        line = path.read_bytes()[entry.offset :].split(b"\n")[0]
        assert record_of(line.decode()) == entry.record
        assert line.endswith(f'"crc": "{entry.seal:08x}"}}'.encode())
    assert found[0].seal == found[3].seal != found[1].seal
