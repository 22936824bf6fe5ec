"""`medai audit verify` looks at what was signed, on both databases."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select, update

from deployments.medai_verify import TAMPERED
from registry.errors import AuditUnavailable
from registry.events import AuditAction
from storage.anchors import Anchor, AnchorFile, startup_check
from storage.findings import Flaw
from storage.heads import read_head
from storage.notes import Checkpoint, Note, VerifierKey, sign, sign_rotation
from storage.tables import AuditCheckpoint, AuditState
from storage.verify import Report
from storage.verify import verify as verify_records
from storage.verify_heads import LogKeys
from tests.audit.recovery import Hospital, hospital, restored
from tests.audit.test_rotation import SECOND, THIRD, rotated

if TYPE_CHECKING:
    from conftest import Audited, Export, Intruder, Log, Verify

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


async def test_nor_does_a_key_of_the_forger_s_own_that_hands_over_to_the_log_s(
    audited: "Audited",
    key: Ed25519PrivateKey,
    intruder: "Intruder",
    tmp_path: Path,
    clock: Any,
    export: "Export",
    verify: "Verify",
) -> None:
    """All heads are signed by a key that nobody knows, and an entry says the known one follows."""
    log = audited.log
    await written_anew(intruder, audited.SIZE)
    await intruder.forget_checkpoints()
    head = await read_head(log.database)
    assert head is not None
    forged = AnchorFile(tmp_path / "forged.jsonl")
    checkpoint = Checkpoint(head.origin, head.size, head.frontier.root())
    forged.append(Anchor(sign(checkpoint, FORGER, at=clock()), head.frontier))
    note = sign_rotation(FORGER, key, head.origin)
    without_the_log_s_key = Note(note.text, note.signatures[:1])
    event = log.site.event(
        action=AuditAction.KEY_ROTATED, context={"note": str(without_the_log_s_key)}
    )
    await log.site.record(event)

    for first in (FORGER, key):
        report = await verified(log, first, key, anchors=forged)
        assert (audited.SIZE + 1, Flaw.SIGNATURE) in flaws(report)
        assert report.anchored == 0
    exported, path = await export(), tmp_path / "forged.jsonl"
    for anchors in ((), ("--anchors", path)):
        code, said = verify("log", exported, *anchors, "--vkey", audited.vkey)
        assert code == TAMPERED
        found = {(each["seq"], each["kind"]) for each in said["findings"]}
        assert (audited.SIZE + 1, "signature") in found
    with pytest.raises(AuditUnavailable, match="not signed"):
        await startup_check(log.database, forged, key.public_key().public_bytes_raw())


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


async def test_so_is_one_whose_root_was_changed(
    audited: "Audited", key: Ed25519PrivateKey, intruder: "Intruder"
) -> None:
    await intruder.run(update(AuditCheckpoint).values(root=bytes(32)))

    found = flaws(await verified(audited.log, key))

    assert found == {(audited.FIRST, Flaw.COLUMN), (audited.SIGNED, Flaw.COLUMN)}


async def test_a_checkpoint_of_more_entries_than_there_are_is_found(
    audited: "Audited", key: Ed25519PrivateKey, intruder: "Intruder", tmp_path: Path
) -> None:
    await intruder.write((await intruder.rows())[: audited.FIRST + 1])
    none = AnchorFile(tmp_path / "none.jsonl")

    found = flaws(await verified(audited.log, key, anchors=none))

    assert (audited.FIRST + 1, Flaw.MISSING) in found


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
    assert (whole.anchored, whole.succeeded_in) == (whole.entries, 0)
    assert Flaw.SIGNATURE in {flaw for _, flaw in flaws(await verified(log, SECOND, THIRD))}
    assert flaws(await verified(log, key, FORGER)) == {(whole.entries, Flaw.SIGNATURE)}


async def test_who_holds_a_key_that_was_replaced_is_told(
    log: "Log", key: Ed25519PrivateKey
) -> None:
    await rotated(log, key, SECOND)
    await rotated(log, SECOND, THIRD)

    report = await verified(log, key, SECOND)

    assert report.intact
    assert report.succeeded_in == report.entries
    assert 0 < report.anchored < report.entries  # what SECOND has signed


async def test_a_key_that_nobody_handed_over_to_is_found(
    log: "Log", key: Ed25519PrivateKey
) -> None:
    receipt = await log.append(
        log.site.event(action=AuditAction.KEY_ROTATED, context={"note": "mine now"})
    )

    assert flaws(await verified(log, key)) == {(receipt.seq, Flaw.SIGNATURE)}


async def test_what_two_administrators_gave_up_is_not_held_against_the_log(
    restored: Hospital, key: Ed25519PrivateKey
) -> None:
    await restored.recovers()
    size = await restored.serves(2)

    report = await verified(restored.log, key)

    assert report.intact
    assert (report.entries, report.anchored) == (size, size)
    assert len(report.recoveries) == 1
