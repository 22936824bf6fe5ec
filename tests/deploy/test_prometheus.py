"""Prometheus' files: right by promtool, on names that exist, alive in a real Prometheus.

promtool and prometheus are Debian's package `prometheus`; where they are missing, the tests that
need them say so and are skipped.
"""

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.telemetry.metrics import Instruments
from deployments.telemetry.metrics_exposition import EXPORTED_PREFIX, exposition
from tests.deploy.exporter import FOREIGN, BusyService, exporting
from tests.deploy.promql import (
    PROMETHEUS,
    ROOT,
    alert_expressions,
    labels_in,
    metrics_in,
    panel_expressions,
    rules,
)

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not here (package prometheus)"
)
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is not here (package prometheus)"
)
PROMETHEUS_OWN = {"up": {"job", "instance"}, "ALERTS": {"alertname", "alertstate"}}
SCRAPED = {"instance", "job", "worker_id"}  # what a sample has beside the labels of its instrument

Query = Callable[[str], list[Any]]


def promtool(*arguments: str, text: str | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["promtool", *arguments],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def known_metrics() -> dict[str, set[str]]:
    """Every metric there is, with its labels."""
    known = dict(PROMETHEUS_OWN)
    for spec in Instruments.specs():
        labels = {label.name for label in spec.labels}
        name = f"{EXPORTED_PREFIX}{spec.name}"
        if spec.kind == "histogram":
            known |= {f"{name}_bucket": {*labels, "le"}, f"{name}_sum": labels}
            known[f"{name}_count"] = labels
        else:
            known[name] = labels
    for line in FOREIGN.read_text().splitlines():
        if not line.startswith("#"):
            name, _, labels_text = line.rpartition(" ")[0].partition("{")
            known[name] = set(re.findall(r'(\w+)="', labels_text))
    return known


EXPRESSIONS = [*alert_expressions(), *panel_expressions()]


@pytest.mark.parametrize(("place", "expression"), EXPRESSIONS, ids=[it for it, _ in EXPRESSIONS])
def test_every_expression_is_built_on_metrics_and_labels_that_exist(
    place: str, expression: str
) -> None:
    known = known_metrics()

    used = metrics_in(expression)

    assert used, place
    assert used <= known.keys(), f"{place}: {used - known.keys()}"
    labels = set().union(SCRAPED, *(known[name] for name in used))
    assert labels_in(expression) <= labels, f"{place}: {labels_in(expression) - labels}"


def test_a_word_that_is_no_metric_is_found() -> None:
    assert metrics_in('sum by (le) (rate(ray_medai_x{a="b"}[5m])) > 1e3 and ray_y') == {
        "ray_medai_x",
        "ray_y",
    }
    assert metrics_in("summ(ray_y)") == {"summ", "ray_y"}
    assert labels_in('sum by (le, c) (x{a!="b",d=~"e"}) / on (f) y') == {"le", "c", "a", "d", "f"}


def test_nearly_every_instrument_is_on_a_dashboard_or_in_an_alert() -> None:
    used = set().union(*(metrics_in(expression) for _, expression in EXPRESSIONS))
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in used} | used

    unused = [
        spec.name for spec in Instruments.specs() if f"{EXPORTED_PREFIX}{spec.name}" not in shown
    ]

    assert unused == []


def test_every_alert_says_how_urgent_it_is_and_what_happened() -> None:
    for name, rule in rules():
        assert name.startswith("Medai")
        assert rule["labels"] in ({"severity": "page"}, {"severity": "ticket"}), name
        assert rule["annotations"]["summary"], name  # type: ignore[index]  # of YAML


def test_every_alert_is_told_what_to_do_about_in_the_handbook() -> None:
    handbook = (ROOT / "docs" / "operations.md").read_text()

    missing = [name for name, _ in rules() if f"### {name}\n" not in handbook]

    assert missing == []


def test_every_alert_has_a_test_that_fires_and_one_that_does_not() -> None:
    tests = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
    expected = [rule for test in tests for rule in test["alert_rule_test"]]

    names = {name for name, _ in rules()}
    assert {rule["alertname"] for rule in expected if rule["exp_alerts"]} == names
    assert {rule["alertname"] for rule in expected if not rule["exp_alerts"]} == names


@needs_promtool
def test_promtool_accepts_configuration_and_rules() -> None:
    checked = promtool("check", "config", str(PROMETHEUS / "prometheus.yml"))

    assert checked.returncode == 0, checked.stderr + checked.stdout


@needs_promtool
def test_the_alerts_fire_when_they_should_and_only_then() -> None:
    tested = promtool("test", "rules", str(PROMETHEUS / "alerts_test.yml"))

    assert tested.returncode == 0, tested.stderr + tested.stdout


@needs_promtool
def test_promtool_finds_nothing_wrong_with_the_page_of_the_service() -> None:
    page = exposition(BusyService().page(), (f"{EXPORTED_PREFIX}medai_",))

    checked = promtool("check", "metrics", text=page)

    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout + checked.stderr == ""


@pytest.fixture(scope="module")
def query(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Query]:
    """Asks a real Prometheus that runs our configuration against a busy service."""
    directory = tmp_path_factory.mktemp("prometheus")
    shutil.copytree(PROMETHEUS, directory, dirs_exist_ok=True)
    config = directory / "prometheus.yml"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"

    def ask(expression: str) -> list[Any]:
        text = urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(f"http://{address}/api/v1/query?{text}") as response:
                answer: list[Any] = json.load(response)["data"]["result"]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from None
        return answer

    with exporting(BusyService()) as target:
        text = config.read_text().replace("15s", "1s").replace("10s", "1s")
        config.write_text(text.replace("127.0.0.1:9115", target))
        for name in ("nodes", "haproxy", "tls"):
            (directory / "targets" / f"{name}.yml").write_text(f"- targets: [{target}]\n")
        command = ["prometheus", f"--config.file={config}", f"--web.listen-address={address}",
                   f"--storage.tsdb.path={directory / 'data'}"]  # fmt: skip
        with (directory / "log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_for_samples(ask, directory / "log")
            yield ask
        finally:
            process.terminate()
            process.wait(20)


def wait_for_samples(ask: Query, log: Path) -> None:
    """Until rates can be told: some seconds of samples."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if ask("count_over_time(ray_medai_audit_writer_up[1m]) > 5"):
                return
        except OSError:  # it does not listen yet
            pass
        time.sleep(0.2)
    raise AssertionError(log.read_text()[-2000:])


@needs_prometheus
@pytest.mark.slow
def test_every_panel_shows_something_in_a_real_prometheus(query: Query) -> None:
    empty = [place for place, expression in panel_expressions() if not query(expression)]

    assert empty == []


@needs_prometheus
@pytest.mark.slow
def test_every_alert_can_be_evaluated_by_a_real_prometheus(query: Query) -> None:
    for _, expression in alert_expressions():
        query(expression)

    assert query('ALERTS{alertname="MedaiAuditFailures"}')


@needs_prometheus
@pytest.mark.slow
def test_what_says_the_same_of_every_sample_is_dropped(query: Query) -> None:
    assert query("ray_node_cpu_utilization")
    assert query('{otel_scope_name!=""}') == []
    assert query('{__name__=~"haproxy_process_.+|python_.+"}') == []
