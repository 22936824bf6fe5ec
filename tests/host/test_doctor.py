"""`medai doctor`: each thing is broken for real, and its line says what and what to do."""

import http.server
import json
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest

from configs.settings import Settings
from deployments.doctor import examination, host
from deployments.doctor.finding import Check, Finding, Installation, State
from registry.errors import InvalidModel
from tests.host.conftest import Medai
from tests.serve.conftest import PORTS

FAIL = "fail"
SHIPPED = Path(__file__).parents[2] / "serve_config.yaml"

Lines = dict[str, list[dict[str, Any]]]
Doctor = Callable[..., Lines]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared home, to be copied: making one takes seconds."""
    home = tmp_path_factory.mktemp("template") / "home"
    subprocess.run(
        [sys.executable, "-m", "deployments.cli", "init", "--no-admin"],
        env={"MEDAI_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        check=True,
        timeout=100,
    )
    return home


@pytest.fixture
def home(medai: Medai, template: Path, tmp_path: Path) -> Path:
    """The command's own home, with ports of its own."""
    home = tmp_path / "home"
    shutil.copytree(template, home)
    return home


@pytest.fixture
def doctor(home: Path, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """Gives what `medai doctor` finds, by check; all but the topology's, which takes seconds."""
    for name in PORTS:
        monkeypatch.setenv(f"MEDAI_SERVER__{name}", str(free_port()))
    monkeypatch.setattr(
        examination, "CHECKS", [one for one in examination.CHECKS if one.name != "topology"]
    )

    def look(topology: Path = SHIPPED) -> Lines:
        lines: Lines = {}
        for one in examination.examine(topology):
            lines.setdefault(one.check, []).append(asdict(one))
        return lines

    return look


def faults(lines: Lines) -> dict[str, str]:
    """What fails, with what was found."""
    return {
        name: one["found"] for name, found in lines.items() for one in found if one["state"] == FAIL
    }


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


def test_a_taken_port_names_its_holder_and_the_setting(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("MEDAI_SERVER__PORT", str(port))

        lines = doctor()

    assert f"port {port} is held by" in faults(lines)["ports"]
    assert "MEDAI_SERVER__PORT" in lines["ports"][0]["advice"]


def test_haproxy_s_port_on_every_address_is_warned_of(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("", 0)) as open_port:
        port = open_port.getsockname()[1]
        monkeypatch.setenv("MEDAI_SERVER__HAPROXY_STATS_PORT", str(port))

        lines = doctor()

    [line] = lines["HAProxy's own ports"]
    assert (line["state"], line["found"]) == ("warn", f"open at 0.0.0.0:{port}")


@pytest.fixture
def killed_run(home: Path, tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that a run left, and the record of that run, whose server has gone."""
    directory = tmp_path / "run"
    directory.mkdir()
    left = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"],
        env={"RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{directory}/haproxy.cfg"},
    )
    record = {"pid": left.pid, "started": 1.0, "directory": str(directory)}
    (home / "server.json").write_text(json.dumps(record))
    deadline = time.monotonic() + 5
    while "haproxy.cfg" not in str(psutil.Process(left.pid).environ()):
        assert time.monotonic() < deadline
    yield left
    left.kill()
    left.wait()


def test_what_a_killed_run_left_is_counted(
    doctor: Doctor, killed_run: "subprocess.Popen[bytes]"
) -> None:
    lines = doctor()

    [line] = lines["last run"]
    assert (line["state"], line["found"]) == (
        "warn",
        "was killed; 1 process(es) of it are left",
    )
    assert killed_run.poll() is None  # it looks, it does not touch


@pytest.mark.parametrize(
    ("free", "total", "state"),
    [
        (50_000, 100_000, State.OK),
        (10_000, 100_000, State.OK),
        (9_999, 100_000, State.WARN),
        (1_999, 100_000, State.FAIL),
        (255, 1_000, State.FAIL),
    ],
)
def test_a_disk_is_judged_by_its_free_part_and_its_least(
    free: int, total: int, state: State
) -> None:
    assert host.space("disk", free * host.MIB, total * host.MIB).state == state


def test_more_threads_than_cores_are_warned_of(doctor: Doctor, tmp_path: Path) -> None:
    greedy = tmp_path / "topology.yaml"
    greedy.write_text(SHIPPED.read_text().replace("threads: 1 }", "threads: 200 }"))

    [line] = doctor(greedy)["processors"]

    assert line["state"] == "warn"
    assert line["found"].startswith("models use 400 to 600 thread(s), there are ")


@contextmanager
def collector(status: int | None) -> Iterator[int]:
    """A collector that gives this answer, or none at all. Yields its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            takes = self.path == "/v1/traces" and self.headers["authorization"] == "Bearer hush"
            self.send_response(status if takes else 400)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    if status is None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            yield server.getsockname()[1]
        return
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "state", "found", "advice"),
    [
        (200, "ok", "the collector takes spans", ""),
        (401, "warn", "the collector answers 401", "mend MEDAI_TRACING__HEADERS"),
        (404, "warn", "the collector answers 404 to OTLP over HTTP", "mend MEDAI_TRACING__ENDP"),
        (None, "warn", "the collector did not answer within 0.2 s", "start it, or mend"),
    ],
)
def test_the_collector_of_traces_is_asked_as_the_service_would(
    doctor: Doctor,
    monkeypatch: pytest.MonkeyPatch,
    status: int | None,
    state: str,
    found: str,
    advice: str,
) -> None:
    monkeypatch.setenv("MEDAI_TRACING__HEADERS", '{"authorization": "Bearer hush"}')
    monkeypatch.setenv("MEDAI_TRACING__TIMEOUT_S", "0.2" if status is None else "5")
    with collector(status) as port:
        monkeypatch.setenv("MEDAI_TRACING__ENDPOINT", f"http://127.0.0.1:{port}")

        lines = doctor()

    [line] = lines["traces"]
    assert (line["state"], line["found"][: len(found)]) == (state, found)
    assert line["advice"].startswith(advice)
    assert "hush" not in json.dumps(lines)


def test_a_collector_that_is_away_is_warned_of_and_no_endpoint_is_all_right(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    [off] = doctor()["traces"]
    monkeypatch.setenv("MEDAI_TRACING__ENDPOINT", f"http://127.0.0.1:{free_port()}")

    [away] = doctor()["traces"]

    assert (off["state"], off["found"]) == ("ok", "off: MEDAI_TRACING__ENDPOINT is not set")
    assert away["state"] == "warn"
    assert away["found"] == "the collector cannot be reached (ConnectError)"


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
