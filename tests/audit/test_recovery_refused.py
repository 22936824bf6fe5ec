"""What is not recovered: a log that lost nothing, was changed, or that one person would give up."""

from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import update

from registry.errors import AuditUnavailable, Conflict, Forbidden, ValidationFailed
from storage.anchors import Anchor, AnchorFile
from storage.hashchain import Frontier
from storage.notes import Checkpoint, sign
from storage.recovery import Decision, recover
from storage.tables import AuditState
from tests.audit.recovery import ADA, BEA, DECISION, REASON, Hospital, hospital, restored

if TYPE_CHECKING:
    from conftest import Intruder, Log

__all__ = ["hospital", "restored"]


async def test_there_is_nothing_to_recover_where_the_log_is_not_behind(
    hospital: Hospital, restored: Hospital
) -> None:
    await restored.recovers()
    size = await restored.size()

    with pytest.raises(Conflict, match="nothing to recover"):
        await restored.recovers()

    assert await hospital.size() == size


async def test_a_log_that_never_was_anchored_has_nothing_to_recover(
    log: "Log", hospital: Hospital
) -> None:
    await log.events(1)

    with pytest.raises(Conflict, match="nothing to recover"):
        await hospital.assess()


async def test_an_empty_database_is_no_backup(restored: Hospital, intruder: "Intruder") -> None:
    await intruder.write([])

    with pytest.raises(Conflict, match="restore a backup first"):
        await restored.assess()


async def test_a_shorter_log_that_was_rewritten_is_not_recovered(
    restored: Hospital, intruder: "Intruder"
) -> None:
    rows = await intruder.rows()
    rows[3]["payload"] = rows[3]["payload"].replace('"success"', '"denied"')
    await intruder.write(await intruder.chained(rows, 3))

    with pytest.raises(AuditUnavailable, match=r"not an older copy of the log.*rewritten"):
        await restored.assess()


async def test_a_longer_log_that_was_rewritten_is_not_recovered(
    restored: Hospital, intruder: "Intruder"
) -> None:
    await restored.recovers()
    await restored.serves(3)
    rows = await intruder.rows()
    rows[6]["payload"] = rows[6]["payload"].replace('"success"', '"denied"')
    await intruder.write(await intruder.chained(rows, 6))

    with pytest.raises(AuditUnavailable, match=r"not an older copy of the log.*rewritten"):
        await restored.assess()


@pytest.mark.parametrize("went_on", [0, 9])
async def test_a_backup_from_a_part_that_was_given_up_before_is_named_as_such(
    went_on: int, hospital: Hospital
) -> None:
    await hospital.serves(1)
    older = await hospital.backup()
    await hospital.serves(2)
    given_up = await hospital.backup()
    await hospital.serves(3)
    await hospital.restore(older)
    await hospital.recovers()
    if went_on:
        await hospital.serves(went_on)
    await hospital.restore(given_up)

    with pytest.raises(AuditUnavailable, match="given up: restore one of at most 6 entries"):
        await hospital.assess()

    if went_on:  # else the advice brings the log back to where there is nothing to recover
        await hospital.restore(older)
        assert (await hospital.assess()).first == 7


async def test_another_log_is_not_recovered(restored: Hospital, intruder: "Intruder") -> None:
    await intruder.run(update(AuditState).values(origin="medaiflow/other"))

    with pytest.raises(AuditUnavailable, match=r"not an older copy of the log.*another"):
        await restored.assess()


async def test_with_another_key_nothing_is_recovered(restored: Hospital) -> None:
    restored.key = Ed25519PrivateKey.generate()

    with pytest.raises(AuditUnavailable, match="not signed by"):
        await restored.assess()


async def test_a_change_of_key_among_the_lost_entries_is_not_passed_over(
    restored: Hospital,
) -> None:
    """The last anchor is by a key that the database does not know."""
    old, new = restored.key, Ed25519PrivateKey.generate()
    lost = restored.anchored()[-1] + 1
    tree = Frontier()
    for _ in range(lost):
        tree.append(bytes(32))
    head = Checkpoint(restored.vkey.partition("+")[0], lost, tree.root())
    note = sign(head, new, at=restored.log.clock())
    AnchorFile(restored.log.path).append(Anchor(note, tree))

    for restored.key in (old, new):
        with pytest.raises(AuditUnavailable, match="key"):
            await restored.assess()


async def test_one_person_alone_recovers_nothing(restored: Hospital) -> None:
    with pytest.raises(Forbidden, match="two different administrators"):
        await restored.recovers(Decision(REASON, DECISION.actor, ADA, ADA))

    assert (await restored.size(), restored.anchored()) == (6, [6, 9, 13])


@pytest.mark.parametrize("reason", ["", "burnt", "x" * 201, "the disk\nburnt twice", "\x1b[2J" * 5])
async def test_a_reason_is_one_line_that_says_something(reason: str, restored: Hospital) -> None:
    with pytest.raises(ValidationFailed, match="reason"):
        await restored.recovers(Decision(reason, DECISION.actor, ADA, BEA))

    assert await restored.size() == 6


async def test_a_gap_that_was_shown_before_the_log_moved_is_not_given_up(
    restored: Hospital,
) -> None:
    gap = await restored.assess()
    await restored.log.site.record(restored.log.site.event())

    with pytest.raises(Conflict, match="moved meanwhile"):
        await recover(
            *(restored.log.database, AnchorFile(restored.log.path), restored.key, gap, DECISION),
            software_version="1",
            now=restored.log.clock,
            report=restored.log.reported.append,
        )
