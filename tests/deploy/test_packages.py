"""The image, the compose file and the unit: what of them can be known without running them.

No container engine and no systemd runs here. The wheel that the image installs is built and looked
at; the unit is checked by `systemd-analyze` where it is; the rest is structure.
"""

import fnmatch
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.settings import ServerSettings, Settings
from tests.deploy.places import named_places, variables
from tests.deploy.promql import PROMETHEUS, ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
UNIT = ROOT / "configs" / "systemd" / "medai-flow.service"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here"
)


def instructions(name: str) -> list[str]:
    """The arguments of each instruction of a kind, continued lines joined."""
    joined = re.sub(r"\\\n", " ", DOCKERFILE)
    return re.findall(rf"^{name}\s+(.+)$", joined, re.MULTILINE)


def test_the_image_is_built_in_two_stages_and_runs_as_nobody_special() -> None:
    assert len(instructions("FROM")) == 2
    assert instructions("USER") == ["10001:10001"]
    assert instructions("ENTRYPOINT") == ['["medai"]']
    assert instructions("CMD")[-1] == '["serve"]'
    assert len(instructions("HEALTHCHECK")) == 1


def test_everything_the_image_installs_is_pinned_by_hash() -> None:
    installs = [line for line in instructions("RUN") if "pip install" in line]
    pinned = (ROOT / "requirements" / "demo.txt").read_text()

    assert "--require-hashes" in installs[0]
    assert "--no-deps" in installs[1]
    for name in re.findall(r"^([A-Za-z0-9_.\[\]-]+)==", pinned, re.MULTILINE):
        assert re.search(
            rf"^{re.escape(name)}==\S+ .*\\\n +--hash=sha256:", pinned, re.MULTILINE
        ), name


def test_every_file_the_image_copies_is_let_through_and_nothing_secret_is() -> None:
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    wanted = [
        source
        for line in instructions("COPY")
        if not line.startswith("--from")
        for source in line.split()[:-1]
    ]

    let_through = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    assert "*" in patterns
    for source in wanted:
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, pattern) for pattern in let_through), source
    for secret in ("var", ".env", ".git", "tests"):
        assert not any(fnmatch.fnmatch(secret, pattern) for pattern in let_through), secret


@pytest.mark.slow
def test_the_wheel_of_the_image_holds_all_that_running_needs(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr

    [wheel] = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())

    for needed in (
        "configs/serve_config.yaml",
        "configs/profiles/production.yaml",
        "deployments/cli.py",
        "storage/migrations/versions/0001_first_tables.py",
        "registry/bundled/cxr-pneumonia/model.onnx",
        "registry/bundled/cxr-pneumonia/card.yaml",
    ):
        assert needed in names
    assert not [name for name in names if name.startswith(("tests/", "var/", "benchmarks/"))]


def test_ports_of_the_image_are_those_of_the_settings() -> None:
    server = ServerSettings()

    [ports] = instructions("EXPOSE")
    assert [int(port) for port in ports.split()] == [
        server.port, server.metrics_port, server.haproxy_metrics_port,
    ]  # fmt: skip


def test_no_nameless_volume_takes_what_nobody_mounted_a_volume_for() -> None:
    assert instructions("VOLUME") == []


def variables_of(service: str) -> dict[str, str]:
    environment: dict[str, str] = COMPOSE["services"][service]["environment"]
    return environment


@pytest.mark.parametrize(("service", "role"), [("upgrade", "medai_owner"), ("medai", "medai_app")])
def test_the_server_has_a_role_that_cannot_change_a_record(
    service: str, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables_of(service).items():
        monkeypatch.setenv(name, re.sub(r"\$\{[^}]+\}", "secret", value))

    url = Settings.load().database_url

    assert url == f"postgresql+asyncpg://{role}:secret@postgres/medai"


def test_compose_keeps_databases_inside_and_publishes_on_this_machine_only() -> None:
    services = COMPOSE["services"]

    assert COMPOSE["networks"]["records"] == {"internal": True}
    assert services["postgres"]["networks"] == ["records"]
    assert "ports" not in services["postgres"]
    for name, service in services.items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name


def test_compose_starts_the_service_after_its_schema_and_hardens_it() -> None:
    services = COMPOSE["services"]

    needed = {"upgrade": {"condition": "service_completed_successfully"}}
    assert services["medai"]["depends_on"] == needed
    for name in ("medai", "upgrade"):
        assert services[name]["read_only"] is True
        assert services[name]["cap_drop"] == ["ALL"]
        assert services[name]["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("service", ["upgrade", "medai"])
def test_compose_keeps_keys_anchors_and_models_apart_from_the_container_and_the_database(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (variables(" ".join(instructions("ENV"))) | variables_of(service)).items():
        monkeypatch.setenv(name, re.sub(r"\$\{[^}]+\}", "secret", value))
    [database] = [volume.split(":")[0] for volume in COMPOSE["services"]["postgres"]["volumes"]]
    mounts = [volume.split(":") for volume in COMPOSE["services"][service]["volumes"]]

    places = named_places(Settings.load())

    assert {"anchor_file", "log_key_dir", "key_dir", "model_dir"} <= places.keys()
    for name, place in places.items():
        kept = [source for source, target in mounts if place.is_relative_to(target)]
        assert len(kept) == 1, name
        assert kept[0] in COMPOSE["volumes"], name
        assert kept[0] != database, name


def test_compose_names_only_volumes_networks_configs_and_files_there_are() -> None:
    volumes, networks, configs = (set(COMPOSE[key]) for key in ("volumes", "networks", "configs"))

    for name, service in COMPOSE["services"].items():
        assert set(service["networks"]) <= networks, name
        assert {config["source"] for config in service.get("configs", [])} <= configs, name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            known = source in volumes or (ROOT / source).exists()
            assert known, f"{name}: {source}"


def test_composes_prometheus_scrapes_the_services_ports() -> None:
    server = ServerSettings()
    targets = {
        name: yaml.safe_load(COMPOSE["configs"][name]["content"])[0]["targets"]
        for name in ("nodes", "haproxy")
    }

    assert targets == {
        "nodes": [f"medai:{server.metrics_port}"],
        "haproxy": [f"medai:{server.haproxy_metrics_port}"],
    }
    for name, port in (("nodes", server.metrics_port), ("haproxy", server.haproxy_metrics_port)):
        local = yaml.safe_load((PROMETHEUS / "targets" / f"{name}.yml").read_text())
        assert local == [{"targets": [f"127.0.0.1:{port}"]}]


def unit_for_this_machine(directory: Path) -> Path:
    """The unit with a program that exists, for `systemd-analyze`."""
    copy = directory / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/medai/bin/medai", shutil.which("true") or ""))
    return copy


@needs_systemd
def test_systemd_understands_every_line_of_the_unit(tmp_path: Path) -> None:
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit_for_this_machine(tmp_path))],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    ours = [line for line in checked.stderr.splitlines() if UNIT.name in line]
    assert ours == []
    assert checked.returncode == 0, checked.stderr


@needs_systemd
def test_the_unit_exposes_little_of_the_machine(tmp_path: Path) -> None:
    checked = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20",
         str(unit_for_this_machine(tmp_path))],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert checked.returncode == 0, checked.stdout[-300:]


def directives() -> dict[str, str]:
    """The unit's lines, of several with one name the last."""
    return dict(re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE))


def test_systemd_waits_longer_than_the_server_drains() -> None:
    values = directives()

    assert int(values["TimeoutStopSec"]) > ServerSettings().drain_s + 30
    assert values["KillMode"] == "mixed"


def test_the_unit_keeps_what_the_handbooks_settings_name_and_the_anchors_by_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handbook = (ROOT / "docs" / "operations.md").read_text()
    [environment] = re.findall(
        r"^```ini\n(MEDAI_PROFILE=.*?)^```", handbook, re.MULTILINE | re.DOTALL
    )
    for name, value in (variables(UNIT.read_text()) | variables(environment)).items():
        monkeypatch.setenv(name, value)
    settings = Settings.load()
    kept = [Path("/var/lib") / name for name in directives()["StateDirectory"].split()]

    on = {
        name: next((root for root in kept if place.is_relative_to(root)), None)
        for name, place in named_places(settings).items()
        if not place.is_relative_to("/etc")  # read, never written
    }

    assert directives()["ProtectSystem"] == "strict"  # nothing else can be written
    assert None not in on.values(), on
    assert on["anchor_file"] != settings.home_dir
    assert on["key_dir"] == on["log_key_dir"] == on["model_dir"] == settings.home_dir
