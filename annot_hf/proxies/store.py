"""The database of a run of `annotate`: one row an attempt, in SQLite.

A row is committed before its question is sent, and completed before anything else is done with the answer; an attempt without
an end was under way. What counts as the result of a question, what is left to ask and what was paid are queries.
"""

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from annot_hf.data.files import replace_file
from annot_hf.proxies.backend import Prices, is_model

# what a run is: to resume another one in the same folder is refused
IDENTITY = ("corpus_digest", "question", "plan", "model", "revision", "prompts", "parsing", "seed", "max_tokens")

DATABASE, WRITER, RESERVE = "attempts.sqlite", "attempts.lock", "attempts.reserve"
# bytes, many times what the questions under way can answer
RESERVED = 1 << 20

# How an attempt can end. Only "label" is a vote. After the first six a question is not asked again: the others are clips that
# could not be read here, answers of another model, and no answer.
STATUSES = ("label", "refusal", "off-list", "echo", "empty", "rejected", "not sent", "wrong-model", "failed")
ANSWERED, SETTLED = STATUSES[:5], STATUSES[:6]

# columns of an attempt that replies.parquet has too, in its order
_COLUMNS = (
    "status TEXT, label TEXT, reply TEXT, reason TEXT, model TEXT, revision TEXT, instruction TEXT, temperature REAL, "
    "seed INTEGER, omitted TEXT, prompt_sha256 TEXT, at TEXT, seconds REAL, tries INTEGER, input_tokens INTEGER, "
    "output_tokens INTEGER, cost REAL"
)
REPLY_COLUMNS = dict(column.split() for column in _COLUMNS.split(", "))

# status: NULL while the attempt is under way, and for ever if the process was killed
# parsed: the status of an answer, whichever model gave it
# lost: whether no answer was read that may have been paid for; body: what arrived instead
_TABLES = f"""
CREATE TABLE IF NOT EXISTS run (
  id INTEGER PRIMARY KEY, at TEXT NOT NULL, answers_as TEXT NOT NULL, facts TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS attempt (
  id INTEGER PRIMARY KEY, item TEXT NOT NULL, annotator INTEGER NOT NULL, attempt INTEGER NOT NULL,
  run INTEGER NOT NULL REFERENCES run, begun TEXT NOT NULL, {_COLUMNS},
  parsed TEXT, cut INTEGER, transcript_cut INTEGER, lost INTEGER, body TEXT, UNIQUE (item, annotator, attempt)
);
"""
# ended: `final` is what an attempt says of its question. outcome: of each question the attempt that counts, which is the first
# answer of the right model, else the first of a model that was accepted later, else the last attempt. state: every question
# of the job. SQLite takes the other columns of an aggregate with max() from the row of the maximum.
_VIEWS = """
CREATE TEMP TABLE asked (place INTEGER PRIMARY KEY, row INTEGER, item TEXT);
CREATE TEMP VIEW ended AS SELECT *,
  CASE WHEN status = 'wrong-model' AND accepts(model) THEN parsed
    WHEN status = 'rejected' AND run < {retried} THEN NULL ELSE status END AS final,
  CASE WHEN status IN {answered} THEN 2 WHEN status = 'wrong-model' AND accepts(model) THEN 1 ELSE 0 END AS rank,
  parsed IS NOT NULL AS answer, paid(cost, input_tokens, output_tokens) AS price
  FROM attempt WHERE status IS NOT NULL;
CREATE TEMP VIEW outcome AS SELECT id, item, annotator, final,
  max(CASE rank WHEN 0 THEN id ELSE (rank << 60) - id END) FROM ended GROUP BY item, annotator;
CREATE TEMP VIEW state AS
  WITH RECURSIVE number(annotator) AS (SELECT 0 UNION ALL SELECT annotator + 1 FROM number WHERE annotator < {last})
  SELECT place, row, annotator, final FROM asked CROSS JOIN number LEFT JOIN outcome USING (item, annotator);
"""

# an attempt to write: its number, or None for a new one, and its columns
Row = tuple[int | None, Mapping[str, Any]]


class Totals(NamedTuple):
    """Sums over all attempts in a folder."""

    answers: int
    # answers whose cost is not known; the cost of the others, and of the dearest of them, if any (USD)
    unpriced: int
    spent: float
    dearest: float | None
    # time that answers took (s)
    seconds: float
    # as far as servers report them
    input_tokens: int
    output_tokens: int
    # attempts without a readable answer, or under way when their run was killed, all of which may have been paid for
    lost: int
    cut_off: int
    # items whose transcript was cut, and answers to questions that had one before
    cut: int
    spare: int


class Store:
    """Attempts of one folder; made by `open_store` and `read_store`."""

    def __init__(
        self,
        database: sqlite3.Connection,
        path: Path,
        facts: Mapping[str, Any],
        items: Sequence[str],
        rows: np.ndarray,
        *,
        prices: Prices | None = None,
        answers_as: str = "",
        retry_rejected: bool = False,
        ignored: Sequence[str] = (),
    ) -> None:
        """See `open_store`; `ignored` are entries of `IDENTITY` that are not known."""
        self._db, self.path, self.items = database, path, items
        # whether the disk was full when an answer was written, which the reserve then made room for
        self.full = False
        self._row = {name: row for row, name in enumerate(items)}
        self.model, self.labels = facts["model"], list(facts["question"]["labels"])
        runs = database.execute("SELECT facts, answers_as FROM run ORDER BY id").fetchall()
        first = json.loads(runs[0][0]) if runs else facts
        changed = [name for name in IDENTITY if name not in ignored and first.get(name) != facts[name]]
        if changed:
            raise ValueError(
                f"{path.parent} holds a run of another {' and another '.join(changed)}; resume with what it was started with, "
                "or name another folder."
            )
        # further names under which the model may answer
        self.others = {answers_as, *(name for _, name in runs)} - {""}
        self.run = len(runs) + 1
        database.create_function("accepts", 1, self.accepts)
        database.create_function("paid", 3, (prices or Prices()).cost)
        retried, last = self.run if retry_rejected else 0, len(facts["annotators"]) - 1
        database.executescript(_VIEWS.format(retried=retried, answered=ANSWERED, last=last))
        with database:
            asked = ((int(row), items[row]) for row in rows)
            database.executemany("INSERT INTO asked (row, item) VALUES (?, ?)", asked)
        # what the files of the database were at the last look, once a run writes to them
        self._files: dict[Path, os.stat_result] = {}

    def accepts(self, model: str) -> bool:
        """Whether an answer of a model of this name is one of the model that was asked."""
        return is_model(model, self.model, self.others)

    def start(self, at: str, answers_as: str, facts: Mapping[str, Any]) -> None:
        """Write that a run begins."""
        with self._db:
            self._insert("run", {"id": self.run, "at": at, "answers_as": answers_as, "facts": json.dumps(facts)})
        files = self.path, Path(f"{self.path}-wal")
        self._files = {path: path.stat() for path in files if path.exists()}

    def check(self) -> None:
        """Raise an OSError unless the database is where it was opened: what goes into a deleted file is lost."""
        for path, known in self._files.items():
            try:
                found = path.stat()
            except OSError:
                raise OSError(f"{path.name} was deleted or moved meanwhile") from None
            if not os.path.samestat(found, known) or found.st_size < known.st_size:
                raise OSError(f"{path.name} was replaced or changed meanwhile")
            self._files[path] = found

    def write(self, group: Sequence[Sequence[Row]]) -> list[list[int] | Exception]:
        """Commit several writes together; returns the numbers of the attempts of each, or an error if none was written.

        Where the disk is full, the ends of attempts go into the room kept in reserve, and new attempts fail.
        """
        self.check()
        try:
            return self._commit(group)
        except sqlite3.Error as error:
            ends = [rows for rows in group if rows[0][0] is not None]
            if not ends or error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
                raise
            self.full = True
            self.give_up_reserve()
            numbers = iter(self._commit(ends))
            return [error if rows[0][0] is None else next(numbers) for rows in group]

    def _commit(self, group: Sequence[Sequence[Row]]) -> list[list[int]]:
        """Write all of a group, to the disk, or nothing."""
        with self._db:
            return [[self._write_row(number, values) for number, values in rows] for rows in group]

    def _write_row(self, number: int | None, values: Mapping[str, Any]) -> int:
        if number is not None:
            columns = ", ".join(f"{name} = ?" for name in values)
            self._db.execute(f"UPDATE attempt SET {columns} WHERE id = ?", [*_clean(values), number])
            return number
        which = "SELECT coalesce(max(attempt), 0) + 1 FROM attempt WHERE item = ? AND annotator = ?"
        (attempt,) = self._db.execute(which, (values["item"], values["annotator"])).fetchone()
        return self._insert("attempt", {**values, "attempt": attempt, "run": self.run})

    def give_up_reserve(self) -> None:
        """Free the room that was kept for answers under way."""
        (self.path.parent / RESERVE).unlink(missing_ok=True)

    def _insert(self, table: str, values: Mapping[str, Any]) -> int:
        columns = f"({', '.join(values)}) VALUES ({', '.join('?' * len(values))})"
        return self._db.execute(f"INSERT INTO {table} {columns}", _clean(values)).lastrowid

    def open(self) -> np.ndarray:
        """Questions still to be asked `(Q, 2)`: row of the item, and annotator; item by item in the order of the job."""
        # those that failed, and those whose clip could not be read, come last: they keep no other from being asked
        found = self._db.execute(
            f"SELECT row, annotator FROM state WHERE final IS NULL OR final NOT IN {SETTLED} "
            "ORDER BY CASE final WHEN 'failed' THEN 1 WHEN 'not sent' THEN 2 ELSE 0 END, place, annotator"
        )
        return np.fromiter(found, np.dtype((np.int64, 2)))

    def counts(self) -> dict[str, int]:
        """Questions of the job by how they ended, and those not asked yet."""
        found = dict(self._db.execute("SELECT coalesce(final, 'not asked'), count(*) FROM state GROUP BY 1"))
        return {name: found.get(name, 0) for name in (*STATUSES, "not asked")}

    def totals(self) -> Totals:
        """Sums over all attempts in the folder."""
        sums = self._db.execute(
            "SELECT coalesce(sum(answer), 0), count(*) FILTER (WHERE answer AND price IS NULL), "
            "coalesce(sum(price) FILTER (WHERE answer), 0.0), max(price) FILTER (WHERE answer), "
            "coalesce(sum(seconds), 0.0), coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0), "
            "coalesce(sum(lost), 0), (SELECT count(*) FROM attempt WHERE status IS NULL AND run < ?), "
            "count(DISTINCT CASE WHEN transcript_cut THEN item END), (SELECT coalesce(sum(answers - 1), 0) FROM "
            "(SELECT count(*) AS answers FROM ended WHERE rank > 0 GROUP BY item, annotator)) FROM ended",
            (self.run,),
        )
        return Totals(*sums.fetchone())

    def rejections(self) -> list[tuple[str, int]]:
        """Numbers of questions that were rejected in the end, by what the server said; the largest first."""
        rejected = "FROM outcome JOIN attempt USING (id) WHERE final = 'rejected'"
        return self._db.execute(f"SELECT reason, count(*) {rejected} GROUP BY reason ORDER BY 2 DESC, 1").fetchall()

    def omitted(self) -> dict[str, int]:
        """Numbers of answers to questions without a parameter that the server does not support, by its name."""
        given = self._db.execute("SELECT omitted FROM ended WHERE answer AND omitted != ''")
        return dict(Counter(name for (names,) in given for name in names.split(", ")))

    def votes(self) -> np.ndarray:
        """Votes `(V, 3)`: row of the item, annotator, and index of the label, in this order."""
        chosen = "SELECT a.item, a.annotator, a.label FROM outcome JOIN attempt AS a USING (id) WHERE final = 'label'"
        index = {label: place for place, label in enumerate(self.labels)}
        found = ((self._row[item], annotator, index[label]) for item, annotator, label in self._db.execute(chosen))
        votes = np.fromiter(found, np.dtype((np.int64, 3)))
        return votes[np.lexsort(votes.T[::-1])]

    def statuses(self) -> dict[str, int]:
        """Questions by how they ended, over all in the folder."""
        found = dict(self._db.execute("SELECT final, count(*) FROM outcome GROUP BY final"))
        return {name: found.get(name, 0) for name in STATUSES}

    def replies(self, block: int) -> Iterator[list[tuple[Any, ...]]]:
        """How each question ended, in the order they were asked: item, annotator and `REPLY_COLUMNS`, in blocks of rows."""
        known = {"status": "final", "label": "CASE final WHEN 'label' THEN label END"}
        columns = ", ".join(known.get(name, name) for name in REPLY_COLUMNS)
        # the numbers alone are sorted: whole rows would all be in memory at once
        outcomes = "ended WHERE id IN (SELECT id FROM outcome) AND final IS NOT NULL ORDER BY id"
        found = self._db.execute(f"SELECT item, annotator, {columns} FROM {outcomes}")
        # no block is kept while the next one is read
        return iter(lambda: found.fetchmany(block), [])


def _clean(values: Mapping[str, Any]) -> list[Any]:
    """The values, with `?` for half of a surrogate pair, which JSON can hold and SQLite and Arrow cannot."""
    return [one.encode(errors="replace").decode() if isinstance(one, str) else one for one in values.values()]


@contextmanager
def open_store(
    folder: Path, facts: Mapping[str, Any], items: Sequence[str], rows: np.ndarray, *, at: str, **options: Any
) -> Iterator[Store]:
    """The store of a folder for the one run that may write to it; a new run begins in it.

    `items` are all of the corpus, and `rows` those that are asked about, in order; for `options` see `annotate`.
    """
    path, reserve, lock = folder / DATABASE, folder / RESERVE, FileLock(folder / WRITER, blocking=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"Another run is writing to {folder}; wait for it, or name another folder with --out."
        ) from None
    except OSError as error:
        raise ValueError(f"{folder} cannot be written ({error.strerror}); name another folder.") from None
    try:
        with closing(_connect(path, f"PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; {_TABLES}")) as database:
            store = Store(database, path, facts, items, rows, **options)
            try:
                reserve.write_bytes(bytes(RESERVED))
                store.start(at, options.get("answers_as", ""), facts)
            except (OSError, sqlite3.Error) as error:
                raise ValueError(
                    f"{path} cannot be written ({error}); nothing was asked: free some room and run again."
                ) from None
            yield store
            # in another mode than WAL the database can be read without writing files beside it
            with suppress(sqlite3.Error):
                database.execute("PRAGMA journal_mode = DELETE")
    finally:
        reserve.unlink(missing_ok=True)
        lock.release()


@contextmanager
def read_store(
    folder: Path, facts: Mapping[str, Any], items: Sequence[str], rows: np.ndarray, **options: Any
) -> Iterator[Store]:
    """The store of a folder to look at, also while a run writes to it; an empty one where there is none yet."""
    path = folder / DATABASE
    with closing(_connect(path) if path.is_file() else _connect(":memory:", _TABLES)) as database:
        yield Store(database, path, facts, items, rows, **options)


def export_attempts(folder: Path, path: Path) -> None:
    """Write every attempt of a folder as a line of JSON, in the order they were made."""
    if path.suffix != ".jsonl":
        raise ValueError(f"{path} does not end with .jsonl, as a log of attempts must; name another file.")
    if not (folder / DATABASE).is_file():
        raise ValueError(f"{folder} has no {DATABASE}; name a folder that `annot-hf annotate` wrote.")
    with closing(_connect(folder / DATABASE)) as database:
        rows = database.execute("SELECT * FROM attempt ORDER BY id")
        names = [column[0] for column in rows.description]

        def write(partial: Path) -> None:
            with partial.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows)

        try:
            replace_file(path, write)
        except OSError as error:
            raise ValueError(f"{path} cannot be written ({error.strerror}); name another file.") from None


def _connect(path: Path | str, script: str = "") -> sqlite3.Connection:
    """A checked database; opened for reading alone if there is no `script` to run first."""
    try:
        # groups are written in threads, one at a time
        database = sqlite3.connect(
            path if script else f"{Path(path).absolute().as_uri()}?mode=ro",
            # seconds to wait for another process that holds the database
            timeout=60,
            uri=not script,
            check_same_thread=False,
        )
        try:
            database.executescript(f"PRAGMA temp_store = MEMORY; {script}")
            (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
            database.execute("SELECT facts, answers_as, item, parsed FROM run, attempt LIMIT 1")
            if found != "ok":
                raise sqlite3.DatabaseError(found)
        except BaseException:
            database.close()
            raise
    except sqlite3.Error as error:
        raise ValueError(
            f"{path} cannot be opened as the database of a run ({error}); restore it, free some room, or name another folder."
        ) from None
    return database
