"""The `medai` command, given as an operator gives it, in this process."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
import yaml

from tests.host.conftest import Medai

PASSWORD = "correct horse battery staple lamp"
BUNDLED = Path(__file__).parents[2] / "registry" / "bundled"


def test_init_makes_all_a_first_start_needs_and_shows_the_password_once(
    medai: Medai, tmp_path: Path
) -> None:
    first = medai("init")
    second = medai("init")

    assert first.code == second.code == 0
    assert "cxr-pneumonia 1.0.0 active" in first.out
    assert "shown once" in first.out
    assert "cxr-pneumonia 1.0.0 present" in second.out
    assert "user      admin present" in second.out
    home = tmp_path / "home"
    assert (home / "keys" / "pseudonym.key").stat().st_mode & 0o777 == 0o600
    assert (home / "medai.db").stat().st_mode & 0o077 == 0
    assert {file.stat().st_mode & 0o777 for file in (home / "models").iterdir()} == {0o400}


def test_a_user_is_added_with_a_given_or_a_made_password(medai: Medai, home: Path) -> None:
    given = medai("users", "add", "Ada", "--role", "clinician", "--password-stdin", text=PASSWORD)
    made = medai("users", "add", "bob", "--role", "viewer")

    assert given.code == made.code == 0
    assert "password" not in given.out
    assert "shown once" in made.out
    with sqlite3.connect(home / "medai.db") as database:
        users = database.execute(
            "SELECT username, role, must_change_password FROM users ORDER BY username"
        ).fetchall()
    database.close()
    assert users == [("ada", "clinician", 0), ("bob", "viewer", 1)]


@pytest.mark.parametrize(
    ("arguments", "text", "said"),
    [
        (("users", "add", "ada", "--role", "viewer", "--password-stdin"), "short", "at least 15"),
        (("models", "approve", "nothing", "1.0.0"), "", "no such model version"),
        (("models", "activate", "body-part", "1.0.0"), "", "cannot become active"),
        (("config", "check", "absent.yaml"), "", "cannot be read"),
    ],
)
def test_a_refusal_is_one_line_and_exit_code_one(
    medai: Medai, home: Path, arguments: tuple[str, ...], text: str, said: str
) -> None:
    done = medai(*arguments, text=text)

    assert done.code == 1
    assert done.err.strip().startswith("medai: ")
    assert len(done.err.strip().splitlines()) == 1
    assert said in done.err


def test_the_same_user_twice_is_a_conflict(medai: Medai, home: Path) -> None:
    add = ("users", "add", "ada", "--role", "viewer", "--password-stdin")

    assert medai(*add, text=PASSWORD).code == 0
    assert medai(*add, text=PASSWORD).code == 1


def test_wrong_usage_is_exit_code_two(medai: Medai) -> None:
    assert medai("users", "add").code == 2
    assert medai("users", "add", "ada", "--role", "king").code == 2


def test_a_misspelt_setting_stops_every_command(
    medai: Medai, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDAI_HOMME", "x")

    done = medai("db", "check")

    assert done.code == 1
    assert "did you mean MEDAI_HOME?" in done.err


def test_the_database_is_upgraded_only_by_hand(medai: Medai) -> None:
    before = medai("db", "check")
    upgraded = medai("db", "upgrade")
    after = medai("db", "check")

    assert before.code == 1
    assert "medai db upgrade" in before.err
    assert upgraded.code == after.code == 0


def test_the_log_of_a_fresh_home_verifies(medai: Medai, home: Path) -> None:
    shown = medai("audit", "verify")
    document = json.loads(medai("audit", "verify", "--json").out)

    assert shown.code == 0
    assert "whole" in shown.out
    assert document["intact"]
    assert document["entries"] == 9  # the beginning, and four steps of two models
    assert document["anchored"] == 0  # no writer has run yet
    assert "anchored  0, by the log's key; 9 since then" in shown.out


def test_without_the_log_s_key_a_verification_says_what_it_did_not_check(
    medai: Medai, home: Path
) -> None:
    shutil.rmtree(home / "keys" / "log")

    shown = medai("audit", "verify")
    document = json.loads(medai("audit", "verify", "--json").out)

    assert shown.code == 0
    assert "no signature was checked" in shown.out
    assert document["anchored"] is None


def test_a_changed_record_is_found_and_the_exit_code_says_so(medai: Medai, home: Path) -> None:
    with sqlite3.connect(home / "medai.db") as database:
        database.execute("UPDATE model_versions SET confidence_threshold = 0.1")
    database.close()

    shown = medai("audit", "verify")
    document = json.loads(medai("audit", "verify", "--json").out)

    assert shown.code == 1
    assert "broken" in shown.out
    assert document["problem_count"] == len(document["problems"]) > 0


def test_a_model_is_checked_registered_approved_activated_and_retired(
    medai: Medai, home: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "router"
    shutil.copytree(BUNDLED / "body-part", directory)
    card = yaml.safe_load((directory / "card.yaml").read_text())
    (directory / "card.yaml").write_text(yaml.safe_dump({**card, "version": "2.0.0"}))

    assert "fit to be registered" in medai("models", "check", str(directory)).out
    assert medai("models", "register", str(directory)).code == 0
    early = medai("models", "activate", "body-part", "2.0.0")
    alone = medai("models", "approve", "body-part", "2.0.0")
    medai("users", "add", "ada", "--role", "admin", "--password-stdin", text=PASSWORD)
    approve = ("models", "approve", "body-part", "2.0.0", "--as", "ada", "--password-stdin")
    guessed = medai(*approve, text="not the password")
    assert medai(*approve, text=PASSWORD).code == 0
    assert medai("models", "activate", "body-part", "2.0.0").code == 0
    listed = medai("models", "list").out
    retired = medai("models", "retire", "body-part", "1.0.0")

    assert early.code == alone.code == guessed.code == 1
    assert "who registered a version cannot approve it" in alone.err
    assert "do not open an administrator's account" in guessed.err
    rows = [line.split() for line in listed.splitlines() if "body-part" in line]
    states = {row[3]: row[5] for row in rows}
    assert states == {"2.0.0": "active", "1.0.0": "approved"}
    assert "1.0.0 is retired" in retired.out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sha256": "0" * 64}, "put the file's own hash into card.yaml"),
        ({"colour": "red"}, "colour"),
        ({"file": "absent.onnx"}, "absent.onnx"),
        ({"output": {"activation": "softmax", "labels": ["a", "b"]}}, "golden"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(
    medai: Medai, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    directory = tmp_path / "router"
    shutil.copytree(BUNDLED / "body-part", directory)
    card = yaml.safe_load((directory / "card.yaml").read_text())
    (directory / "card.yaml").write_text(yaml.safe_dump({**card, **change}))

    done = medai("models", "check", str(directory))

    assert done.code == 1
    assert said in done.err


@pytest.mark.parametrize(("text", "said"), [(None, "no readable card.yaml"), ("a: [", "not YAML")])
def test_a_directory_without_a_card_is_refused(
    medai: Medai, tmp_path: Path, text: str | None, said: str
) -> None:
    if text is not None:
        (tmp_path / "card.yaml").write_text(text)

    done = medai("models", "check", str(tmp_path))

    assert done.code == 1
    assert said in done.err


def test_ray_switches_are_printed_for_a_shell(medai: Medai) -> None:
    done = medai("env")

    assert "export RAY_SERVE_ENABLE_HA_PROXY='1'" in done.out
    assert "export RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH='67108864'" in done.out


def test_the_shipped_topology_passes_its_check(
    medai: Medai, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])

    assert "is right" in medai("config", "check").out


def test_settings_are_shown_without_secrets(medai: Medai, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDAI_DATABASE__URL", "postgresql+asyncpg://app:hush-hush@db/medai")

    done = medai("config", "show")

    assert json.loads(done.out)["profile"] == "development"
    assert "hush-hush" not in done.out


def test_a_server_that_is_not_there_is_told_plainly(
    medai: Medai, home: Path, tmp_path: Path
) -> None:
    file = tmp_path / "film.jpg"
    file.write_bytes(b"")
    where = ("--url", "http://127.0.0.1:9", "--user", "ada", "--password-stdin")

    done = medai("infer", str(file), *where, text=PASSWORD)

    assert done.code == 3
    assert "medai serve" in done.err


def test_a_model_is_rolled_back_halted_and_resumed(medai: Medai, home: Path) -> None:
    nowhere = medai("models", "rollback", "body-part")
    halted = medai("models", "halt", "body-part", "--reason", "wrong-answers")
    listed = medai("models", "list").out
    resumed = medai("models", "resume", "body-part")
    again = medai("models", "resume", "body-part")

    assert nowhere.code == again.code == 1
    assert "no version of this model served before" in nowhere.err
    assert "medai models resume body-part" in halted.out
    assert "halted" in listed
    assert resumed.code == 0
    assert "not halted" in again.err
