"""Checkpoints: when they are made, what stands in them, and what happens where they cannot be."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select, text, update

from registry.contract import Receipt
from registry.errors import AuditUnavailable, DatabaseUnavailable
from registry.events import AuditAction, ContextValue
from storage.anchors import AnchorFile, startup_check
from storage.checkpoints import RETRY, Checkpointer
from storage.database import Database
from storage.notes import Note, Signature, VerifierKey, open_checkpoint, sign_rotation
from storage.tables import AuditCheckpoint, AuditState

if TYPE_CHECKING:
    from conftest import Audited, Export, Intruder, Log, Verify

SECONDS = 10.0  # the interval


@pytest.fixture
async def checkpointer(log: "Log", key: Ed25519PrivateKey) -> Checkpointer:
    checkpointer = log.checkpointer(key, at_most=10)
    await checkpointer.open()
    assert await checkpointer.now() is not None
    return checkpointer


async def stored(database: Database) -> list[AuditCheckpoint]:
    async with database.reading() as session:
        found = await session.scalars(select(AuditCheckpoint).order_by(AuditCheckpoint.size))
        return list(found)


async def test_a_checkpoint_is_signed_anchored_reported_and_stored(
    log: "Log", checkpointer: Checkpointer, key: Ed25519PrivateKey
) -> None:
    receipt = await log.events(3)

    made = await checkpointer.now()

    assert made is not None
    assert made.size == receipt.seq
    last = (await stored(log.database))[-1]
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
        while len(await stored(log.database)) < 2:
            pass
    checkpointer.observe(await log.events(1))

    await checkpointer.close()

    async with asyncio.timeout(10):
        await running
    assert [row.size for row in await stored(log.database)] == [4, 9, 10]


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
    assert len(log.reported) == len(await stored(log.database)) == 2


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


class TestWithoutAnAnchor:
    """The place of the anchors cannot be written."""

    @pytest.fixture
    def blocked(self, log: "Log") -> "Log":
        kept = log.path.with_suffix(".kept")
        log.path.rename(kept)
        log.path.mkdir()
        return log

    def mend(self, log: "Log") -> None:
        log.path.rmdir()
        log.path.with_suffix(".kept").rename(log.path)

    async def test_each_try_is_told_and_the_log_goes_on(
        self, checkpointer: Checkpointer, blocked: "Log"
    ) -> None:
        assert await checkpointer.maybe(await blocked.events(5)) is None
        assert await checkpointer.maybe() is None  # not before a pause

        blocked.seconds += RETRY.total_seconds()
        assert await checkpointer.maybe() is None

        checkpointer.check()
        assert len(blocked.alarms) == 2
        assert "anchor file cannot be opened" in str(blocked.alarms[0])

    async def test_nobody_waits_for_what_cannot_be_made(
        self, checkpointer: Checkpointer, blocked: "Log"
    ) -> None:
        checkpointer.observe(await blocked.events(5))

        await checkpointer.admit(10)
        await checkpointer.admit(10)

        assert len(blocked.alarms) == 1

    async def test_after_its_patience_nothing_is_recorded(
        self, checkpointer: Checkpointer, blocked: "Log"
    ) -> None:
        await checkpointer.maybe(await blocked.events(5))
        blocked.seconds = timedelta(minutes=15).total_seconds()
        checkpointer.check()

        blocked.seconds += 1

        with pytest.raises(AuditUnavailable, match="901 s without one") as refused:
            await checkpointer.admit(1)
        assert refused.value.retry_after_s is not None

    async def test_it_mends(self, checkpointer: Checkpointer, blocked: "Log") -> None:
        await checkpointer.maybe(await blocked.events(5))
        blocked.seconds += 1000
        self.mend(blocked)

        assert await checkpointer.maybe() is not None

        checkpointer.check()

    async def test_entries_that_came_meanwhile_wait_from_then_on(
        self, log: "Log", checkpointer: Checkpointer
    ) -> None:
        receipt = await log.events(1)
        checkpointer.observe(receipt)
        log.seconds += 800
        newer = replace(receipt, seq=receipt.seq + 1)
        checkpointer._report = lambda _: checkpointer.observe(newer)  # while it is being made
        assert await checkpointer.now() is not None

        log.seconds += 800
        checkpointer.check()

        log.seconds += 101
        with pytest.raises(AuditUnavailable, match="901 s without one"):
            checkpointer.check()


async def test_a_database_that_is_away_is_told_and_comes_back(
    sqlite_url: str,
    open_database: Callable[..., Database],
    log_of: Callable[[Database], "Log"],
    key: Ed25519PrivateKey,
) -> None:
    log = log_of(open_database(sqlite_url, connect_timeout_s=0.2))
    checkpointer = log.checkpointer(key)
    await log.ledger.open()
    await checkpointer.open()
    file = Path(sqlite_url.removeprefix("sqlite+aiosqlite:///"))
    await log.database.close()
    file.rename(file.with_suffix(".away"))  # noqa: ASYNC240  # a test may wait
    log.seconds = SECONDS

    assert await checkpointer.maybe() is None
    with pytest.raises(DatabaseUnavailable):
        await checkpointer.now()
    checkpointer.check()

    assert isinstance(log.alarms[0], DatabaseUnavailable)


async def test_a_log_that_vanished_is_refused_for_good(
    audited: "Audited", intruder: "Intruder"
) -> None:
    await intruder.run(text("DELETE FROM audit_state"))

    for _ in range(2):
        with pytest.raises(AuditUnavailable, match="no audit log any longer"):
            await audited.checkpointer.now()

    assert await audited.checkpointer.maybe() is None
    with pytest.raises(AuditUnavailable, match="no audit log any longer"):
        await audited.checkpointer.admit(1)


async def test_a_committed_entry_that_is_gone_is_missed(
    audited: "Audited", intruder: "Intruder"
) -> None:
    await intruder.write((await intruder.rows())[: audited.SIGNED + 1])

    with pytest.raises(AuditUnavailable, match="15 entries or more"):
        await audited.checkpointer.now()


async def test_the_frontier_that_the_database_holds_is_not_believed(
    audited: "Audited", intruder: "Intruder"
) -> None:
    await intruder.run(update(AuditState).values(frontier=bytes(4 * 32)))

    with pytest.raises(AuditUnavailable, match="rewritten"):
        await audited.checkpointer.now()


class TestRotation:
    """The signing key changes."""

    @pytest.fixture
    def new_key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(bytes(32))

    def recorder(self, log: "Log") -> Callable[[dict[str, ContextValue]], Any]:
        async def record(context: dict[str, ContextValue]) -> Receipt:
            event = log.site.event(action=AuditAction.KEY_ROTATED, context=context)
            return await log.append(event)

        return record

    async def test_the_verifier_follows_from_the_old_key_to_the_new(
        self,
        log: "Log",
        checkpointer: Checkpointer,
        key: Ed25519PrivateKey,
        new_key: Ed25519PrivateKey,
        export: "Export",
        verify: "Verify",
    ) -> None:
        checkpointer.observe(await log.events(2))

        vkey = await checkpointer.rotate(new_key, self.recorder(log))

        checkpointer.observe(await log.events(2))
        made = await checkpointer.now()
        assert made is not None
        old = VerifierKey.of(vkey.name, key)
        notes = [Note.parse(row.note) for row in await stored(log.database)]
        signers = [note.signatures[0].key_id for note in notes]
        assert signers == [old.key_id, old.key_id, vkey.key_id, vkey.key_id]
        code, report = verify("log", await export(), "--anchors", log.path, "--vkey", old)
        assert (code, report["last_checkpoint"]) == (0, made.size)
        code, report = verify("log", await export(), "--anchors", log.path, "--vkey", vkey)
        assert code == 3  # the old checkpoints cannot be verified with the new key alone
        assert report["findings"] == []

    async def test_the_next_start_needs_the_new_key(
        self,
        log: "Log",
        checkpointer: Checkpointer,
        key: Ed25519PrivateKey,
        new_key: Ed25519PrivateKey,
    ) -> None:
        await checkpointer.rotate(new_key, self.recorder(log))

        with pytest.raises(AuditUnavailable, match="not signed by this log's key"):
            await log.checkpointer(key).open()
        await log.checkpointer(new_key).open()

    async def test_a_crash_before_the_first_new_checkpoint_is_no_fault(
        self,
        log: "Log",
        checkpointer: Checkpointer,
        key: Ed25519PrivateKey,
        new_key: Ed25519PrivateKey,
    ) -> None:
        made = (await stored(log.database))[0]
        vkey = VerifierKey.of(made.note.split("\n")[0], new_key)
        await self.recorder(log)({"note": str(sign_rotation(key, vkey))})

        with pytest.raises(AuditUnavailable, match="replaced by another"):
            await log.checkpointer(key).open()
        with pytest.raises(AuditUnavailable, match="replaced by another"):
            await checkpointer.now()
        following = log.checkpointer(new_key)
        await following.open()
        assert await following.now() is not None

    @pytest.mark.parametrize("forged", ["", "text\n\n— name AAAAAAAA\n", "by the thief"])
    async def test_a_successor_that_the_key_did_not_name_is_refused(
        self,
        forged: str,
        log: "Log",
        checkpointer: Checkpointer,
        key: Ed25519PrivateKey,
        new_key: Ed25519PrivateKey,
        export: "Export",
        verify: "Verify",
    ) -> None:
        origin = (await stored(log.database))[0].note.split("\n")[0]
        if forged == "by the thief":
            forged = str(sign_rotation(new_key, VerifierKey.of(origin, new_key)))
        receipt = await self.recorder(log)({"note": forged})

        for start in (log.checkpointer(key).open, log.checkpointer(new_key).open, checkpointer.now):
            with pytest.raises(AuditUnavailable):
                await start()
        code, report = verify("log", await export(), "--vkey", VerifierKey.of(origin, key))
        assert code == 1
        assert report["findings"][0]["seq"] == receipt.seq

    @pytest.mark.usefixtures("checkpointer")
    async def test_a_key_that_was_replaced_names_no_other(
        self,
        log: "Log",
        key: Ed25519PrivateKey,
        new_key: Ed25519PrivateKey,
        export: "Export",
        verify: "Verify",
    ) -> None:
        """Whoever has stolen the old key cannot bring in his own with it."""
        thief = Ed25519PrivateKey.generate()
        origin = (await stored(log.database))[0].note.split("\n")[0]
        record = self.recorder(log)
        await record({"note": str(sign_rotation(key, VerifierKey.of(origin, new_key)))})
        receipt = await record({"note": str(sign_rotation(key, VerifierKey.of(origin, thief)))})

        with pytest.raises(AuditUnavailable, match="another key was brought in"):
            await log.checkpointer(thief).open()
        code, report = verify("log", await export(), "--vkey", VerifierKey.of(origin, key))
        assert code == 1
        assert report["findings"][0]["seq"] == receipt.seq

    async def test_a_successor_for_another_log_is_refused(
        self,
        log: "Log",
        checkpointer: Checkpointer,
        key: Ed25519PrivateKey,
        new_key: Ed25519PrivateKey,
        export: "Export",
        verify: "Verify",
    ) -> None:
        origin = (await stored(log.database))[0].note.split("\n")[0]
        old, new = VerifierKey.of(origin, key), VerifierKey.of("medaiflow/other", new_key)
        text = f"medaiflow/audit/key-rotation/v1\n{old}\n{new}\n"
        note = Note(text, (Signature(origin, old.key_id, key.sign(text.encode())),))
        receipt = await self.recorder(log)({"note": str(note)})

        with pytest.raises(AuditUnavailable, match="not signed"):
            await checkpointer.now()
        code, report = verify("log", await export(), "--vkey", old)
        assert code == 1
        assert report["findings"][0]["seq"] == receipt.seq

    async def test_a_successor_in_another_logs_name_is_refused(
        self,
        log: "Log",
        checkpointer: Checkpointer,
        key: Ed25519PrivateKey,
        new_key: Ed25519PrivateKey,
    ) -> None:
        note = sign_rotation(key, VerifierKey.of("medaiflow/other", new_key))
        await self.recorder(log)({"note": str(note)})

        with pytest.raises(AuditUnavailable, match="of another log"):
            await checkpointer.now()

    async def test_an_old_key_signs_no_more(
        self,
        log: "Log",
        checkpointer: Checkpointer,
        key: Ed25519PrivateKey,
        new_key: Ed25519PrivateKey,
        anchors: AnchorFile,
    ) -> None:
        """Whoever has stolen the old key cannot make the log's next checkpoint with it."""
        await checkpointer.rotate(new_key, self.recorder(log))
        await log.events(1)

        with pytest.raises(AuditUnavailable):
            await startup_check(log.database, anchors, key.public_key().public_bytes_raw())

    async def test_a_log_that_has_not_begun_has_no_key_to_change(
        self,
        database: Database,
        log_of: Callable[[Database], "Log"],
        key: Ed25519PrivateKey,
        new_key: Ed25519PrivateKey,
    ) -> None:
        checkpointer = log_of(database).checkpointer(key)
        await checkpointer.open()

        async def never(context: dict[str, ContextValue]) -> Receipt:
            raise AssertionError(context)

        with pytest.raises(AuditUnavailable, match="not begun"):
            await checkpointer.rotate(new_key, never)


async def test_the_anchor_line_fits_a_pipe(log: "Log", checkpointer: Checkpointer) -> None:
    """A line of up to 4,096 bytes is written whole into a pipe (POSIX, PIPE_BUF)."""
    await log.events(20)
    await checkpointer.now()
    line = json.loads(log.reported[-1])
    longest = {**line, "frontier": "A" * (4 * (40 * 32 + 2) // 3)}  # 2^40 entries

    assert len(json.dumps(longest)) < 4096
