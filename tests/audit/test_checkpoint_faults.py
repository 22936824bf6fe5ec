"""No checkpoint can be made: the anchors, the database or the log itself is not what it was."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text, update

from registry.errors import AuditUnavailable, DatabaseUnavailable
from storage.checkpoints import RETRY, Checkpointer
from storage.database import Database
from storage.tables import AuditState

if TYPE_CHECKING:
    from conftest import Audited, Intruder, Log


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
    log.seconds = 10.0  # one is due

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
