"""A log that is behind its anchors is read-only: nothing is signed, until it fits again."""

from typing import TYPE_CHECKING

import pytest

from registry.errors import AuditUnavailable, is_read_only
from tests.audit.recovery import Hospital, hospital, restored
from tests.audit.test_recovery_forged import forge

if TYPE_CHECKING:
    from conftest import Intruder

__all__ = ["hospital", "restored"]


async def test_a_restored_log_is_read_only_and_says_what_is_missing(restored: Hospital) -> None:
    with pytest.raises(AuditUnavailable, match="read-only") as refused:
        await restored.log.checkpointer(restored.key).open()

    assert is_read_only(refused.value)
    said = str(refused.value)
    for part in ("6 entries", "13 entries or more", "signed 2026-", "medai audit recover"):
        assert part in said


async def test_nothing_is_signed_while_the_log_is_read_only(restored: Hospital) -> None:
    checkpointer = restored.log.checkpointer(restored.key)
    with pytest.raises(AuditUnavailable):
        await checkpointer.open()
    before = await restored.backup()

    restored.log.seconds += 60  # several checkpoints are due
    assert await checkpointer.maybe() is None
    with pytest.raises(AuditUnavailable, match="not compared with its anchors"):
        await checkpointer.now()
    await checkpointer.close()

    assert restored.log.alarms == []  # nothing was tried that could fail
    assert await restored.backup() == before
    assert restored.anchored() == [6, 9, 13]


async def test_a_rewritten_log_is_not_signed_by_the_writer_that_refused_it(
    hospital: Hospital, intruder: "Intruder"
) -> None:
    await hospital.serves(1)
    await hospital.serves(2)
    rows = await intruder.rows()
    rows[3]["payload"] = rows[3]["payload"].replace('"success"', '"denied"')
    await intruder.write(await intruder.chained(rows, 3))
    checkpointer = hospital.log.checkpointer(hospital.key)
    with pytest.raises(AuditUnavailable, match="rewritten"):
        await checkpointer.open()

    hospital.log.seconds += 60
    await checkpointer.maybe()

    with pytest.raises(AuditUnavailable, match="rewritten"):
        await hospital.log.checkpointer(hospital.key).open()


async def test_after_the_newer_database_came_back_it_opens_by_itself(hospital: Hospital) -> None:
    await hospital.serves(1)
    backup = await hospital.backup()
    await hospital.serves(2)
    newest = await hospital.backup()
    await hospital.restore(backup)
    checkpointer = hospital.log.checkpointer(hospital.key)
    with pytest.raises(AuditUnavailable):
        await checkpointer.open()

    await hospital.restore(newest)

    await checkpointer.open()


@pytest.mark.parametrize("lost", [1, 3])
async def test_a_recovery_that_was_begun_is_to_be_given_again(
    lost: int, hospital: Hospital
) -> None:
    await hospital.serves(1)
    backup = await hospital.backup()
    await hospital.log.events(lost)  # with one, the recovery's entry has the lost one's number
    await hospital.signs()
    await hospital.restore(backup)
    await forge(hospital)  # what a recovery leaves that ends between the entry and the anchor

    with pytest.raises(AuditUnavailable, match="give `medai audit recover` again") as refused:
        await hospital.log.checkpointer(hospital.key).open()

    assert is_read_only(refused.value)
    await hospital.recovers()
    await hospital.log.checkpointer(hospital.key).open()
