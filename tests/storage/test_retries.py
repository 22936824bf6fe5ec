"""What passes by itself is asked again, nothing else, and callers hear in time whatever happens.

Between the server and PostgreSQL stands the relay of `relay`, which refuses, cuts and falls silent.
"""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import asyncpg  # type: ignore[import-untyped]
import pytest
from sqlalchemy import insert, make_url, select, text

from registry.errors import Conflict, DatabaseUnavailable, Internal, NotFound
from storage.circuit import CircuitState
from storage.database import Database, Session
from storage.retries import ATTEMPTS, passes
from storage.tables import User
from tests.storage.relay import Line, Relay
from tests.storage.test_database import user

if TYPE_CHECKING:
    from conftest import OpenDatabase

    from tests.postgres import PostgresServer

QUESTION = "SELECT '4711'"


class Door:
    """Where the relay listens. Slams the door in the face of the first `refusals` who come."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.refusals = 0
        self.came: list[float] = []

    async def accept(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        self.came.append(time.monotonic())
        if self.refusals:
            self.refusals -= 1
            answers.close()
            return
        await self.relay.accept(client, answers)


@pytest.fixture
async def door(postgres: "PostgresServer", tmp_path: Path) -> AsyncIterator[Door]:
    door = Door(Relay(postgres.socket_dir / ".s.PGSQL.5432"))
    server = await asyncio.start_unix_server(door.accept, tmp_path / ".s.PGSQL.5432")
    yield door
    server.close()
    await door.relay.stop()
    await server.wait_closed()


@pytest.fixture
def database(
    open_database: "OpenDatabase", door: Door, postgres_url: str, tmp_path: Path
) -> Database:
    """Reached through the door."""
    del door
    url = make_url(postgres_url).update_query_dict({"host": str(tmp_path)})
    return open_database(url.render_as_string())


class Asking:
    """A read that counts how often it is done."""

    def __init__(self) -> None:
        self.times = 0

    async def __call__(self, session: Session) -> str:
        self.times += 1
        found: Any = await session.scalar(text(QUESTION))
        return str(found)


async def after_a_while(work: Any) -> tuple[BaseException | None, float]:
    """How `work` fails, and after how many seconds."""
    started = time.monotonic()
    try:
        await work
    except Exception as error:  # noqa: BLE001  # the test looks at it
        return error, time.monotonic() - started
    return None, time.monotonic() - started


@pytest.mark.postgres
async def test_a_server_that_lets_nobody_in_for_a_moment_is_not_noticed(
    database: Database, door: Door
) -> None:
    door.refusals = ATTEMPTS - 1

    assert await database.ping() > 0

    assert len(door.came) == ATTEMPTS
    pauses = [after - before for before, after in zip(door.came, door.came[1:], strict=False)]
    assert pauses[0] >= 0.05
    assert pauses[-1] >= 0.2  # each at least twice the one before, beside the random part
    assert database.state().circuit is CircuitState.CLOSED
    assert database.state().fault is None


@pytest.mark.postgres
async def test_so_many_refusals_are_one_failure_and_callers_hear_in_time(
    database: Database, door: Door
) -> None:
    door.refusals = 1000

    error, seconds = await after_a_while(database.ping())

    assert isinstance(error, DatabaseUnavailable)
    assert len(door.came) == ATTEMPTS
    assert seconds < 1.5
    assert database.state().circuit is CircuitState.CLOSED  # two of them open it
    await after_a_while(database.ping())
    assert database.state().circuit is CircuitState.OPEN


@pytest.mark.postgres
async def test_who_looks_for_the_others_whether_the_server_is_back_tries_once(
    database: Database, door: Door
) -> None:
    door.refusals = 1000
    for _ in range(2):
        await after_a_while(database.ping())
    await anyio.sleep(1.05)
    assert database.state().circuit is CircuitState.HALF_OPEN
    before = len(door.came)

    await after_a_while(database.ping())

    assert len(door.came) == before + 1
    door.refusals = 0
    await anyio.sleep(1.05)
    assert await database.ping() > 0
    assert database.state().circuit is CircuitState.CLOSED


@pytest.mark.postgres
@pytest.mark.parametrize("line", [Line.CUT_QUESTION, Line.CUT_ANSWER])
async def test_a_read_whose_line_is_cut_is_done_again(
    database: Database, door: Door, line: Line
) -> None:
    asking = Asking()
    door.relay.cut(line, times=2, at=b"4711")

    assert await database.read(asking) == "4711"

    assert door.relay.cuts == 2
    assert asking.times == 3
    assert database.state().circuit is CircuitState.CLOSED


@pytest.mark.postgres
async def test_a_read_whose_line_is_always_cut_fails_in_time(
    database: Database, door: Door
) -> None:
    asking = Asking()
    door.relay.cut(Line.CUT_QUESTION, times=1000, at=b"4711")

    error, seconds = await after_a_while(database.read(asking))

    assert isinstance(error, DatabaseUnavailable)
    assert asking.times == ATTEMPTS
    assert seconds < 2


@pytest.mark.postgres
async def test_a_read_that_is_not_answered_fails_in_time(database: Database, door: Door) -> None:
    async def ask_while_it_falls_silent(session: Session) -> None:
        await session.execute(text("SELECT 1"))
        door.relay.fall_silent()
        await session.execute(text("SELECT 2"))

    error, seconds = await after_a_while(database.read(ask_while_it_falls_silent))

    assert isinstance(error, DatabaseUnavailable)
    assert seconds < 2
    door.relay.speak()


@pytest.mark.postgres
async def test_reads_of_a_silent_server_open_the_circuit(database: Database, door: Door) -> None:
    door.relay.fall_silent()

    ended = [await after_a_while(database.read(Asking())) for _ in range(3)]

    assert all(isinstance(error, DatabaseUnavailable) for error, _ in ended)
    assert max(seconds for _, seconds in ended) < 2
    assert ended[-1][1] < 0.05
    door.relay.speak()


@pytest.mark.postgres
@pytest.mark.parametrize("line", [Line.CUT_QUESTION, Line.CUT_ANSWER])
async def test_a_transaction_is_never_done_again(
    database: Database, door: Door, line: Line
) -> None:
    times = 0

    async def write() -> None:
        nonlocal times
        async with database.transaction() as session:
            times += 1
            await session.execute(insert(User).values(user("a")))

    door.relay.cut(line)
    error, _ = await after_a_while(write())

    assert isinstance(error, DatabaseUnavailable)
    assert times == 1
    found = await database.read(lambda session: session.scalar(select(User.username)))
    assert found == ("a" if line is Line.CUT_ANSWER else None)  # done, and nobody was told


async def test_what_does_not_pass_is_told_at_once(database_of_either: Database) -> None:
    times = 0

    async def wrong(session: Session) -> None:
        nonlocal times
        times += 1
        await session.execute(text("SELECT nothing FROM nowhere"))

    async def absent(_: Session) -> None:
        nonlocal times
        times += 1
        raise NotFound("no such row")

    with pytest.raises(Internal):
        await database_of_either.read(wrong)
    with pytest.raises(NotFound):
        await database_of_either.read(absent)

    assert times == 2


async def test_who_asks_by_read_cannot_write(database_of_either: Database) -> None:
    async def write(session: Session) -> None:
        await session.execute(insert(User).values(user("a")))

    with pytest.raises((Internal, Conflict, DatabaseUnavailable)):
        await database_of_either.read(write)

    async def count(session: Session) -> int:
        return len((await session.scalars(select(User.id))).all())

    assert await database_of_either.read(count) == 0


@pytest.fixture
def database_of_either(open_database: "OpenDatabase", url: str) -> Database:
    return open_database(url)


@pytest.mark.parametrize(
    ("error", "does"),
    [
        (ConnectionRefusedError(), True),
        (FileNotFoundError(), True),  # the server's socket, which comes with the server
        (socket.gaierror(), True),
        (TimeoutError(), False),
        (asyncpg.CannotConnectNowError(), True),
        (asyncpg.TooManyConnectionsError(), True),
        (asyncpg.AdminShutdownError(), True),
        (asyncpg.SerializationError(), True),
        (asyncpg.InvalidPasswordError(), False),
        (asyncpg.InvalidCatalogNameError(), False),
        (asyncpg.DiskFullError(), False),
        (asyncpg.QueryCanceledError(), False),
        (NotFound(), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_what_passes_and_what_a_person_must_mend(error: Exception, does: bool) -> None:
    assert passes(error) is does
