"""Checkpoints: when they are made, what stands in them, and where the next process goes on."""

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select

from storage.checkpoints import Checkpointer
from storage.database import Database
from storage.notes import Note, VerifierKey, open_checkpoint
from storage.tables import AuditState

if TYPE_CHECKING:
    from conftest import Audited, Intruder, Log

SECONDS = 10.0  # the interval


async def test_a_checkpoint_is_signed_anchored_reported_and_stored(
    log: "Log", checkpointer: Checkpointer, key: Ed25519PrivateKey
) -> None:
    receipt = await log.events(3)

    made = await checkpointer.now()

    assert made is not None
    assert made.size == receipt.seq
    last = (await log.stored())[-1]
    checkpoint, time = open_checkpoint(Note.parse(last.note), VerifierKey.of(made.origin, key))
    assert checkpoint == made
    assert time == int(log.clock.time.timestamp())
    assert (last.size, last.root) == (made.size, made.root)
    anchor = log.anchors.last()
    assert anchor is not None
    assert str(anchor.note) == last.note
    assert log.path.read_text().splitlines() == log.reported


async def test_the_root_is_that_of_the_tree_over_all_entries(
    log: "Log", checkpointer: Checkpointer
) -> None:
    await log.events(4)

    made = await checkpointer.now()

    assert made is not None
    async with log.database.reading() as session:
        frontier = await session.scalar(select(AuditState.frontier))
    anchor = log.anchors.last()
    assert anchor is not None
    assert anchor.frontier.to_bytes() == frontier
    assert anchor.frontier.root() == made.root


async def test_nothing_new_makes_no_checkpoint(log: "Log", checkpointer: Checkpointer) -> None:
    assert await checkpointer.now() is None
    assert len(log.reported) == 1


async def test_a_log_that_has_not_begun_has_no_checkpoint(
    database: Database, log_of: Callable[[Database], "Log"], key: Ed25519PrivateKey
) -> None:
    checkpointer = log_of(database).checkpointer(key)
    await checkpointer.open()

    assert await checkpointer.now() is None


async def test_one_is_due_after_so_many_entries(log: "Log", checkpointer: Checkpointer) -> None:
    assert await checkpointer.maybe(await log.events(4)) is None

    made = await checkpointer.maybe(await log.events(1))

    assert made is not None


async def test_one_is_due_after_so_long(log: "Log", checkpointer: Checkpointer) -> None:
    receipt = await log.events(1)
    log.seconds = SECONDS - 0.001
    assert await checkpointer.maybe(receipt) is None

    log.seconds = SECONDS

    assert await checkpointer.maybe() is not None


async def test_entries_that_the_writer_did_not_make_are_signed_too(
    log: "Log", checkpointer: Checkpointer
) -> None:
    (receipt,) = await log.site.record(log.site.event())  # the command line, beside the writer
    log.seconds = SECONDS

    made = await checkpointer.maybe()

    assert made is not None
    assert made.size == receipt.seq


async def test_it_runs_by_itself_until_it_is_closed(log: "Log", checkpointer: Checkpointer) -> None:
    running = asyncio.create_task(checkpointer.run())
    checkpointer.observe(await log.events(5))
    async with asyncio.timeout(10):
        while len(await log.stored()) < 2:
            pass
    checkpointer.observe(await log.events(1))

    await checkpointer.close()

    async with asyncio.timeout(10):
        await running
    assert [row.size for row in await log.stored()] == [4, 9, 10]


async def test_closing_is_quiet_where_nothing_can_be_signed(
    audited: "Audited", intruder: "Intruder"
) -> None:
    await intruder.write([])

    await audited.checkpointer.close()

    assert len(audited.log.alarms) == 1


async def test_no_more_are_admitted_than_may_be_unsigned(
    log: "Log", checkpointer: Checkpointer
) -> None:
    checkpointer.observe(await log.events(4))
    await checkpointer.admit(6)
    assert len(log.reported) == 1

    await checkpointer.admit(7)  # a checkpoint is made first

    assert len(log.reported) == 2
    await checkpointer.admit(100)  # a group larger than the bound follows a checkpoint
    assert len(log.reported) == 2


async def test_those_who_wait_wait_for_one_checkpoint(
    log: "Log", checkpointer: Checkpointer
) -> None:
    checkpointer.observe(await log.events(4))

    await asyncio.gather(*(checkpointer.admit(10) for _ in range(5)))

    assert len(log.reported) == 2


async def test_two_at_once_make_one(log: "Log", checkpointer: Checkpointer) -> None:
    receipt = await log.events(5)

    made = await asyncio.gather(*(checkpointer.maybe(receipt) for _ in range(4)))

    assert len([checkpoint for checkpoint in made if checkpoint is not None]) == 1
    assert len(log.reported) == 2


async def test_an_entry_that_is_signed_already_does_not_wait(
    log: "Log", checkpointer: Checkpointer
) -> None:
    """An event that is offered twice gets its first receipt."""
    event = log.site.event()
    receipt = await log.append(event)
    checkpointer.observe(receipt)
    await checkpointer.now()

    checkpointer.observe(await log.append(event))

    log.seconds += 10_000
    checkpointer.check()


async def test_two_processes_add_one_line(
    log: "Log", checkpointer: Checkpointer, key: Ed25519PrivateKey
) -> None:
    zombie = log.checkpointer(key)
    await zombie.open()
    await log.events(1)
    await checkpointer.now()
    before = log.path.read_bytes()

    await zombie.now()

    assert log.path.read_bytes() == before
    assert len(log.reported) == len(await log.stored()) == 2


async def test_a_long_log_is_read_page_by_page(
    log: "Log", checkpointer: Checkpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.heads.PAGE", 3)
    receipt = await log.events(10)

    made = await checkpointer.now()

    assert made is not None
    assert made.size == receipt.seq


async def test_the_next_process_goes_on_from_the_anchor(
    log: "Log", checkpointer: Checkpointer, key: Ed25519PrivateKey
) -> None:
    receipt = await log.events(2)
    await checkpointer.now()
    following = log.checkpointer(key)

    await following.open()

    assert await following.now() is None
    following.observe(await log.events(1))
    made = await following.now()
    assert made is not None
    assert made.size == receipt.seq + 1


async def test_a_checkpoint_that_was_anchored_but_not_stored_is_no_fault(
    log: "Log", checkpointer: Checkpointer, key: Ed25519PrivateKey, intruder: "Intruder"
) -> None:
    await log.events(2)
    await checkpointer.now()
    await intruder.forget_checkpoints()
    following = log.checkpointer(key)

    await following.open()

    await log.events(1)
    assert await following.now() is not None


async def test_the_anchor_line_fits_a_pipe(log: "Log", checkpointer: Checkpointer) -> None:
    """A line of up to 4,096 bytes is written whole into a pipe (POSIX, PIPE_BUF)."""
    await log.events(20)
    await checkpointer.now()
    line = json.loads(log.reported[-1])
    longest = {**line, "frontier": "A" * (4 * (40 * 32 + 2) // 3)}  # 2^40 entries

    assert len(json.dumps(longest)) < 4096
