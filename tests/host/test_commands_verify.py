"""`medai audit verify`, as an operator gives it: exit codes, and what it says it has checked."""

import json
import sqlite3
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.host.conftest import Medai
from tests.host.test_commands_audit import Hospital, hospital, served

__all__ = ["hospital", "served"]


def change(home: Path, *statements: str) -> None:
    with sqlite3.connect(home / "medai.db") as database:
        for statement in statements:
            database.execute(statement)
    database.close()


def test_a_log_that_was_served_is_signed_to_its_end(medai: Medai, served: Hospital) -> None:
    shown = medai("audit", "verify")
    document = json.loads(medai("audit", "verify", "--json").out)

    assert shown.code == 0
    assert f"anchored  {document['entries']}, by the log's key; 0 since then" in shown.out
    assert (document["anchored"], document["unsigned"]) == (document["entries"], 0)


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("UPDATE audit_checkpoints SET note = 'none'", "signature"),
        ("UPDATE audit_checkpoints SET root = zeroblob(32)", "column"),
        ("UPDATE audit_checkpoints SET size = 1000 WHERE size = 1", "missing"),
    ],
)
def test_a_checkpoint_that_was_changed_ends_with_1(
    medai: Medai, served: Hospital, statement: str, kind: str
) -> None:
    change(
        served.home,
        "UPDATE audit_checkpoints SET size = 1"
        " WHERE size = (SELECT min(size) FROM audit_checkpoints)",
        statement,
    )

    shown = medai("audit", "verify")

    assert shown.code == 1
    assert f": {kind}: " in shown.out


def test_a_served_log_of_which_nothing_is_signed_any_longer_ends_with_3(
    medai: Medai, served: Hospital
) -> None:
    served.anchors.unlink()
    change(served.home, "DELETE FROM audit_checkpoints")

    shown = medai("audit", "verify")

    assert shown.code == 3
    assert "anchored  0, by the log's key" in shown.out


def test_a_key_that_cannot_be_used_is_no_missing_key(medai: Medai, served: Hospital) -> None:
    for file in served.keys.glob("*.pem"):
        file.chmod(0o640)

    shown = medai("audit", "verify")

    assert shown.code == 1
    assert "chmod" in shown.err
    assert "no signature was checked" not in shown.out


def test_a_key_that_was_replaced_and_is_still_in_its_place_ends_with_3(
    medai: Medai, served: Hospital, tmp_path: Path
) -> None:
    new = tmp_path / "next.pem"
    pem = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    new.write_bytes(pem)
    new.chmod(0o600)
    assert medai("audit", "rotate-key", "--new-key", str(new)).code == 0

    before = medai("audit", "verify")
    for file in served.keys.glob("*.pem"):
        file.write_bytes(pem)
    after = medai("audit", "verify")

    assert before.code == 3
    assert "handed over to another in entry" in before.out
    assert after.code == 0


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("UPDATE audit_logs SET created_at = 'never'", "column"),
        ("UPDATE audit_logs SET created_at = '2026-09-05T08:00:00'", "column"),
        ("UPDATE audit_state SET origin = 'a name with spaces'", "chain"),
    ],
    ids=["no time", "a time without its zone", "no name of a log"],
)
def test_what_cannot_be_read_is_a_finding_and_no_fault_of_the_program(
    medai: Medai, served: Hospital, statement: str, kind: str
) -> None:
    served.anchors.unlink()
    change(
        served.home,
        "DELETE FROM audit_checkpoints",
        "DROP TRIGGER audit_logs_no_update",
        statement,
    )

    shown = medai("audit", "verify")

    assert shown.code == 1
    assert f": {kind}: " in shown.out
