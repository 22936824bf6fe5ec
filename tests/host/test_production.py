"""What is unfit for a hospital is refused before anything is started, a line each, with the fix."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.settings import Settings
from deployments import production
from deployments.ports import open_to_others
from deployments.production import nodes_of, rays_without_token, refuse_unsafe
from registry.errors import InvalidConfiguration
from tests.host.conftest import SHIPPED, Medai
from tests.ports import free_port

POSTGRESQL = "postgresql+asyncpg://medai_app:{}@db/medai?ssl=verify-full"
APPLICATION: dict[str, Any] = yaml.safe_load(SHIPPED.read_text())["applications"][0]


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a production profile to which nothing is missing."""
    for name in [name for name in os.environ if name.startswith(("MEDAI_", "RAY_"))]:
        monkeypatch.delenv(name)
    key = tmp_path / "pseudonym.key"
    key.write_bytes(bytes(range(100, 132)))
    environment = {
        "MEDAI_PROFILE": "production",
        "MEDAI_HOME": str(tmp_path / "home"),
        "MEDAI_DATABASE__URL": POSTGRESQL.format("8f2b-own"),
        "MEDAI_AUTH__KEY_DIR": str(tmp_path / "keys"),
        "MEDAI_PRIVACY__PSEUDONYM_KEY_FILE": str(key),
        "MEDAI_SERVER__TLS_TERMINATED": "true",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(production, "DASHBOARD_PORT", free_port())
    return environment


def faults(application: dict[str, Any] = APPLICATION, *, rays: bool = False) -> list[str]:
    """What is refused of the settings in force and this application.

    Others' Rays on this machine are no matter of a test, unless `rays` says so.
    """
    try:
        refuse_unsafe(Settings.load(), [application])
    except InvalidConfiguration as error:
        said = [str(fault) for fault in error.violations]
        return [one for one in said if rays or not one.startswith("Ray on this machine")]
    return []


def with_gateway(**options: Any) -> dict[str, Any]:
    """The shipped application with another gateway."""
    gateway, *others = APPLICATION["deployments"]
    return {**APPLICATION, "deployments": [{**gateway, **options}, *others]}


@contextmanager
def raylet(directory: Path, **environment: str) -> Iterator[int]:
    """A process of that name, with this environment; gives its id."""
    directory.mkdir()
    program = directory / "raylet"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    with subprocess.Popen([program, "60"], env=environment) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def test_a_whole_production_profile_is_not_refused(whole: dict[str, str]) -> None:
    assert faults() == []


@pytest.mark.usefixtures("whole")
def test_ray_without_its_token_is_refused_and_the_value_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled-by-hand")

    (fault,) = faults()

    assert "allowed is token" in fault
    assert "unset RAY_AUTH_MODE" in fault
    assert "by-hand" not in fault


@pytest.mark.usefixtures("whole")
def test_a_ray_on_this_machine_that_asks_for_no_token_is_refused(tmp_path: Path) -> None:
    with raylet(tmp_path / "1") as open_one, raylet(tmp_path / "2", RAY_AUTH_MODE="token") as other:
        found = rays_without_token()
        said = " ".join(faults(rays=True))

    assert open_one in found
    assert other not in found
    assert f"pid {open_one}" in said
    assert 'eval "$(medai env)"' in said


@pytest.mark.usefixtures("whole")
def test_a_dashboard_off_loopback_is_refused() -> None:
    with socket.socket() as loopback, socket.socket() as everywhere:
        loopback.bind(("127.0.0.1", production.DASHBOARD_PORT))
        loopback.listen()
        on_loopback = faults()
        loopback.close()
        everywhere.bind(("0.0.0.0", production.DASHBOARD_PORT))  # noqa: S104  # the point
        everywhere.listen()
        (fault,) = faults()
        assert open_to_others([production.DASHBOARD_PORT]) != []

    assert on_loopback == []
    assert "--dashboard-host=127.0.0.1" in fault


@pytest.mark.parametrize(
    ("options", "nodes"),
    [
        ({"num_replicas": 3, "max_replicas_per_node": 1}, 3),
        ({"num_replicas": 3, "max_replicas_per_node": 2}, 2),
        ({"num_replicas": 3, "max_replicas_per_node": 3}, 1),
        ({"num_replicas": 3}, 1),
        ({"num_replicas": "auto"}, 1),
        ({"autoscaling_config": {"max_replicas": 4}, "max_replicas_per_node": 2}, 2),
        (
            {
                "placement_group_strategy": "STRICT_SPREAD",
                "placement_group_bundles": [{"CPU": 1}, {"CPU": 1}],
            },
            2,
        ),
        ({}, 1),
    ],
)
def test_how_many_nodes_a_deployment_takes(options: dict[str, Any], nodes: int) -> None:
    assert nodes_of(options) == nodes


@pytest.mark.usefixtures("whole")
def test_sqlite_on_several_nodes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    spread = with_gateway(num_replicas=2, max_replicas_per_node=1)
    with_postgresql = faults(spread)
    monkeypatch.delenv("MEDAI_DATABASE__URL")

    (fault,) = faults(spread)

    assert with_postgresql == []
    assert faults(with_gateway(num_replicas=2)) == []  # of one machine
    assert "Gateway is on 2 nodes or more, allowed is one node with SQLite" in fault
    assert "set MEDAI_DATABASE__URL to a PostgreSQL" in fault


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("password", ["medai_app", "postgres", "Password", "change%2Dme", "..."])
def test_a_default_password_is_refused_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    monkeypatch.setenv("MEDAI_DATABASE__URL", POSTGRESQL.format(password))

    (fault,) = faults()

    assert "with a default password" in fault
    assert password not in fault


@pytest.mark.usefixtures("whole")
def test_no_password_at_all_is_another_way_to_log_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDAI_DATABASE__URL", "postgresql+asyncpg://medai_app@/medai?host=/run")

    assert faults() == []


@pytest.mark.parametrize(
    ("key", "refused"),
    [
        (b"\0" * 32, True),
        (b"k" * 64, True),
        (b"changeme" * 8, True),
        (b"0123456789" * 5, True),
        (b"4f1c9a0e7b38d2655f1c9a0e7b38d26a4f1c9a0e7b38d2655f1c9a0e7b38d26a\n", False),
    ],
)
def test_a_key_that_was_typed_is_refused(whole: dict[str, str], key: bytes, refused: bool) -> None:
    Path(whole["MEDAI_PRIVACY__PSEUDONYM_KEY_FILE"]).write_bytes(key)

    found = faults()

    assert len(found) == refused
    if refused:
        assert "head -c 32 /dev/urandom" in found[0]


@pytest.mark.usefixtures("whole")
def test_the_development_profile_refuses_none_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDAI_PROFILE", "development")
    monkeypatch.setenv("MEDAI_DATABASE__URL", POSTGRESQL.format("postgres"))
    monkeypatch.setenv("RAY_AUTH_MODE", "off")

    with raylet(tmp_path / "1"):
        assert faults(with_gateway(num_replicas=2, max_replicas_per_node=1)) == []


def broken(whole: dict[str, str], tmp_path: Path) -> tuple[dict[str, str], Path]:
    """An environment and a topology with three faults."""
    Path(whole["MEDAI_PRIVACY__PSEUDONYM_KEY_FILE"]).write_bytes(b"k" * 32)
    topology = tmp_path / "topology.yaml"
    document = {"applications": [with_gateway(num_replicas=2, max_replicas_per_node=1)]}
    topology.write_text(yaml.safe_dump(document))
    environment = whole | {"RAY_AUTH_MODE": "off"}
    del environment["MEDAI_DATABASE__URL"]
    return environment, topology


def assert_three_lines(said: str) -> None:
    lines = said.strip().splitlines()
    assert len(lines) == 3, said
    for line, rule in zip(lines, ("RAY_AUTH_MODE", "Gateway", "PSEUDONYM_KEY_FILE"), strict=True):
        assert line.startswith("medai: the production profile refuses this installation: ")
        assert rule in line


def test_config_check_says_each_in_a_line_of_its_own(
    medai: Medai, whole: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment, topology = broken(whole, tmp_path)
    monkeypatch.delenv("MEDAI_DATABASE__URL", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    done = medai("config", "check", str(topology))

    assert done.code == 1
    assert_three_lines(done.err)


@pytest.mark.slow
def test_serve_refuses_the_same_before_ray_is_started(
    whole: dict[str, str], tmp_path: Path
) -> None:
    environment, topology = broken(whole, tmp_path)

    done = subprocess.run(
        [sys.executable, "-m", "deployments.cli", "serve", "--config", str(topology)],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )

    assert done.returncode == 1
    assert_three_lines(done.stderr)


def test_settings_that_production_refuses_are_a_line_each(
    medai: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDAI_PROFILE", "production")

    done = medai("config", "check", str(SHIPPED))

    assert done.code == 1
    assert [line.startswith("medai: a setting is wrong: ") for line in done.err.splitlines()] == [
        True,
        True,
    ]
    assert "key_dir" in done.err.splitlines()[0]
    assert "put a TLS proxy in front" in done.err.splitlines()[1]
