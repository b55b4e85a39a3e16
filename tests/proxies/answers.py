"""What tests of annotate share beside fixtures."""

import contextlib
import sqlite3

PAID = {"prompt_tokens": 100, "completion_tokens": 2, "cost": 1.0}


def first(question, number):
    """The first label of the question, whatever the question."""
    return question.text.split("\n- ")[1].split("\n")[0]


def change(folder, statement, *values):
    """Change the database of a folder by hand."""
    with contextlib.closing(sqlite3.connect(folder / "attempts.sqlite")) as database, database:
        database.execute(statement, values)
