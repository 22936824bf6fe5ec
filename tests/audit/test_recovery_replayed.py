"""That an anchor goes back is signed by nobody: an old one that is repeated confirms nothing."""

import hashlib
import json
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import update

from deployments.medai_verify import TAMPERED, TRUNCATED, UNVERIFIABLE
from registry.errors import AuditUnavailable
from storage.anchors import AnchorFile, startup_check
from storage.checkpoints import publish
from storage.hashchain import canonical
from storage.heads import read_head
from storage.notes import Checkpoint, sign
from storage.tables import AuditCheckpoint, AuditState
from storage.upsert import insert_if_absent
from storage.verify import verify as verify_records
from tests.audit.recovery import DECISION, Hospital, hospital, restored
from tests.audit.test_recovery_forged import forge

if TYPE_CHECKING:
    from conftest import Export, Intruder, Verify

__all__ = ["hospital", "restored"]


def repeat(hospital: Hospital, number: int) -> None:
    """One who may add to the anchor file repeats line `number`, as one that goes back."""
    lines = hospital.log.path.read_bytes().splitlines()
    document = json.loads(lines[number])
    document["prior"] = hashlib.sha256(lines[-1]).hexdigest()
    document["recovers"] = hospital.anchored()[-1]
    with hospital.log.path.open("ab") as file:
        file.write(json.dumps(document, separators=(",", ":")).encode() + b"\n")


async def starts(hospital: Hospital) -> None:
    """What the service and every command that records asks first."""
    public = hospital.key.public_key().public_bytes_raw()
    await startup_check(hospital.log.database, AnchorFile(hospital.log.path), public)


async def found(hospital: Hospital) -> list[tuple[int, str]]:
    """What `medai audit verify` finds."""
    report = await verify_records(hospital.log.database, AnchorFile(hospital.log.path))
    return [(problem.seq, str(problem.flaw)) for problem in report.problems]


async def signs_all_the_same(hospital: Hospital) -> None:
    """A service that does not look signs and anchors what there is."""
    head = await read_head(hospital.log.database)
    assert head is not None
    await publish(
        *(hospital.log.database, AnchorFile(hospital.log.path), head, hospital.key),
        at=hospital.log.clock(),
        report=hospital.log.reported.append,
    )


async def test_an_old_anchor_repeated_does_not_open_a_log_that_was_cut(
    restored: Hospital, export: "Export", verify: "Verify"
) -> None:
    repeat(restored, 0)

    with pytest.raises(AuditUnavailable, match="no entry does"):
        await starts(restored)
    with pytest.raises(AuditUnavailable, match="not an older copy"):
        await restored.assess()
    assert await found(restored) == [(6, "recovery")]
    arguments = ("log", await export(), "--anchors", restored.log.path, "--vkey", restored.vkey)
    assert verify(*arguments)[0] == TRUNCATED


async def test_nor_with_an_entry_that_gives_the_lost_ones_up(
    restored: Hospital, export: "Export", verify: "Verify"
) -> None:
    await forge(restored)
    repeat(restored, 0)

    with pytest.raises(AuditUnavailable, match="6 entries was signed before entry 7"):
        await starts(restored)
    await restored.log.site.record(restored.log.site.event())
    await signs_all_the_same(restored)

    assert restored.anchored() == [6, 9, 13, 6, 8]
    assert await found(restored) == [(7, "recovery")]
    code, said = verify(
        "log", await export(), "--anchors", restored.log.path, "--vkey", restored.vkey
    )
    assert code == TAMPERED
    assert [(finding["seq"], finding["kind"]) for finding in said["findings"]] == [(7, "recovery")]


async def test_a_log_that_lost_nothing_has_no_anchor_that_goes_back(
    hospital: Hospital, export: "Export", verify: "Verify"
) -> None:
    await hospital.serves(1)
    await hospital.serves(2)
    repeat(hospital, 0)

    with pytest.raises(AuditUnavailable, match="no entry does"):
        await starts(hospital)
    assert await found(hospital) == [(6, "recovery")]
    code, said = verify(
        "log", await export(), "--anchors", hospital.log.path, "--vkey", hospital.vkey
    )
    assert code == TAMPERED
    assert [(finding["seq"], finding["kind"]) for finding in said["findings"]] == [(6, "recovery")]


async def test_a_recovery_excuses_what_it_gave_up_once_and_not_again(
    restored: Hospital, export: "Export", verify: "Verify"
) -> None:
    """Both lines are repeated: the lost head, and the one that went on after it."""
    await restored.recovers()
    backup = await restored.backup()
    await restored.serves(4)
    await restored.restore(backup)
    repeat(restored, 2)
    repeat(restored, 3)
    assert restored.anchored() == [6, 9, 13, 7, 12, 13, 7]

    with pytest.raises(AuditUnavailable, match="no entry does"):
        await starts(restored)
    assert (13, "recovery") in await found(restored)
    arguments = ("log", await export(), "--anchors", restored.log.path, "--vkey", restored.vkey)
    assert verify(*arguments)[0] == TRUNCATED


async def test_an_entry_that_the_repeated_anchor_did_not_sign_confirms_nothing(
    hospital: Hospital, intruder: "Intruder"
) -> None:
    """Entry 7 of a log that was signed with 9 is exchanged for one that gives entries up."""
    await hospital.serves(1)
    await hospital.serves(2)
    backup = await hospital.backup()
    await hospital.serves(3)
    await hospital.restore(backup)
    lost = (await hospital.assess()).event(DECISION).context
    rows = await intruder.rows()
    tip = rows[5]["entry_hash"].hex()
    context = {**lost, "size": 6, "tip": tip, "lost": lost["lost_size"] - 6}
    payload = {**json.loads(rows[6]["payload"]), "action": "log.recovery", "context": context}
    rows[6].update(action="log.recovery", payload=canonical(payload).decode())
    rows = await intruder.chained(rows, 6)
    await intruder.write(rows, agree=False)
    await intruder.run(update(AuditState).values(tip_hash=rows[-1]["entry_hash"]))
    repeat(hospital, 1)

    with pytest.raises(AuditUnavailable, match="not the one that was signed"):
        await starts(hospital)


async def test_a_checkpoint_in_the_database_alone_confirms_no_recovery(
    restored: Hospital, export: "Export", verify: "Verify"
) -> None:
    """Who has the key can sign one; the anchor file, which speaks of more, is elsewhere."""
    await forge(restored)
    head = await read_head(restored.log.database)
    assert head is not None
    checkpoint = Checkpoint(head.origin, head.size, head.frontier.root())
    at = restored.log.clock()
    async with restored.log.database.transaction() as session:
        await insert_if_absent(
            *(session, AuditCheckpoint),
            size=checkpoint.size,
            root=checkpoint.root,
            created_at=at,
            note=str(sign(checkpoint, restored.key, at=at)),
        )
    arguments = ("log", await export(), "--anchors", restored.log.path, "--vkey", restored.vkey)

    code, said = verify(*arguments)

    assert (code, said["findings"], said["last_checkpoint"]) == (UNVERIFIABLE, [], 7)
    assert said["doubts"] == ["no anchor confirms entry 7, which gives up anchored entries"]
