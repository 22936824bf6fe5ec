"""`medai audit recover`: an old backup was restored, and two administrators decide to go on."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from deployments import medai_verify
from tests.host.conftest import Medai, Said
from tests.host.test_commands_audit import Hospital

PASSWORDS = {
    "ada": "seven blue tractors sing at dawn",
    "bea": "nine grey windows lean on rain",
    "carl": "four green kettles walk uphill",
}
REASON = "the disk of both copies burnt"
Recover = Callable[..., Said]


def copy(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as there, closing(sqlite3.connect(target)) as here:
        there.backup(here)


@pytest.fixture
def restored(medai: Medai, tmp_path: Path) -> Hospital:
    """A home with two administrators and a clinician, whose database is of the month before."""
    home = tmp_path / "home"
    assert medai("db", "upgrade").code == 0
    (home / "keys").mkdir(mode=0o700)
    key = home / "keys" / "pseudonym.key"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    hospital = Hospital(home)
    for name, password in PASSWORDS.items():
        role = "clinician" if name == "carl" else "admin"
        added = medai("users", "add", name, "--role", role, "--password-stdin", text=password)
        assert added.code == 0, added.err
    hospital.month(10)
    copy(home / "medai.db", tmp_path / "backup.db")
    hospital.month(11)
    copy(tmp_path / "backup.db", home / "medai.db")
    return hospital


@pytest.fixture
def recover(medai: Medai) -> Recover:
    """Gives the command, with everything right unless a test says otherwise."""

    def give(
        *more: str, by: tuple[str, str] = ("ada", "bea"), typed: str | None = None, yes: bool = True
    ) -> Said:
        passwords = "".join(PASSWORDS[name.lower()] + "\n" for name in by)
        return medai(
            *("audit", "recover", "--reason", REASON, "--as", by[0], "--approve-as", by[1]),
            *("--password-stdin", *(["--yes"] if yes else []), *more),
            text=passwords if typed is None else typed,
        )

    return give


def state(hospital: Hospital) -> tuple[int, str]:
    """The log's size, and the anchors."""
    with closing(sqlite3.connect(hospital.home / "medai.db")) as database:
        (size,) = database.execute("SELECT size FROM audit_state").fetchone()
    return size, hospital.anchors.read_text()


def last_anchored(hospital: Hospital) -> int:
    return int(json.loads(hospital.anchors.read_text().splitlines()[-1])["note"].split("\n")[1])


def test_two_administrators_go_on_and_every_verification_names_the_gap(
    medai: Medai, restored: Hospital, recover: Recover, tmp_path: Path
) -> None:
    size, _ = state(restored)
    lost = last_anchored(restored)
    behind = medai("audit", "verify")

    said = recover()

    gap = f"entries {size + 1}-{lost}"
    assert (behind.code, said.code) == (2, 0), said.err
    assert "read-only" in behind.err
    assert f"{gap}, and all that was recorded after them" in said.err
    assert f"entry {size + 1} says that {gap} are lost" in said.out
    assert restored.anchors.read_text().splitlines()[-1] in said.err.splitlines()
    restored.month(11)  # the service starts
    verified = medai("audit", "verify")
    assert verified.code == 0, verified.err
    assert f"recovered: {gap} are lost; accepted by user:" in verified.out
    (told,) = json.loads(medai("audit", "verify", "--json").out)["recovered"]
    assert (told["first_lost"], told["last_lost"], told["reason"]) == (size + 1, lost, REASON)
    assert len(set(told["accepted_by"])) == 2
    export = tmp_path / "export.jsonl"
    assert medai("audit", "export", str(export)).code == 0
    arguments = ["log", str(export), "--anchors", str(restored.anchors), "--vkey", restored.vkey]
    assert medai_verify.main(arguments) == medai_verify.OK


def test_a_program_is_told_what_was_done(restored: Hospital, recover: Recover) -> None:
    size, _ = state(restored)
    lost = last_anchored(restored)

    told = json.loads(recover("--json").out)

    assert (told["seq"], told["first_lost"], told["last_lost"]) == (size + 1, size + 1, lost)
    assert all(one.startswith("user:") for one in told["accepted_by"])


@pytest.mark.parametrize("by", [("ada", "ada"), ("ada", "ADA"), ("carl", "bea"), ("ada", "carl")])
def test_one_alone_or_who_is_no_administrator_recovers_nothing(
    by: tuple[str, str], restored: Hospital, recover: Recover
) -> None:
    before = state(restored)

    said = recover(by=by)

    assert said.code == 1
    alone = by[0].lower() == by[1].lower()
    assert ("two different" if alone else "administrator's account") in said.err
    assert ("last anchor" in said.err) is not alone  # one alone is not even asked
    assert state(restored) == before


def test_a_wrong_password_recovers_nothing(restored: Hospital, recover: Recover) -> None:
    before = state(restored)

    said = recover(typed=f"{PASSWORDS['ada']}\n{PASSWORDS['ada']}\n")

    assert said.code == 1
    assert "do not open an administrator's account" in said.err
    assert state(restored) == before


def test_nothing_is_given_up_before_somebody_has_said_yes(
    restored: Hospital, recover: Recover
) -> None:
    before = state(restored)

    refused = recover(yes=False, typed="n\n")
    unchanged = state(restored)
    done = recover(yes=False, typed="y\n{ada}\n{bea}\n".format_map(PASSWORDS))

    assert refused.code == 1
    assert "give these entries up for ever?" in refused.err
    assert unchanged == before
    assert done.code == 0, done.err


def test_what_does_not_verify_is_not_recovered(restored: Hospital, recover: Recover) -> None:
    with closing(sqlite3.connect(restored.home / "medai.db")) as database:
        database.execute("UPDATE inference_results SET prediction = 'normal'")
        database.commit()
    before = state(restored)

    said = recover()

    assert said.code == 1
    assert "does not verify, and is not recovered" in said.err
    assert state(restored) == before


def test_where_nothing_is_lost_there_is_nothing_to_recover(
    restored: Hospital, recover: Recover
) -> None:
    assert recover().code == 0

    again = recover()

    assert again.code == 1
    assert "nothing to recover" in again.err
