"""Through a real Ray: two replicas record, one page tells exactly what they recorded."""

import json
import shutil
import socket
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from deployments.telemetry.metrics_exposition import exposition

pytestmark = [pytest.mark.serve, pytest.mark.timeout(480)]

Totals = dict[tuple[str, frozenset[tuple[str, str]]], float]


def totals(page: str) -> Totals:
    """Each sample's value, summed over the workers."""
    sums: Totals = defaultdict(float)
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            labels = {key: said for key, said in sample.labels.items() if key != "worker_id"}
            sums[sample.name, frozenset(labels.items())] += sample.value
    return sums


def at(sums: Totals, name: str, **labels: str) -> float | None:
    return sums.get((name, frozenset(labels.items())))


@pytest.fixture(scope="module")
def pages() -> Iterator[dict[str, Any]]:
    """What `ray_app.py` saw: during the run, and after its replicas had ended."""
    with TemporaryDirectory(prefix="ray-", dir="/tmp") as directory:  # short: Ray's sockets
        yield run(Path(directory))


def run(run_dir: Path) -> dict[str, Any]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    report = run_dir / "report.json"
    app = Path(__file__).with_name("ray_app.py")
    done = subprocess.run(
        [sys.executable, str(app), str(run_dir), str(port), str(report)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(report.read_text())
    return answer


def test_the_sum_over_replicas_is_exactly_what_happened(pages: dict[str, Any]) -> None:
    sums = totals(pages["during"])

    request = {"route": "/infer", "method": "POST", "status": "200", "outcome": "predicted"}
    assert at(sums, "ray_medai_requests_total", **request) == 200
    version = {"model": "cxr-pneumonia", "version": "1.2.3"}
    assert at(sums, "ray_medai_inferences_total", **version, outcome="predicted") == 200


def test_a_histogram_is_exact_in_buckets_count_and_sum(pages: dict[str, Any]) -> None:
    sums = totals(pages["during"])

    total = {"model": "cxr-pneumonia", "phase": "total"}
    assert at(sums, "ray_medai_phase_seconds_count", **total) == 200
    assert at(sums, "ray_medai_phase_seconds_sum", **total) == pytest.approx(200 * 0.00925)
    assert at(sums, "ray_medai_phase_seconds_bucket", **total, le="0.005") == 0
    assert at(sums, "ray_medai_phase_seconds_bucket", **total, le="0.01") == 200
    assert at(sums, "ray_medai_phase_seconds_bucket", **total, le="+Inf") == 200


def test_a_counter_is_known_before_anything_has_happened(pages: dict[str, Any]) -> None:
    assert at(totals(pages["during"]), "ray_medai_lockouts_total") == 0


def test_totals_outlive_their_replicas_and_the_last_counts_are_among_them(
    pages: dict[str, Any],
) -> None:
    sums = totals(pages["after"])

    request = {"route": "/infer", "method": "POST", "status": "200", "outcome": "predicted"}
    assert at(sums, "ray_medai_requests_total", **request) == 200
    assert at(sums, "ray_medai_lockouts_total") == 2


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not here (package prometheus)"
)
def test_promtool_finds_nothing_wrong_with_what_is_ours(pages: dict[str, Any]) -> None:
    ours = exposition(pages["during"], ("ray_medai_",))

    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=ours, capture_output=True, text=True, check=False
    )

    assert "ray_medai_phase_seconds_bucket" in ours
    assert (checked.returncode, checked.stderr) == (0, "")


def test_the_loop_of_every_replica_is_watched(pages: dict[str, Any]) -> None:
    count = at(
        totals(pages["during"]), "ray_medai_event_loop_lag_seconds_count", component="gateway"
    )

    assert count is not None
    assert count >= 2
