"""Faults of the audit writer and its database. The writer is the service's own, without Ray.

Every function makes its fault happen `times` times at a place of its own, compares the client's
ledger with the records after each, and gives the row of the table.
"""

import random
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import anyio

from deployments.inference.recorder import utc_now
from registry.contract import Receipt
from registry.events import AuditAction
from storage.audit import AuditRepository
from storage.ledger import Ledger
from storage.verify import verify
from tests.faults.client_ledger import Balance
from tests.faults.place import Ground, Place, Volume, relayed, until, until_it_answers
from tests.faults.trial import BACK_S, Trial
from tests.storage.relay import Line

Tick = Callable[[], None]
DICE = random.Random(20261124)  # noqa: S311  # any moment will do; the same ones each time
SETTLED_S = 0.3  # what was on its way when a fault began may still be told in this time
UNRECORDED = "could not be committed"
ROTATE = 10  # times at one place: each balance reads everything
NAMES = {"sqlite": "SQLite", "postgres": "PostgreSQL"}


def quiet() -> None:
    """Tell nobody."""


async def killed_writers(ground: Ground, kind: str, times: int, tick: Tick = quiet) -> Trial:
    """SIGKILL to the writer in the middle of its work."""
    trial = Trial("AuditWriter killed", NAMES[kind])
    while trial.times < times:
        async with ground.place(kind) as place:
            last: Balance | None = None
            for _ in range(min(ROTATE, times - trial.times)):
                writer = await place.writer()
                await place.receipts()
                await anyio.sleep(DICE.uniform(0, 0.25))
                await writer.end(signal.SIGKILL)
                now = await place.balance()
                trial.add(now, before=last)
                last = now
                trial.times += 1
                trial.kills += 1
                tick()
    return trial


async def killed_postmaster(ground: Ground, times: int, tick: Tick = quiet) -> Trial:
    """SIGKILL to PostgreSQL's first process; one writer lives through all of it."""
    trial = Trial("postmaster killed", NAMES["postgres"])
    assert ground.server is not None
    async with ground.place("postgres") as place:
        await place.writer()
        last: Balance | None = None
        for _ in range(times):
            await place.receipts(20)
            await anyio.sleep(DICE.uniform(0, 0.1))
            ground.server.kill()
            gone = time.monotonic()
            await anyio.sleep(0.5)
            ground.server.start()
            last = await _back(place, trial, gone=gone, last=last)
            trial.kills += 1
            tick()
    return trial


async def away(ground: Ground, how: str, times: int, away_s: float, tick: Tick = quiet) -> Trial:
    """PostgreSQL is stopped, or frozen, for `away_s` seconds."""
    assert ground.server is not None
    begin, end = {
        "stopped": (ground.server.stop, ground.server.start),
        "frozen (SIGSTOP)": (ground.server.freeze, ground.server.thaw),
    }[how]
    trial = Trial(f"database {how} for {away_s:g} s", NAMES["postgres"])
    async with ground.place("postgres") as place:
        await place.writer()
        last: Balance | None = None
        for _ in range(times):
            await place.receipts(20)
            begin()
            gone = time.monotonic()
            try:
                await anyio.sleep(away_s)
            finally:
                end()
            last = await _back(place, trial, gone=gone, last=last)
            tick()
    return trial


async def silent(ground: Ground, times: int, away_s: float, tick: Tick = quiet) -> Trial:
    """The network swallows everything for `away_s` seconds."""
    trial = Trial(f"network silent for {away_s:g} s", NAMES["postgres"])
    async with ground.place("postgres") as place, relayed(place) as (relay, url):
        await place.writer(url=url)
        last: Balance | None = None
        for _ in range(times):
            await place.receipts(20)
            relay.fall_silent()
            gone = time.monotonic()
            await anyio.sleep(away_s)
            relay.speak()
            last = await _back(place, trial, gone=gone, last=last)
            tick()
    return trial


async def _back(place: Place, trial: Trial, *, gone: float, last: Balance | None) -> Balance:
    """The database is back: nothing was told meanwhile, and soon something is."""
    back = time.monotonic()
    trial.expect(
        place.ledger.heard_between(gone + SETTLED_S, back) == 0,
        "a receipt was given while the database was away",
    )
    try:
        await place.receipts(within_s=20)
    except TimeoutError:
        trial.failures.append("no receipt within 20 s of the database's return")
    first = place.ledger.first_after(back)
    took_s = (first or time.monotonic()) - back
    trial.expect(took_s <= BACK_S, f"the first receipt came after {took_s:.1f} s")
    trial.measure("first receipt after s", [took_s])
    now = await place.balance()
    trial.add(now, before=last)
    trial.times += 1
    return now


async def slow(ground: Ground, times: int, tick: Tick = quiet) -> Trial:
    """Every message to PostgreSQL takes 0.25 s longer: a group takes a second and more."""
    trial = Trial("database slow, 0.25 s a message", NAMES["postgres"])
    async with ground.place("postgres") as place, relayed(place) as (relay, url):
        await place.writer(url=url)
        last: Balance | None = None
        for _ in range(times):
            await place.receipts(20)
            relay.delay_s = 0.25
            await place.receipts(within_s=20)
            await anyio.sleep(3)
            relay.delay_s = 0
            await place.receipts(20)
            now = await place.balance()
            trial.add(now, before=last)
            last = now
            trial.times += 1
            tick()
    return trial


async def cut_commits(ground: Ground, line: Line, times: int, tick: Tick = quiet) -> Trial:
    """The line is cut when a COMMIT is on it, or when its answer is."""
    lost = "before it arrives" if line is Line.CUT_QUESTION else "after it was done"
    trial = Trial(f"connection cut at COMMIT, {lost}", NAMES["postgres"])
    async with ground.place("postgres") as place, relayed(place) as (relay, url):
        await place.writer(url=url)
        last: Balance | None = None
        for _ in range(times):
            cuts = relay.cuts
            relay.cut(line)
            await until(lambda cuts=cuts: relay.cuts > cuts, 10)  # type: ignore[misc]
            await place.receipts(2 * 8)
            now = await place.balance()
            trial.add(now, before=last)
            last = now
            trial.times += 1
            tick()
    return trial


async def zombies(ground: Ground, kind: str, times: int, tick: Tick = quiet) -> Trial:
    """A writer is stopped, another takes over, and the first goes on as if nothing had been."""
    trial = Trial("two writers, the first a zombie (SIGSTOP, SIGCONT)", NAMES[kind])
    async with ground.place(kind) as place:
        zombie = await place.writer()
        last: Balance | None = None
        for _ in range(times):
            await place.receipts(5)
            zombie.send(signal.SIGSTOP)
            successor = place.start_writer()
            # It may have been stopped with SQLite's lock in its hand, which nobody can take away.
            with anyio.move_on_after(4):
                await successor.until_ready()
            zombie.send(signal.SIGCONT)
            await successor.until_ready()
            code = await zombie.ended(20)
            trial.expect(code == 0 and zombie.fenced, f"the zombie ended with {code}, not fenced")
            await place.receipts(5)
            now = await place.balance()
            trial.add(now, before=last)
            last = now
            trial.times += 1
            zombie = successor
            tick()
    return trial


async def terminated_writers(ground: Ground, kind: str, times: int, tick: Tick = quiet) -> Trial:
    """SIGTERM under load: what was accepted is committed, the stop is recorded, the head signed."""
    trial = Trial("AuditWriter told to stop (SIGTERM)", NAMES[kind])
    async with ground.place(kind) as place:
        last: Balance | None = None
        for _ in range(times):
            writer = await place.writer()
            await place.receipts(20)
            started = time.monotonic()
            code = await writer.end(signal.SIGTERM)
            trial.measure("stopped after s", [time.monotonic() - started])
            trial.expect(code == 0, f"it ended with {code}")
            async with place.database.reading() as session:
                (newest,) = await AuditRepository(session).recent(1)
            trial.expect(newest.action == AuditAction.WRITER_STOP, "its stop is not recorded")
            now = await place.balance()
            trial.add(now, before=last)
            last = now
            trial.times += 1
            tick()
    return trial


async def full_disk(ground: Ground, times: int, tick: Tick = quiet) -> Trial:
    """SQLite may write no more: its files have reached the size the system allows."""
    trial = Trial("disk full (RLIMIT_FSIZE)", NAMES["sqlite"])
    async with ground.place("sqlite") as place:
        last: Balance | None = None
        for _ in range(times):
            largest = max(file.stat().st_size for file in place.home.glob("medai.db*"))
            writer = await place.writer(limit=largest + 256 * 1024)
            await writer.until_refused(UNRECORDED)
            last = await _full(place, trial, writer.may_write_again, last)
            await writer.end(signal.SIGTERM)
            tick()
    return trial


async def full_volume(ground: Ground, kind: str, times: int, tick: Tick = quiet) -> Trial:
    """The volume under the database is full to the last byte (ENOSPC)."""
    trial = Trial("disk full (ENOSPC)", NAMES[kind])
    try:
        volume = Volume(size_mib=64)
    except PermissionError as error:
        trial.figures["left out"] = str(error)
        return trial
    try:
        async with ground.place(kind, volume=volume.path) as place:
            writer = await place.writer()
            last: Balance | None = None
            for _ in range(times):
                await place.receipts(20)
                volume.fill()
                await writer.until_refused(UNRECORDED)
                last = await _full(place, trial, volume.free, last)
                tick()
    finally:
        volume.close()
    return trial


async def _full(
    place: Place, trial: Trial, free: Callable[[], None], last: Balance | None
) -> Balance:
    """The disk is full: nothing is told until there is room again, and then by the same writer."""
    await anyio.sleep(SETTLED_S)
    gone = time.monotonic() - SETTLED_S
    await anyio.sleep(1)
    free()
    return await _back(place, trial, gone=gone, last=last)


async def clock_steps(ground: Ground, kind: str, tick: Tick = quiet) -> Trial:
    """The clock goes back by an hour, then forward by a day, then back to what it was."""
    trial = Trial("clock back 1 h, forward 1 d, back", NAMES[kind])
    steps = [timedelta(), timedelta(hours=-1), timedelta(days=1), timedelta()]
    async with ground.place(kind) as place:
        offset = steps[0]
        ledger = Ledger(place.database, software_version="1", now=lambda: utc_now() + offset)
        await ledger.open()
        for offset in steps:  # noqa: B007  # the clock reads it
            for ended in await ledger.append([place.site.inference() for _ in range(5)]):
                assert isinstance(ended, Receipt)
                place.ledger.hear(ended.event_id, ended.seq, ended.entry_hash)
            trial.times += 1
        async with place.database.reading() as session:
            recent = await AuditRepository(session).recent(100)
        told = sum(entry.action == AuditAction.CLOCK_STEP for entry in recent)
        trial.expect(told == 2, f"{told} of 2 steps back are in the log")
        trial.add(await place.balance())
        tick()
    return trial


async def old_backup(ground: Ground, tick: Tick = quiet) -> Trial:
    """The database is put back to an older copy; the anchors know better."""
    trial = Trial("old backup restored", NAMES["sqlite"])
    async with ground.place("sqlite") as place:
        backup = place.home / "backup.db"
        await (await place.writer()).end(signal.SIGTERM)
        back_up(place.file, backup)
        await (await place.writer()).end(signal.SIGTERM)
        trial.add(await place.balance())
        await place.database.close()
        back_up(place.file, place.home / "newest.db")
        restore(place, backup.name)
        writer = place.start_writer()
        await until(lambda: any("older copy" in said for said in writer.refusals), 20)
        told = len(place.ledger.receipts)
        await anyio.sleep(1)
        trial.expect(not writer.is_ready, "a writer went on from an old backup")
        trial.expect(len(place.ledger.receipts) == told, "a receipt came from an old backup")
        trial.figures["it says"] = writer.refusals[-1]
        await until_it_answers(place.database)  # what is there can be read
        trial.expect((await verify(place.database)).intact, "the old copy is damaged")
        await writer.end(signal.SIGKILL)
        trial.kills += 1
        restore(place, "newest.db")
        await place.writer()
        await place.receipts(5)
        trial.times = 1
        tick()
    return trial


def back_up(file: Path, copy: Path) -> None:
    """A backup of a SQLite file that is in use."""
    with closing(sqlite3.connect(file)) as there, closing(sqlite3.connect(copy)) as here:
        there.backup(here)


def restore(place: Place, name: str) -> None:
    """Put a backup in the place of the SQLite file."""
    for part in place.home.glob("medai.db*"):
        part.unlink()
    (place.home / name).replace(place.file)
