"""`medai doctor` beside a running service: what the service holds is no fault."""

import json

import pytest

from tests.serve.conftest import Service

pytestmark = [pytest.mark.serve, pytest.mark.timeout(480)]


def test_a_running_service_is_known_as_one_and_haproxy_s_open_ports_are_named(
    service: Service,
) -> None:
    done = service.medai("doctor", "--json")

    found = {one["check"]: one for one in json.loads(done.stdout)["findings"]}
    assert found["last run"]["found"] == f"running (pid {service.process.pid})"
    assert (found["ports"]["state"], found["ports"]["found"]) == (
        "ok",
        "held by the running server",
    )
    assert found["HAProxy's own ports"]["state"] == "warn"
    for name in ("HAPROXY_METRICS_PORT", "HAPROXY_STATS_PORT"):
        port = service.environment[f"MEDAI_SERVER__{name}"]
        assert f":{port}" in found["HAProxy's own ports"]["found"]
    assert found["database"]["state"] == "ok"
