"""SQLite through fewer trips to its thread: the same rows, streams that stay streams."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from storage import sqlite_trips
from storage.sqlite_trips import AT_ONCE, OneTripConnection

NUMBERS = text(
    "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < :last) "
    "SELECT x FROM n"
)


class Trips:
    """Counts what is done in the thread of a connection."""

    def __init__(self) -> None:
        self.made = 0

    def connect(self, database: str, **options: Any) -> OneTripConnection:
        connection = sqlite_trips.connect(database, **options)
        original = connection._execute

        async def counted(*arguments: Any, **named: Any) -> Any:
            self.made += 1
            return await original(*arguments, **named)  # type: ignore[no-untyped-call]

        connection._execute = counted  # type: ignore[method-assign]
        return connection


@pytest.fixture
def trips() -> Trips:
    """The count of one test."""
    return Trips()


@pytest.fixture
async def connection(tmp_path: Path, trips: Trips) -> AsyncIterator[AsyncConnection]:
    """A connection by SQLAlchemy."""
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{tmp_path}/x.db", connect_args={"async_creator_fn": trips.connect}
    )
    async with engine.connect() as opened:
        await opened.execute(text("CREATE TABLE t (x INTEGER PRIMARY KEY, y TEXT)"))
        yield opened
    await engine.dispose()


async def test_a_statement_with_its_rows_is_one_trip(
    connection: AsyncConnection, trips: Trips
) -> None:
    before = trips.made
    await connection.execute(text("INSERT INTO t VALUES (:x, :y)"), [{"x": 1, "y": "a"}])
    found = (await connection.execute(text("SELECT x, y FROM t"))).all()

    assert found == [(1, "a")]
    assert trips.made - before == 2


@pytest.mark.parametrize("last", [1, AT_ONCE - 1, AT_ONCE, AT_ONCE + 1, 3 * AT_ONCE + 7])
async def test_however_many_rows_there_are_all_come_in_order(
    connection: AsyncConnection, last: int
) -> None:
    every = (await connection.execute(NUMBERS, {"last": last})).scalars().all()
    streamed = [
        value
        async for value in await connection.stream_scalars(
            NUMBERS.execution_options(yield_per=100), {"last": last}
        )
    ]

    assert every == streamed == list(range(1, last + 1))


async def test_a_stream_that_is_left_early_has_read_little(connection: AsyncConnection) -> None:
    read: list[int] = []

    def seen(number: int) -> int:
        read.append(number)
        return number

    driver = (await connection.get_raw_connection()).driver_connection
    assert isinstance(driver, OneTripConnection)
    await driver.create_function("seen", 1, seen)
    query = text(f"SELECT seen(x) FROM ({NUMBERS})").execution_options(yield_per=10)  # noqa: S608  # no input
    stream = await connection.stream_scalars(query, {"last": 100_000})
    first = [await anext(stream) for _ in range(3)]
    await stream.close()

    assert first == [1, 2, 3]
    assert len(read) <= AT_ONCE + 1


async def test_a_closed_cursor_holds_no_lock(tmp_path: Path) -> None:
    connection = sqlite_trips.connect(str(tmp_path / "x.db"))
    await connection
    await connection.cursor().execute("CREATE TABLE t (x INTEGER PRIMARY KEY)")
    rows = [(x,) for x in range(2 * AT_ONCE)]
    await connection.cursor().executemany("INSERT INTO t VALUES (?)", rows)
    await connection.commit()
    cursor = await connection.cursor().execute("SELECT x FROM t")
    await cursor.close()
    await connection.cursor().execute("DROP TABLE t")  # refused while somebody reads it
    await connection.close()


async def test_rows_come_one_at_a_time_too(tmp_path: Path) -> None:
    connection = sqlite_trips.connect(str(tmp_path / "x.db"))
    await connection
    cursor = await connection.cursor().execute("VALUES (1), (2)")
    found = [await cursor.fetchone() for _ in range(3)]
    await cursor.close()
    await connection.close()

    assert found == [(1,), (2,), None]


async def test_the_number_of_changed_rows_and_errors_are_told_as_ever(tmp_path: Path) -> None:
    connection = sqlite_trips.connect(str(tmp_path / "x.db"))
    await connection
    await connection.cursor().execute("CREATE TABLE t (x INTEGER PRIMARY KEY)")
    inserted = await connection.cursor().executemany("INSERT INTO t VALUES (?)", [(1,), (2,)])
    with pytest.raises(sqlite3.IntegrityError):
        await connection.cursor().execute("INSERT INTO t VALUES (?)", (1,))
    await connection.close()

    assert inserted.rowcount == 2
