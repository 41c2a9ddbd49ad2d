"""Rows grouped by their prompt, wherever in the files they stand: on disk, so that memory stays constant."""

import hashlib
import json
import pickle
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import groupby
from typing import Generic, TypeVar

from rlhf.errors import DataError

T = TypeVar("T")
_CACHE_KIB = 32_768
_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE prompts (number INTEGER PRIMARY KEY, digest BLOB UNIQUE);
CREATE TABLE answers (number INTEGER PRIMARY KEY, prompt INTEGER, answer BLOB);
BEGIN;
"""


class PromptGroups(Generic[T]):
    """Items added with their prompt in any order, given back prompt by prompt, in the order of first appearance.

    They lie in a private temporary database, which is gone when `groups` has ended.

    Raises:
        DataError: from every method, if the temporary folder's disk is full or fails.
    """

    def __init__(self) -> None:
        self._base = sqlite3.connect("", isolation_level=None)  # no name: a temporary file of SQLite's own
        self._base.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._base.executescript(_SCHEMA)

    def add(self, prompt: object, item: T) -> None:
        """Keep an item, which must be of what pickle takes, under its prompt (text, or what JSON can hold)."""
        digest = _digest(prompt)
        try:
            self._base.execute("INSERT OR IGNORE INTO prompts (digest) VALUES (?)", (digest,))
            self._base.execute(
                "INSERT INTO answers (prompt, answer) SELECT number, ? FROM prompts WHERE digest = ?",
                (pickle.dumps(item, pickle.HIGHEST_PROTOCOL), digest),
            )
        except sqlite3.Error as error:
            raise _full(error) from error

    def groups(self) -> Iterator[list[T]]:
        """The items of each prompt, in the order in which they were added; memory for one prompt at a time."""
        with closing(self._base):
            try:
                self._base.execute("CREATE INDEX by_prompt ON answers (prompt)")
                rows = self._base.execute("SELECT prompt, answer FROM answers ORDER BY prompt, number")
                for _, group in groupby(rows, key=lambda row: row[0]):
                    yield [pickle.loads(answer) for _, answer in group]
            except sqlite3.Error as error:
                raise _full(error) from error


def _digest(prompt: object) -> bytes:
    text = prompt if isinstance(prompt, str) else "\0" + json.dumps(prompt, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _full(error: sqlite3.Error) -> DataError:
    return DataError(
        f"answers could not be grouped by their prompts on disk: {error}",
        "Make room in the temporary folder, or set SQLITE_TMPDIR to a folder on a larger disk.",
    )
