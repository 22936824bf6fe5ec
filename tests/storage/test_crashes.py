"""Writers, and the server, killed in mid-work: what has a receipt is there, and nothing is half."""

import random
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest
from sqlalchemy import select

from registry.contract import Receipt
from registry.errors import MedAIError
from storage import ledger as ledger_module
from storage.database import Database
from storage.ledger import Ledger
from storage.tables import AuditLog
from storage.verify import verify

if TYPE_CHECKING:
    from conftest import OpenDatabase, Site, TestClock

    from tests.postgres import PostgresServer

KILLS = 10
SCRIPT = Path(__file__).with_name("writer_process.py")
ROOT = Path(ledger_module.__file__).parents[1]


def killed_writer(url: str, site: "Site", groups: int) -> Iterator[str]:
    """Start a writer, kill it while it works on group `groups` + 1; gives what it had told."""
    arguments = [url, str(site.user_id), str(site.model.id)]
    process = subprocess.Popen(
        [sys.executable, SCRIPT, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for _ in range(groups):
        yield from process.stdout.readline().split()
    process.kill()
    rest, _ = process.communicate()
    whole_lines = rest.rpartition("\n")[0]
    yield from whole_lines.split()


@pytest.mark.slow
async def test_ten_killed_writers_lose_nothing_and_leave_no_gap(
    url: str, site: "Site", clock: "TestClock"
) -> None:
    told: list[str] = []
    for _ in range(KILLS):
        told += killed_writer(url, site, random.randint(1, 12))  # noqa: S311  # any moment will do

    report = await verify(site.database)

    assert report.problems == ()
    async with site.database.reading() as session:
        recorded = {str(event_id) for event_id in await session.scalars(select(AuditLog.event_id))}
    assert len(told) >= KILLS
    assert set(told) <= recorded
    successor = Ledger(site.database, software_version="1", now=clock)
    await successor.open()
    assert isinstance((await successor.append([site.event()]))[0], Receipt)


@pytest.mark.postgres
async def test_a_server_killed_under_load_keeps_every_receipt(
    open_database: "OpenDatabase",
    postgres_url: str,
    postgres: "PostgresServer",
    site_of: "Callable[[Database], Awaitable[Site]]",
    clock: "TestClock",
) -> None:
    """The ledger heals by itself; what it could not record it says so of."""
    database = open_database(postgres_url)
    site = await site_of(database)
    ledger = Ledger(database, software_version="1", now=clock)
    await ledger.open()
    ended = await ledger.append([site.inference() for _ in range(8)])
    postgres.stop()
    ended += await ledger.append([site.inference() for _ in range(8)])
    postgres.start()

    with anyio.fail_after(20):
        while any(isinstance(last, MedAIError) for last in ended[-8:]):
            await anyio.sleep(0.02)
            ended += await ledger.append([site.inference() for _ in range(8)])

    receipts = [one for one in ended if isinstance(one, Receipt)]
    report = await verify(database)
    assert len(receipts) == 16
    assert report.problems == ()
    assert report.entries == receipts[-1].seq
