"""medai-verify finds what was changed in a log, its checkpoints or its anchors, and says where."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select, update

from storage.notes import Checkpoint, Note, Signature, VerifierKey, sign
from storage.tables import AuditCheckpoint, AuditLog
from tests.audit.verifier import OK, TAMPERED, UNVERIFIABLE, url

if TYPE_CHECKING:
    from conftest import Audited, Export, Intruder, Verify

__all__ = ["url"]


async def test_a_lost_result_is_found(
    audited: "Audited", export: "Export", verify: "Verify"
) -> None:
    path = await export()
    lines = path.read_text().splitlines(keepends=True)
    records = [number for number, line in enumerate(lines) if line.startswith('{"record":')]
    del lines[records[0]]
    path.write_text("".join(lines))

    code, report = verify("log", path, "--vkey", audited.vkey)

    assert code == TAMPERED
    assert [finding["kind"] for finding in report["findings"]] == ["record"]
    assert "gone" in report["findings"][0]["message"]


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"root": bytes(32)}, "column"),
        ({"note": "medaiflow/x\n7\nAAAA\n\n— medaiflow/x AAAAAAAA\n"}, "column"),
    ],
)
async def test_a_changed_checkpoint_is_found(
    changed: dict[str, Any],
    kind: str,
    audited: "Audited",
    intruder: "Intruder",
    export: "Export",
    verify: "Verify",
) -> None:
    await intruder.run(update(AuditCheckpoint).where(AuditCheckpoint.size == 7).values(**changed))

    code, report = verify("log", await export(), "--vkey", audited.vkey)

    assert code == TAMPERED
    assert [(finding["seq"], finding["kind"]) for finding in report["findings"]] == [(7, kind)]


async def test_a_forged_checkpoint_is_found(
    audited: "Audited", intruder: "Intruder", export: "Export", verify: "Verify"
) -> None:
    """Another root, and another size that is still to come, under the old signature."""
    async with audited.log.database.reading() as session:
        note = await session.scalar(select(AuditCheckpoint.note).where(AuditCheckpoint.size == 7))
    lines = str(note).split("\n")
    for size in (7, 99):
        forged = "\n".join([lines[0], str(size), "A" * 43 + "=", *lines[3:]])
        await intruder.run(
            update(AuditCheckpoint)
            .where(AuditCheckpoint.size < 12)
            .values(note=forged, root=bytes(32), size=size)
        )

        code, report = verify("log", await export(), "--vkey", audited.vkey)

        assert code == TAMPERED
        assert [(f["seq"], f["kind"]) for f in report["findings"]] == [(size, "signature")]
        await intruder.run(
            update(AuditCheckpoint).where(AuditCheckpoint.size == size).values(size=7)
        )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("}", "},"),
        ('"prior":"', '"prior":"0'),
        ('"note"', '"nota"'),
        ('"note":"', '"note":1,"x":"'),
    ],
)
async def test_a_changed_anchor_file_is_found(
    old: str, new: str, audited: "Audited", export: "Export", verify: "Verify"
) -> None:
    path = audited.log.path
    first, second = path.read_text().splitlines()
    path.write_text(first.replace(old, new, 1) + "\n" + second + "\n")

    code, report = verify("log", await export(), "--anchors", path, "--vkey", audited.vkey)

    assert code == TAMPERED
    assert {finding["kind"] for finding in report["findings"]} == {"anchors"}


@pytest.mark.parametrize("text", ["{0}\n7\n{1}\nmore\n", "{0}\n07\n{1}\n", "{0}\n7\n"])
async def test_a_text_that_the_key_signed_but_is_no_checkpoint_is_found(
    text: str,
    audited: "Audited",
    key: Ed25519PrivateKey,
    intruder: "Intruder",
    export: "Export",
    verify: "Verify",
) -> None:
    origin = audited.vkey.split("+", maxsplit=1)[0]
    text = text.format(origin, "A" * 43 + "=")
    public = VerifierKey.of(origin, key)
    note = Note(text, (Signature(origin, public.key_id, key.sign(text.encode())),))
    values = {"note": str(note), "root": bytes(32)}
    await intruder.run(update(AuditCheckpoint).where(AuditCheckpoint.size == 7).values(**values))

    code, report = verify("log", await export(), "--vkey", audited.vkey)

    assert code == TAMPERED
    assert "signature" in {finding["kind"] for finding in report["findings"]}


async def test_a_checkpoint_may_stand_before_its_entry(
    audited: "Audited", export: "Export", verify: "Verify"
) -> None:
    path = await export()
    lines = path.read_text().splitlines(keepends=True)
    (place,) = [number for number, line in enumerate(lines) if '"size":12,' in line]
    lines[place - 1], lines[place] = lines[place], lines[place - 1]
    path.write_text("".join(lines))

    code, report = verify("log", path, "--vkey", audited.vkey)

    assert (code, report["last_checkpoint"]) == (OK, 12)


async def test_a_checkpoint_of_nothing_is_found(
    audited: "Audited", export: "Export", verify: "Verify"
) -> None:
    root = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    note = "medaiflow/x\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n— x AAAAAAAA\n"
    path = await export()
    header, *lines = path.read_text().splitlines(keepends=True)
    stored = json.dumps({"checkpoint": note, "size": 0, "root": root})
    path.write_text(f"{header}{stored}\n{''.join(lines)}")

    code, report = verify("log", path, "--vkey", audited.vkey)

    assert code == TAMPERED
    assert [(finding["seq"], finding["kind"]) for finding in report["findings"]] == [
        (0, "signature")
    ]


async def test_an_anchor_to_come_that_another_key_signed_proves_nothing(
    audited: "Audited", export: "Export", verify: "Verify"
) -> None:
    origin = audited.vkey.split("+", maxsplit=1)[0]
    thief = Ed25519PrivateKey.generate()
    note = sign(Checkpoint(origin, 99, bytes(32)), thief, at=datetime(2026, 1, 1, tzinfo=UTC))
    prior = hashlib.sha256(audited.log.path.read_bytes().splitlines()[-1]).hexdigest()
    with audited.log.path.open("a") as file:
        file.write(json.dumps({"note": str(note), "prior": prior}) + "\n")

    code, report = verify(
        "log", await export(), "--anchors", audited.log.path, "--vkey", audited.vkey
    )

    assert (code, report["missing"]) == (UNVERIFIABLE, 0)
    assert report["doubts"] == ["a checkpoint is signed by no key given"]


async def test_anchors_in_another_order_are_found(
    audited: "Audited", export: "Export", verify: "Verify"
) -> None:
    path = audited.log.path
    prior, lines = hashlib.sha256().hexdigest(), []
    for line in reversed(path.read_text().splitlines()):
        lines.append(json.dumps({**json.loads(line), "prior": prior}))
        prior = hashlib.sha256(lines[-1].encode()).hexdigest()
    path.write_text("\n".join(lines) + "\n")

    code, report = verify("log", await export(), "--anchors", path, "--vkey", audited.vkey)

    assert code == TAMPERED
    assert [(finding["seq"], finding["kind"]) for finding in report["findings"]] == [(0, "anchors")]


async def test_a_number_that_is_left_out_is_found_also_where_the_hashes_fit(
    audited: "Audited", intruder: "Intruder", export: "Export", verify: "Verify"
) -> None:
    await intruder.forget_checkpoints()
    await intruder.write(await intruder.chained(await intruder.rows(), 8, skip=1))

    _, report = verify("log", await export(), "--vkey", audited.vkey)

    assert [(finding["seq"], finding["kind"]) for finding in report["findings"]] == [(10, "gap")]


async def test_an_epoch_that_goes_back_is_found(
    audited: "Audited", intruder: "Intruder", export: "Export", verify: "Verify"
) -> None:
    rows = await intruder.rows()
    for row, epoch in ((rows[13], 3), (rows[14], 2)):
        row["payload"] = row["payload"].replace('"epoch":1', f'"epoch":{epoch}')
        row["epoch"] = epoch
    await intruder.write(await intruder.chained(rows, 13))

    _, report = verify("log", await export(), "--vkey", audited.vkey)

    assert [(finding["seq"], finding["kind"]) for finding in report["findings"]] == [(15, "epoch")]


async def test_a_log_that_begins_otherwise_is_found(
    audited: "Audited", intruder: "Intruder", export: "Export", verify: "Verify"
) -> None:
    rows = await intruder.rows()
    await intruder.write(await intruder.chained(rows[1:]))

    _, report = verify("log", await export(), "--vkey", audited.vkey)

    assert (1, "genesis") in [(finding["seq"], finding["kind"]) for finding in report["findings"]]


@pytest.mark.parametrize(
    "payload", ["", "junk", "two\nlines", '"text"', "[1]", "{}", '{"a":1} more', "{" * 99999]
)
async def test_a_payload_that_cannot_be_read_is_found(
    payload: str, audited: "Audited", intruder: "Intruder", export: "Export", verify: "Verify"
) -> None:
    await intruder.run(update(AuditLog).where(AuditLog.seq == 9).values(payload=payload))

    code, report = verify("log", await export(), "--vkey", audited.vkey)

    assert code == TAMPERED
    assert {(finding["seq"], finding["kind"]) for finding in report["findings"]} == {(9, "payload")}


@pytest.mark.parametrize(("seconds", "code"), [(4, OK), (6, TAMPERED)])
async def test_a_clock_may_be_set_back_a_little(
    seconds: int,
    code: int,
    audited: "Audited",
    intruder: "Intruder",
    export: "Export",
    verify: "Verify",
) -> None:
    rows = await intruder.rows()
    before = datetime.fromisoformat(rows[13]["created_at"]) - timedelta(seconds=seconds)
    back = before.isoformat(timespec="microseconds").replace("+00:00", "Z")
    rows[14]["payload"] = rows[14]["payload"].replace(rows[14]["created_at"], back)
    rows[14]["created_at"] = back
    await intruder.write(await intruder.chained(rows, 14))

    assert verify("log", await export(), "--vkey", audited.vkey)[0] == code


async def test_a_clock_that_is_said_to_have_gone_back_is_no_damage(
    audited: "Audited", export: "Export", verify: "Verify"
) -> None:
    audited.log.clock.time = audited.log.clock.time.replace(hour=7)
    await audited.log.events(2)

    code, report = verify("log", await export(), "--vkey", audited.vkey)

    assert code == OK
    assert report["clock_steps"] == [16]


async def test_a_step_of_the_clock_that_names_another_time_is_damage(
    audited: "Audited", intruder: "Intruder", export: "Export", verify: "Verify"
) -> None:
    audited.log.clock.time = audited.log.clock.time.replace(hour=7)
    await audited.log.events(1)
    rows = await intruder.rows()
    for name in ("payload", "context"):
        rows[15][name] = rows[15][name].replace("2026-11-24T08:00", "2026-11-24T07:59")
    await intruder.write(await intruder.chained(rows, 15))

    code, report = verify("log", await export(), "--vkey", audited.vkey)

    assert code == TAMPERED
    assert [(finding["seq"], finding["kind"]) for finding in report["findings"]] == [(16, "clock")]
