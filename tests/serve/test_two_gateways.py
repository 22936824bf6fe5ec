"""Two gateways behind HAProxy: what one is told counts on the other, and slow clients starve none.

A service of its own, with the topology of `serve_config.yaml` and one gateway more.
"""

import json
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
import yaml

from tests.serve.conftest import PASSWORD, READY_S, Service, environment_for, medai, running
from tests.serve.films import INFER

pytestmark = [pytest.mark.serve, pytest.mark.long, pytest.mark.timeout(480)]

TOPOLOGY = Path(__file__).parents[2] / "serve_config.yaml"
HEADER_TIMEOUT_S = 2.0
REVOKED_WITHIN_S = 1.0
WATCHED_S = 1.5  # how long the answers are watched after a revocation
ROUNDS = 3


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two gateways, one user of each role."""
    directory = tmp_path_factory.mktemp("two")
    environment = environment_for(directory / "home")
    environment["MEDAI_LIMITS__HEADER_TIMEOUT_S"] = str(HEADER_TIMEOUT_S)
    assert medai(environment, "init", "--no-admin").returncode == 0
    for name, role in (("carl", "clinician"), ("cleo", "clinician"), ("anna", "admin")):
        added = medai(
            environment, "users", "add", name, "--role", role, "--password-stdin", text=PASSWORD
        )
        assert added.returncode == 0, added.stderr
    topology = yaml.safe_load(TOPOLOGY.read_text())
    (gateway,) = (
        one for one in topology["applications"][0]["deployments"] if one["name"] == "Gateway"
    )
    gateway["num_replicas"] = 2
    config = directory / "two_gateways.yaml"
    config.write_text(yaml.safe_dump(topology))
    with running(environment, directory / "server.log", "--config", str(config)) as service:
        yield service


@pytest.fixture(scope="module")
def gateways(service: Service) -> list[str]:
    """The address of each gateway, beside HAProxy, once both answer."""
    low, high = json.loads(service.environment["MEDAI_SERVER__REPLICA_PORTS"])
    deadline = time.monotonic() + READY_S  # the service is ready with the first of them
    while True:
        answering = [
            f"http://127.0.0.1:{connection.laddr.port}"
            for gateway in service.replicas("Gateway")
            for connection in gateway.net_connections("tcp")
            if connection.status == "LISTEN" and low <= connection.laddr.port <= high
        ]
        if len(answering) == 2 and all(ready(url) for url in answering):
            return answering
        assert time.monotonic() < deadline, answering
        time.sleep(0.5)


def ready(url: str) -> bool:
    """Whether a gateway answers."""
    try:
        return httpx2.get(f"{url}/health/ready").is_success
    except httpx2.HTTPError:
        return False


def user_id(admin: httpx2.Client, username: str) -> str:
    """The id of an account."""
    users = admin.get("/admin/users").json()["items"]
    return next(str(user["user_id"]) for user in users if user["username"] == username)


def seconds_until_refused(
    gateways: list[str], headers: dict[str, str], revoke: Callable[[], httpx2.Response]
) -> float:
    """How long after the answer to `revoke` a gateway still let the token in, at the latest."""
    clients = [httpx2.Client(base_url=url, headers=headers) for url in gateways]
    try:
        assert 401 not in {client.post(INFER).status_code for client in clients}
        assert revoke().is_success
        revoked = time.monotonic()
        delay = 0.0
        while (asked := time.monotonic()) < revoked + WATCHED_S:
            for client in clients:
                if client.post(INFER).status_code != 401:
                    delay = asked - revoked
            time.sleep(0.005)
    finally:
        for client in clients:
            client.close()
    return delay


def test_a_logout_counts_on_both_gateways_within_a_second(
    service: Service, gateways: list[str], record_testsuite_property: Callable[[str, object], None]
) -> None:
    delays = []
    for _ in range(ROUNDS):
        with service.client("carl") as client:
            headers = {"Authorization": client.headers["Authorization"]}
            delays.append(
                seconds_until_refused(gateways, headers, partial(client.post, "/auth/logout"))
            )

    record_testsuite_property("logout_delay_s", max(delays))
    assert max(delays) < REVOKED_WITHIN_S


def test_another_role_and_a_disabling_count_on_both_gateways_within_a_second(
    service: Service, gateways: list[str], record_testsuite_property: Callable[[str, object], None]
) -> None:
    with service.client("anna") as admin:
        account = f"/admin/users/{user_id(admin, 'cleo')}"
        delays = []
        for change in ({"role": "viewer"}, {"disabled": True}):  # a new role ends the old tokens
            with service.client("cleo") as client:
                headers = {"Authorization": client.headers["Authorization"]}
            delays.append(
                seconds_until_refused(gateways, headers, partial(admin.patch, account, json=change))
            )
    role, disabled = delays

    record_testsuite_property("role_delay_s", role)
    record_testsuite_property("disabled_delay_s", disabled)
    assert max(role, disabled) < REVOKED_WITHIN_S


def test_an_administrator_sees_the_replicas_of_every_deployment(service: Service) -> None:
    deadline = time.monotonic() + READY_S
    with service.client("anna") as admin:
        while True:
            counted = admin.get("/health").json()["details"]["replicas"]
            if counted["deployments"] is not None and all(
                one["running"] == one["wanted"] for one in counted["deployments"].values()
            ):
                break
            assert time.monotonic() < deadline, counted
            time.sleep(0.2)

    assert counted["reason"] is None
    assert counted["deployments"]["Gateway"] == {"running": 2, "wanted": 2}
    assert counted["deployments"]["AuditWriter"] == {"running": 1, "wanted": 1}
    assert "OnnxModel:cxr-pneumonia" in counted["deployments"]


def test_headers_that_drip_are_cut_off_in_time_while_others_are_answered(service: Service) -> None:
    address = urlsplit(service.url)
    started = time.monotonic()
    slow = [socket.create_connection((address.hostname, address.port)) for _ in range(50)]
    try:
        for one in slow:
            one.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n")
        slowest = 0.0
        while time.monotonic() < started + HEADER_TIMEOUT_S - 0.3:
            asked = time.monotonic()
            assert httpx2.get(f"{service.url}/health/live").is_success
            slowest = max(slowest, time.monotonic() - asked)
            for one in slow:
                one.sendall(b"X-Drip: 1\r\n")
            time.sleep(0.2)
        answers = [answer_of(one) for one in slow]
    finally:
        for one in slow:
            one.close()

    assert time.monotonic() - started < HEADER_TIMEOUT_S + 2
    assert slowest < 1.0
    assert all(answer.startswith(b"HTTP/1.1 408 ") for answer in answers)


def answer_of(connection: socket.socket) -> bytes:
    """Everything the server says until it closes."""
    connection.settimeout(HEADER_TIMEOUT_S + 3)
    said = b""
    while received := connection.recv(4096):
        said += received
    return said
