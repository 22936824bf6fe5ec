"""What callers hear while the database is away, and how soon after its return they are served."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, closing, contextmanager
from pathlib import Path
from uuid import UUID

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from deployments.inference.recorder import Recorder, utc_now
from deployments.telemetry.metrics import Instruments
from storage.anchors import AnchorFile
from storage.checkpoints import Checkpointer
from tests.api.house import INFER, JPEG, House
from tests.faults.client_ledger import ClientLedger, balance
from tests.faults.conftest import problem_of
from tests.faults.trial import AUDIT_S, BACK_S
from tests.postgres import PostgresServer
from tests.serve.films import film

CLIENTS = 4
AWAY_S = 5.0
UNAVAILABLE = {"audit-unavailable", "database-unavailable"}

pytestmark = pytest.mark.slow


@asynccontextmanager
async def recording(house: House, anchors: Path) -> AsyncIterator[None]:
    """The house records through the AuditWriter's core, which opens the log anew when it can."""
    checkpointer = Checkpointer(
        house.database,
        Ed25519PrivateKey.generate(),
        AnchorFile(anchors),
        now=utc_now,
        report=lambda _: None,
        alarm=lambda _: None,
    )
    recorder = Recorder(house.database, checkpointer, Instruments("audit-writer"))
    house.trail.write_through(recorder)
    try:
        yield
    finally:
        await recorder.close()


class Callers:
    """Clients that ask without end, as one process."""

    def __init__(self, house: House) -> None:
        self.ledger = ClientLedger()
        self.heard: list[tuple[float, float, httpx2.Response]] = []
        self._house = house
        self._ended = False

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(self._ask())
            yield
            self._ended = True

    async def until_answered(self, within_s: float) -> float:
        """Wait for an answer to something that was sent from now on."""
        started = time.monotonic()
        async with asyncio.timeout(within_s):
            while not self._answered_since(started):  # noqa: ASYNC110  # the tasks bring it about
                await asyncio.sleep(0.02)
        return time.monotonic() - started

    def _answered_since(self, moment: float) -> bool:
        return any(sent >= moment and answer.is_success for sent, _, answer in self.heard)

    async def _ask(self) -> None:
        client = self._house.client("clara")
        while not self._ended:
            sent = time.monotonic()
            answer = await client.post(INFER, content=film(), headers=JPEG)
            self.heard.append((sent, time.monotonic() - sent, answer))
            if answer.is_success:
                document = answer.json()
                audit = document["audit"]
                self.ledger.hear(
                    UUID(document["result_id"]), audit["seq"], bytes.fromhex(audit["entry_hash"])
                )
            await asyncio.sleep(0.02)


@contextmanager
def stopped(url: str, server: PostgresServer) -> Iterator[None]:
    server.stop()
    try:
        yield
    finally:
        server.start()


@contextmanager
def frozen(url: str, server: PostgresServer) -> Iterator[None]:
    server.freeze()
    try:
        yield
    finally:
        server.thaw()


@contextmanager
def locked(url: str, server: None) -> Iterator[None]:
    """Somebody else holds SQLite's one lock for writing."""
    file = url.removeprefix("sqlite+aiosqlite:///")
    connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    with closing(connection):
        connection.execute("BEGIN IMMEDIATE")
        yield


@asynccontextmanager
async def off_the_loop(away: AbstractContextManager[None]) -> AsyncIterator[None]:
    """Begin and end the fault in a thread: the house, which shares this loop, must go on.

    It may hold the very lock that the fault waits for.
    """
    await asyncio.to_thread(away.__enter__)
    try:
        yield
    finally:
        await asyncio.to_thread(away.__exit__, None, None, None)


async def ask_while_away(
    house: House, anchors: Path, away: AbstractContextManager[None]
) -> tuple[Callers, list[tuple[float, httpx2.Response]], float]:
    """The callers, what those heard who asked meanwhile, and the time to the first answer."""
    callers = Callers(house)
    async with recording(house, anchors), callers.asking():
        await callers.until_answered(20)
        async with off_the_loop(away):
            gone = time.monotonic()
            await asyncio.sleep(AWAY_S)
            back = time.monotonic()
        first_s = await callers.until_answered(20)
    heard = [
        (took_s, answer) for sent, took_s, answer in callers.heard if gone < sent < back - AUDIT_S
    ]
    return callers, heard, first_s


async def expect_closed(house: House, anchors: Path, away: AbstractContextManager[None]) -> None:
    callers, heard, first_s = await ask_while_away(house, anchors, away)

    assert heard
    assert {answer.status_code for _, answer in heard} == {503}
    assert {problem_of(answer) for _, answer in heard} <= UNAVAILABLE
    assert all(int(answer.headers["Retry-After"]) > 0 for _, answer in heard)
    assert max(took_s for took_s, _ in heard) <= AUDIT_S
    assert first_s <= BACK_S
    found = await balance(house.database, callers.ledger)
    assert found.whole, found
    assert found.acked >= 2


@pytest.mark.postgres
@pytest.mark.parametrize("away", [stopped, frozen])
async def test_while_postgresql_is_away_nobody_is_answered_with_success_and_then_soon(
    house_at: Callable[..., House],
    postgres_url: str,
    postgres: PostgresServer,
    tmp_path: Path,
    away: Callable[..., AbstractContextManager[None]],
) -> None:
    house = await house_at(postgres_url)  # type: ignore[misc]  # a coroutine function

    await expect_closed(house, tmp_path / "anchors.jsonl", away(postgres_url, postgres))


async def test_while_sqlite_is_locked_nobody_is_answered_with_success_and_then_soon(
    house_at: Callable[..., House], sqlite_url: str, tmp_path: Path
) -> None:
    house = await house_at(sqlite_url)  # type: ignore[misc]  # a coroutine function

    await expect_closed(house, tmp_path / "anchors.jsonl", locked(sqlite_url, None))
