"""Transactions whose statements are known beforehand: one trip on SQLite, the same everywhere."""

import asyncio
import threading
from typing import TYPE_CHECKING
from uuid import uuid4

import anyio
import pytest
from sqlalchemy import func, insert, make_url, select, text
from sqlalchemy.orm import Session

from registry.errors import Conflict, DatabaseUnavailable, Internal
from storage.database import Database
from storage.tables import User

if TYPE_CHECKING:
    from conftest import OpenDatabase


def adds(session: Session, name: str) -> None:
    values = {"id": uuid4(), "username": name, "password_hash": "x", "role": "viewer"}
    session.execute(insert(User).values(values))


async def count(database: Database) -> int | None:
    async with database.reading() as session:
        return await session.scalar(select(func.count()).select_from(User))


async def test_all_of_it_is_kept(database: Database) -> None:
    def work(session: Session) -> None:
        adds(session, "a")
        adds(session, "b")

    await database.in_one_go(work)

    assert await count(database) == 2


async def test_what_fails_leaves_nothing_and_the_next_finds_no_lock(database: Database) -> None:
    def fails(session: Session) -> None:
        adds(session, "a")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await database.in_one_go(fails)

    await database.in_one_go(lambda session: adds(session, "b"))
    async with database.transaction() as session:
        await session.execute(text("DELETE FROM users"))
    assert await count(database) == 0


async def test_errors_are_ours(database: Database) -> None:
    await database.in_one_go(lambda session: adds(session, "a"))

    with pytest.raises(Conflict):
        await database.in_one_go(lambda session: adds(session, "a"))
    with pytest.raises(Internal):
        await database.in_one_go(lambda session: session.execute(text("SELECT nothing")))


async def test_sqlite_waits_for_the_lock_of_another_and_then_says_that_it_is_away(
    open_database: "OpenDatabase", sqlite_url: str
) -> None:
    database = open_database(sqlite_url, command_timeout_s=0.2)
    async with database.transaction() as session:
        await session.execute(text("SELECT 1"))

        with pytest.raises(DatabaseUnavailable):
            await database.in_one_go(lambda session: adds(session, "a"))

    await database.in_one_go(lambda session: adds(session, "a"))
    assert await count(database) == 1


async def test_a_missing_file_is_an_outage_and_is_not_made(
    open_database: "OpenDatabase", sqlite_url: str
) -> None:
    path = anyio.Path(str(make_url(sqlite_url).database))
    await path.unlink()
    database = open_database(sqlite_url)

    with pytest.raises(DatabaseUnavailable):
        await database.in_one_go(lambda session: adds(session, "a"))

    assert not await path.exists()


async def test_sqlite_needs_one_thread_which_ends_with_the_database(
    open_database: "OpenDatabase", sqlite_url: str
) -> None:
    database = open_database(sqlite_url)
    seen = set()

    def work(session: Session) -> None:
        seen.add(threading.current_thread())
        adds(session, f"user-{len(seen)}-{uuid4()}")

    await asyncio.gather(*(database.in_one_go(work) for _ in range(5)))
    await database.close()

    (thread,) = seen
    assert thread is not threading.main_thread()
    assert not thread.is_alive()


async def test_who_stops_waiting_does_not_stop_it(
    open_database: "OpenDatabase", sqlite_url: str
) -> None:
    database = open_database(sqlite_url)
    began, goes_on = threading.Event(), threading.Event()

    def work(session: Session) -> None:
        began.set()
        goes_on.wait(5)
        adds(session, "a")

    waiting = asyncio.create_task(database.in_one_go(work))
    await asyncio.to_thread(began.wait, 5)
    waiting.cancel()
    goes_on.set()
    await asyncio.wait({waiting})
    await database.in_one_go(lambda session: adds(session, "b"))

    assert await count(database) == 2
