"""The log of a run of `annotate`: one line of JSON a record, only ever appended to, so that no paid answer is lost.

A record is written in one call before the next thing happens, and ends with a checksum of itself: a line that was cut off
or changed by hand is found out. A little room on the disk is kept in reserve, so that what is under way when the disk is
full still finds its place.
"""

import errno
import json
import os
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from filelock import FileLock, Timeout

LOG, LOCK, RESERVE = "log.jsonl", "log.lock", "log.reserve"
RESERVED = 1 << 20  # bytes: many times what the questions under way can answer
SYNC_SECONDS = 1.0  # at most so much can be lost when the machine, not only the process, goes down
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MARK = ', "crc": "'


class AnswerLog:
    """The log of one folder, open for appending by this process alone; use it as a context manager.

    Args:
        folder: The folder; it is made if it is not there.

    Attributes:
        full: Whether the disk was full at the last record, which the reserve then took.
        torn: Bytes at the end that were no whole record and were cut off: a record that was being written when the
            machine went down.

    Raises:
        ValueError: Another run has the folder, or it cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"{self.folder} cannot be made ({error.strerror}); name another folder.") from None
        self.path = self.folder / LOG
        self._lock = FileLock(self.folder / LOCK, blocking=False)
        self.full, self.torn, self._synced, self._end = False, 0, 0.0, 0

    def __enter__(self) -> Self:
        try:
            self._lock.acquire()
        except Timeout:
            raise ValueError(
                f"Another run is writing to {self.folder}; wait for it, or name another folder with --out."
            ) from None
        try:
            self.torn = self._mend()
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            self._end = os.fstat(self._file).st_size
            self._keep_reserve()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)
        self.give_up_reserve()
        self._lock.release()

    def give_up_reserve(self) -> None:
        """Let others have the room that was kept: nothing more is asked."""
        (self.folder / RESERVE).unlink(missing_ok=True)

    def check(self) -> None:
        """Whether what was written is still there under its name: a deleted file takes records that nobody will read.

        Raises:
            OSError: It is not.
        """
        try:
            there, here = os.stat(self.path), os.fstat(self._file)
        except FileNotFoundError:
            raise OSError(errno.ESTALE, "it was deleted or moved meanwhile") from None
        if not os.path.samestat(there, here) or here.st_size != self._end:
            raise OSError(errno.ESTALE, "it was replaced or changed meanwhile")

    def append(self, record: Mapping[str, Any]) -> int:
        """Write one record; gives the byte that it begins at.

        Raises:
            OSError: The disk is full and the reserve is used up; the log then ends with the record before this one. Or the
                log is no longer there as it was written.
        """
        self.check()
        data, start = line_of(record).encode(), self._end
        try:
            self._write(data)
        except OSError as error:
            os.ftruncate(self._file, start)
            if error.errno not in _FULL or self.full:
                raise
            self.full = True
            self.give_up_reserve()
            try:
                self._write(data)
            except OSError:
                os.ftruncate(self._file, start)
                raise
        if time.monotonic() - self._synced > SYNC_SECONDS or self.full:
            os.fsync(self._file)
            self._synced = time.monotonic()
        self._end = start + len(data)
        return start

    def _write(self, data: bytes) -> None:
        _write_all(self._file, data)

    def _keep_reserve(self) -> None:
        """Real bytes, not a hole; without room for them there is none for answers either."""
        path = self.folder / RESERVE
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            try:
                _write_all(file, bytes(RESERVED))
            finally:
                os.close(file)
        except OSError as error:
            os.close(self._file)
            path.unlink(missing_ok=True)
            raise ValueError(
                f"{self.folder} has no room for {RESERVED >> 20} MB ({error.strerror}); free some before anything is asked."
            ) from None

    def _mend(self) -> int:
        """Cut off a last line that was not written to its end; keeps it aside in `log.torn` and gives its bytes."""
        if not self.path.is_file():
            return 0
        with self.path.open("rb+") as file:
            size = file.seek(0, os.SEEK_END)
            start, tail = size, b""
            while start and b"\n" not in tail:
                step = min(start, 1 << 16)
                start -= step
                file.seek(start)
                tail = file.read(step) + tail
            torn = tail[tail.rfind(b"\n") + 1 :]
            if not torn:
                return 0
            try:
                record_of(torn.decode())
            except ValueError:
                with (self.folder / "log.torn").open("ab") as aside:
                    aside.write(torn + b"\n")
                file.truncate(size - len(torn))
                return len(torn)
            file.seek(0, os.SEEK_END)  # whole but for its end of line
            file.write(b"\n")
            return 0


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


class Entry(NamedTuple):
    """A record, the byte of the log that it begins at, and its checksum."""

    offset: int
    seal: int
    record: dict[str, Any]


def read_entries(path: str | os.PathLike[str]) -> Iterator[Entry]:
    """Records of a log, one at a time; blank lines, and a last line without its end, which may be being written, are left out.

    Raises:
        ValueError: A line is no record, or was changed since it was written; the message has its number.
    """
    offset = 0
    with open(path, "rb") as lines:
        for number, data in enumerate(lines, 1):
            if not data.endswith(b"\n"):
                return
            line = data.decode(errors="replace").strip()  # what was put back by hand may have spaces around it
            if line:
                try:
                    yield Entry(offset, seal_of(line), record_of(line))
                except ValueError as error:
                    fix = (
                        "restore the log"
                        if number == 1
                        else "restore it, or take it out to have the question asked again, if it was one"
                    )
                    raise ValueError(f"{os.fspath(path)}, line {number}: {error}; {fix}.") from None
            offset += len(data)


def read_log(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The records of `read_entries` alone."""
    return (entry.record for entry in read_entries(path))


def line_of(record: Mapping[str, Any]) -> str:
    """A record as a line with its checksum."""
    body = json.dumps(record, ensure_ascii=True)
    return body[:-1] + _seal(body) + "\n"


def record_of(line: str) -> dict[str, Any]:
    """The record of a line without its end.

    Raises:
        ValueError: It is none, or its checksum is of another one.
    """
    body = line.rpartition(_MARK)[0] + "}"
    if line != body[:-1] + _seal(body):
        raise ValueError("the record was cut off or changed by hand (its checksum does not fit)")
    return json.loads(body)


def seal_of(line: str) -> int:
    """The checksum that a line ends with; 0 if it is no record."""
    try:
        return int(line[-10:-2], 16)
    except ValueError:
        return 0


def _seal(body: str) -> str:
    """What ends a record instead of its brace: the checksum as its last entry."""
    return f'{_MARK}{zlib.crc32(body.encode()):08x}"' + "}"
