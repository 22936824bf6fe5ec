"""SQLite statements in one trip to the connection's thread instead of three or four.

`aiosqlite` runs a connection in a thread. Through SQLAlchemy a statement goes there once to make a
cursor, once to run it, once for its rows and once to close it, and each way back wakes the loop:
0.1 ms here, more than most statements take, twenty times in the transaction of one audit entry.
Here a cursor is made, run and read in the same trip, and needs no closing once all is read.

Only the trips are fewer. A result that is longer than `AT_ONCE` rows is read on as before, so that
a stream stays one.
"""

import sqlite3
from collections.abc import Callable, Iterable
from typing import Any, Final

import aiosqlite

AT_ONCE: Final = 256  # rows that come along with the statement

Rows = list[Any]


class OneTripConnection(aiosqlite.Connection):
    """A connection whose cursors cost nothing until they are used."""

    def cursor(self) -> "OneTripCursor":  # type: ignore[override]  # SQLAlchemy enters it, nobody awaits it
        """A cursor that is made with its first statement."""
        return OneTripCursor(self)

    async def in_thread(self, work: Callable[..., Any], *arguments: object) -> Any:
        """What `work` returns, called in the connection's thread."""
        return await self._execute(work, *arguments)  # type: ignore[no-untyped-call]  # it is not typed there

    def run(
        self, method: str, sql: str, parameters: Iterable[Any]
    ) -> tuple[sqlite3.Cursor, Rows, bool]:
        """In the thread: a cursor, its first rows, and whether those are all."""
        cursor = self._conn.cursor()
        getattr(cursor, method)(sql, parameters)
        if cursor.description is None:
            return cursor, [], True
        rows = cursor.fetchmany(AT_ONCE)
        return cursor, rows, len(rows) < AT_ONCE


class OneTripCursor(aiosqlite.Cursor):
    """See the module's docstring."""

    def __init__(self, connection: OneTripConnection) -> None:
        self._there = connection
        self._rows: Rows = []
        self._is_all = True

    async def execute(self, sql: str, parameters: Iterable[Any] | None = None) -> "OneTripCursor":
        """Run a statement, and bring its first rows."""
        return await self._ran("execute", sql, () if parameters is None else parameters)

    async def executemany(self, sql: str, parameters: Iterable[Iterable[Any]]) -> "OneTripCursor":
        """Run a statement for each of `parameters`."""
        return await self._ran("executemany", sql, parameters)

    async def fetchall(self) -> Rows:
        """The rows that were not given yet."""
        rows, self._rows = self._rows, []
        if not self._is_all:
            rows += await self._there.in_thread(self._cursor.fetchall)
            self._is_all = True
        return rows

    async def fetchmany(self, size: int | None = None) -> Rows:
        """The next `size` rows."""
        wanted = self._cursor.arraysize if size is None else size
        rows, self._rows = self._rows[:wanted], self._rows[wanted:]
        if len(rows) < wanted and not self._is_all:
            rows += await self._there.in_thread(self._cursor.fetchmany, wanted - len(rows))
        return rows

    async def fetchone(self) -> Any:
        """The next row, or None."""
        rows = await self.fetchmany(1)
        return rows[0] if rows else None

    async def close(self) -> None:
        """A statement whose rows are all read is over; another is ended in the thread."""
        if not self._is_all:
            await self._there.in_thread(self._cursor.close)

    async def _ran(self, method: str, sql: str, parameters: Iterable[Any]) -> "OneTripCursor":
        run = self._there.run
        self._cursor, self._rows, self._is_all = await self._there.in_thread(
            run, method, sql, parameters
        )
        return self


def connect(database: str, **options: Any) -> OneTripConnection:
    """A connection, still to be awaited. `options` are those of `sqlite3.connect`."""
    connection = OneTripConnection(lambda: sqlite3.connect(database, **options), AT_ONCE)
    connection._thread.daemon = True  # noqa: SLF001  # as SQLAlchemy does: an exit must not wait for it
    return connection
