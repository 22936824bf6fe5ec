"""`medai audit verify` looks at what was signed, on both databases."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select, update

from registry.events import AuditAction
from storage.anchors import Anchor, AnchorFile
from storage.findings import Flaw
from storage.heads import read_head
from storage.notes import Checkpoint, VerifierKey, sign
from storage.tables import AuditCheckpoint, AuditState
from storage.verify import Report
from storage.verify import verify as verify_records
from storage.verify_heads import LogKeys
from tests.audit.recovery import Hospital, hospital, restored
from tests.audit.test_rotation import SECOND, THIRD, rotated

if TYPE_CHECKING:
    from conftest import Audited, Intruder, Log

__all__ = ["hospital", "restored"]

FORGER = Ed25519PrivateKey.from_private_bytes(bytes([9]) * 32)


async def verified(
    log: "Log",
    first: Ed25519PrivateKey,
    present: Ed25519PrivateKey | None = None,
    anchors: AnchorFile | None = None,
) -> Report:
    async with log.database.reading() as session:
        origin = await session.scalar(select(AuditState.origin)) or ""
    keys = LogKeys(VerifierKey.of(origin, first), VerifierKey.of(origin, present or first))
    return await verify_records(log.database, anchors or AnchorFile(log.path), keys)


def flaws(report: Report) -> set[tuple[int, Flaw]]:
    return {(problem.seq, problem.flaw) for problem in report.problems}


async def written_anew(intruder: "Intruder", size: int) -> None:
    """Everything from entry 9 on is another, and every hash of it fits."""
    rows = await intruder.rows()
    for row in rows[8:]:
        row["payload"] = row["payload"].replace('"description":"', '"description":"Not: ')
    await intruder.write((await intruder.chained(rows, 8))[:size])


async def test_a_whole_log_is_as_it_was_signed(audited: "Audited", key: Ed25519PrivateKey) -> None:
    report = await verified(audited.log, key)

    assert report.intact
    assert (report.entries, report.anchored) == (audited.SIZE, audited.SIGNED)


async def test_without_a_key_no_signature_is_spoken_of(audited: "Audited") -> None:
    report = await verify_records(audited.log.database, AnchorFile(audited.log.path))

    assert report.anchored is None


async def test_a_log_written_anew_is_found_by_what_was_signed(
    audited: "Audited", key: Ed25519PrivateKey, intruder: "Intruder"
) -> None:
    await written_anew(intruder, audited.SIZE)
    by_both = await verified(audited.log, key)
    await intruder.forget_checkpoints()
    by_anchors = await verified(audited.log, key)
    unseen = await verify_records(audited.log.database)

    assert (audited.SIGNED, Flaw.ROOT) in flaws(by_both)
    assert flaws(by_anchors) - flaws(unseen) == {(audited.SIGNED, Flaw.ROOT)}
    assert by_anchors.anchored == audited.FIRST


async def test_nor_does_another_s_signature_help(
    audited: "Audited", key: Ed25519PrivateKey, intruder: "Intruder", tmp_path: Path, clock: Any
) -> None:
    await written_anew(intruder, audited.SIGNED)
    await intruder.forget_checkpoints()
    head = await read_head(audited.log.database)
    assert head is not None
    checkpoint = Checkpoint(head.origin, head.size, head.frontier.root())
    forged = AnchorFile(tmp_path / "forged.jsonl")
    forged.append(Anchor(sign(checkpoint, FORGER, at=clock()), head.frontier))

    found = flaws(await verified(audited.log, key, anchors=forged))

    assert (audited.SIGNED, Flaw.SIGNATURE) in found
    assert (audited.SIGNED, Flaw.ROOT) not in found


@pytest.mark.parametrize("note", ["", "nothing\n", None], ids=["empty", "no note", "of another"])
async def test_a_checkpoint_in_the_database_that_was_changed_is_found(
    note: str | None, audited: "Audited", key: Ed25519PrivateKey, intruder: "Intruder"
) -> None:
    first, last = (await audited.log.stored())[0], (await audited.log.stored())[-1]
    text = first.note if note is None else note
    await intruder.run(
        update(AuditCheckpoint).where(AuditCheckpoint.size == last.size).values(note=text)
    )

    report = await verified(audited.log, key)

    assert flaws(report) == {(last.size, Flaw.ROOT if note is None else Flaw.SIGNATURE)}
    assert report.anchored == audited.SIGNED


async def test_each_head_is_held_against_the_key_of_its_time(
    log: "Log", key: Ed25519PrivateKey
) -> None:
    checkpointer = log.checkpointer(key)
    await log.events(2)
    await checkpointer.open()
    await checkpointer.now()
    await rotated(log, key, SECOND)
    await rotated(log, SECOND, THIRD)

    whole = await verified(log, key, THIRD)
    assert whole.intact
    assert whole.anchored == whole.entries
    assert flaws(await verified(log, key, SECOND)) == {(whole.entries, Flaw.SIGNATURE)}
    assert Flaw.SIGNATURE in {flaw for _, flaw in flaws(await verified(log, SECOND, THIRD))}


async def test_a_key_that_nobody_handed_over_to_is_found(
    log: "Log", key: Ed25519PrivateKey
) -> None:
    await log.append(log.site.event(action=AuditAction.KEY_ROTATED, context={"note": "mine now"}))

    assert Flaw.PAYLOAD in {flaw for _, flaw in flaws(await verified(log, key))}


async def test_what_two_administrators_gave_up_is_not_held_against_the_log(
    restored: Hospital, key: Ed25519PrivateKey
) -> None:
    await restored.recovers()
    size = await restored.serves(2)

    report = await verified(restored.log, key)

    assert report.intact
    assert (report.entries, report.anchored) == (size, size)
    assert len(report.recoveries) == 1
