"""`medai doctor`: each thing is broken for real, and its line says what and what to do."""

import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.settings import Settings
from deployments.doctor.finding import Check, Finding, Installation, State
from registry.errors import InvalidModel
from tests.host.conftest import FAIL, SHIPPED, Doctor, Medai, faults
from tests.ports import free_port


def test_a_prepared_home_has_no_fault(doctor: Doctor) -> None:
    lines = doctor()

    # An orphan may be another program's on this machine; the rest is this home's own.
    assert set(faults(lines)) <= {"orphaned HAProxy"}
    for name in ("settings", "token keys", "database", "model files", "ports", "audit log"):
        assert [one["state"] for one in lines[name]] == ["ok"], lines[name]


def test_the_command_gives_a_table_with_every_check_and_one_for_a_fault(
    home: Path, medai: Medai
) -> None:
    (home / "medai.db").chmod(0o644)

    said = medai("doctor", "--config", str(SHIPPED))

    assert said.code == 1
    for row in ("topology", "token keys", "clock against the log", "processors"):
        assert row in said.out
    assert " ok, " in said.out.splitlines()[-1]


def test_the_command_refuses_a_topology_with_a_misspelt_key_and_says_so_as_json(
    medai: Medai, home: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "topology.yaml"
    wrong.write_text(SHIPPED.read_text().replace("max_ongoing_requests", "max_ongoing_request"))

    said = medai("doctor", "--json", "--config", str(wrong))

    document = json.loads(said.out)
    [line] = [one for one in document["findings"] if one["check"] == "topology"]
    assert said.code == 1
    assert not document["healthy"]
    assert document["counts"]["fail"] >= 1
    assert "did you mean max_ongoing_requests?" in line["found"]


def test_every_line_that_is_not_ok_says_what_to_do(doctor: Doctor, home: Path) -> None:
    shutil.rmtree(home / "models")
    (home / "keys" / "pseudonym.key").write_bytes(b"short")

    lines = doctor()

    bad = [one for found in lines.values() for one in found if one["state"] != "ok"]
    assert len(bad) >= 3
    assert all(one["advice"] for one in bad), bad


def test_a_key_that_others_may_read_is_named_with_its_mode(doctor: Doctor, home: Path) -> None:
    [key] = (home / "keys").glob("*.pem")
    key.chmod(0o644)

    lines = doctor()

    assert "has mode 0644, allowed is 0600" in faults(lines)["token keys"]
    assert "chmod 600" in lines["token keys"][0]["advice"]


@pytest.mark.parametrize(
    ("place", "mode", "check"),
    [
        ("keys/pseudonym.key", 0o640, "pseudonym key"),
        ("medai.db", 0o644, "file modes"),
        (".", 0o777, "file modes"),
        ("keys/log", 0o750, "audit log key"),
    ],
)
def test_what_others_may_read_or_change_fails(
    doctor: Doctor, home: Path, place: str, mode: int, check: str
) -> None:
    (home / place).chmod(mode)

    lines = doctor()

    assert f"has mode {mode:04o}" in faults(lines)[check]


def test_a_short_pseudonym_key_is_measured(doctor: Doctor, home: Path) -> None:
    (home / "keys" / "pseudonym.key").write_bytes(b"short")

    lines = doctor()

    assert "is 5 bytes, allowed is at least 32 bytes" in faults(lines)["pseudonym key"]


def test_a_misspelt_setting_is_the_only_thing_that_is_looked_at(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDAI_LIMIT__DEADLINE_S", "5")

    lines = doctor()

    assert set(lines) == {"settings", "other checks"}
    assert "MEDAI_LIMIT__DEADLINE_S is unknown" in faults(lines)["settings"]
    assert lines["settings"][0]["advice"] == "did you mean MEDAI_LIMITS?"


def test_what_production_asks_for_is_said_one_fault_each(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDAI_PROFILE", "production")

    lines = doctor()

    assert "tls_terminated must be true" in str(lines["settings"])


def test_production_on_sqlite_with_anchors_beside_it_is_warned_of(
    doctor: Doctor, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "PROFILE": "production",
        "SERVER__TLS_TERMINATED": "true",
        "AUTH__KEY_DIR": str(home / "keys"),
        "PRIVACY__PSEUDONYM_KEY_FILE": str(home / "keys" / "pseudonym.key"),
    }.items():
        monkeypatch.setenv(f"MEDAI_{name}", value)

    lines = doctor()

    warned = [one["found"] for one in lines["production rules"] if one["state"] == "warn"]
    assert any("SQLite" in found for found in warned)
    assert any("anchors" in found for found in warned)


def test_a_ray_without_a_token_fails_and_the_value_is_not_repeated(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled-by-hand")
    monkeypatch.setenv("RAY_SERVE_LOG_TO_STDERR", "0")

    lines = doctor()

    assert "whoever reaches Ray's ports runs code" in faults(lines)["token authentication"]
    assert "disabled-by-hand" not in json.dumps(lines)
    assert lines["Ray's switches"][0]["found"] == "set by hand: RAY_SERVE_LOG_TO_STDERR"


def test_a_database_of_an_older_release_is_named(doctor: Doctor, home: Path) -> None:
    with sqlite3.connect(home / "medai.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")

    lines = doctor()

    assert "the database is not up to date: schema is 0001" in faults(lines)["database"]
    assert lines["database"][0]["advice"] == "run `medai db upgrade`"


def test_a_database_that_is_away_fails_within_its_time(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = f"postgresql+asyncpg://medai_app:secret-word@127.0.0.1:{free_port()}/medai"
    monkeypatch.setenv("MEDAI_DATABASE__URL", nobody)

    lines = doctor()

    assert faults(lines)["database"].startswith("PostgreSQL: ")
    assert "secret-word" not in json.dumps(lines)


def test_a_changed_model_file_fails_and_a_missing_one_too(doctor: Doctor, home: Path) -> None:
    first, second = sorted((home / "models").glob("*.onnx"))
    first.chmod(0o600)
    with first.open("ab") as file:
        file.write(b"\0")
    second.unlink()

    lines = doctor()

    found = " ".join(one["found"] for one in lines["model files"])
    assert [one["state"] for one in lines["model files"]] == [FAIL, FAIL]
    assert "SHA-256 is" in found
    assert "cannot be read: No such file" in found


def test_a_model_of_the_topology_without_an_active_version_fails(
    doctor: Doctor, tmp_path: Path
) -> None:
    other = tmp_path / "topology.yaml"
    other.write_text(SHIPPED.read_text().replace("body-part", "knee-xray"))

    [line] = doctor(other)["models served"]

    assert line["state"] == FAIL
    assert "no active version of knee-xray" in line["found"]


def test_a_clock_before_the_last_entry_fails(doctor: Doctor, home: Path) -> None:
    with sqlite3.connect(home / "medai.db") as connection:
        for (name,) in connection.execute(
            "SELECT name FROM sqlite_master WHERE type='trigger' AND tbl_name='audit_logs'"
        ).fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("UPDATE audit_logs SET created_at = '2999-01-01T00:00:00.000000Z'")

    lines = doctor()

    assert "before the log's last entry" in faults(lines)["clock against the log"]


def test_a_log_that_was_cut_behind_its_anchors_fails(doctor: Doctor, home: Path) -> None:
    (home / "anchors.jsonl").write_text('{"note": "of another log"}\n')

    lines = doctor()

    assert "the anchor file is not what it was" in faults(lines)["audit log"]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (RuntimeError("password=hunter2"), "the check itself broke: RuntimeError"),
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (InvalidModel("the card is not one"), "the card is not one"),
    ],
)
def test_a_check_that_breaks_is_a_fault_without_its_text(broken: Exception, said: str) -> None:
    def look(_: Installation) -> Iterator[Finding]:
        raise broken
        yield

    [finding] = Check("a check", look).findings(Installation(Settings(), SHIPPED))

    assert (finding.state, finding.found) == (State.FAIL, said)
