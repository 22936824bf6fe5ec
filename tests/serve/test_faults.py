"""What breaks heals, and nothing that was answered is lost."""

import concurrent.futures
import os
import signal
import socket
import time
from urllib.parse import urlsplit

import httpx2
import psutil
import pytest

from tests.serve.conftest import Service
from tests.serve.films import INFER, film

pytestmark = [pytest.mark.serve, pytest.mark.timeout(480)]

JPEG = {"Content-Type": "image/jpeg"}
HEALED_S = 40.0


def ask(client: httpx2.Client) -> tuple[int, str | None]:
    """Status and result id of one request; 0 where the connection broke."""
    try:
        response = client.post(INFER, content=film(), headers=JPEG)
    except httpx2.HTTPError:
        return 0, None
    document = response.json() if response.content else {}
    return response.status_code, document.get("result_id")


def until_answered(client: httpx2.Client) -> None:
    """Ask until ten requests in a row are answered."""
    deadline = time.monotonic() + HEALED_S
    row = 0
    while row < 10:
        row = row + 1 if ask(client)[0] == 200 else 0
        assert time.monotonic() < deadline, "the service did not heal"


def test_clients_that_leave_harm_nobody(service: Service) -> None:
    """Clients hang up in mid-request; every one of the next 200 requests is answered."""
    address = urlsplit(service.url)
    with service.client("carl") as client:
        token = client.headers["Authorization"]
        head = (
            f"POST {INFER} HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: {token}\r\n"
            f"Content-Type: image/jpeg\r\nContent-Length: {len(film())}\r\n\r\n"
        ).encode()
        for _ in range(40):
            with socket.create_connection((address.hostname, address.port)) as leaving:
                leaving.sendall(head + film())
                leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

        with concurrent.futures.ThreadPoolExecutor(16) as threads:
            statuses = [status for status, _ in threads.map(lambda _: ask(client), range(200))]

    assert statuses == [200] * 200


@pytest.mark.parametrize("deployment", ["AuditWriter", "Validator", "OnnxModel:cxr-pneumonia"])
def test_a_killed_replica_is_replaced_and_no_answer_is_lost(
    service: Service, deployment: str
) -> None:
    answered: list[str] = []
    statuses: set[int] = set()
    with service.client("carl") as client, service.client("anna") as admin:
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            load = [threads.submit(ask, client) for _ in range(100)]
            for victim in service.replicas(deployment):
                os.kill(victim.pid, signal.SIGKILL)
            for done in concurrent.futures.as_completed(load):
                status, result_id = done.result()
                statuses.add(status)
                if status == 200:
                    assert result_id is not None
                    answered.append(result_id)
        until_answered(client)

        lost = [
            result_id
            for result_id in answered
            if admin.get(f"/results/{result_id}").status_code != 200
        ]

    assert lost == []
    assert statuses <= {200, 503}
    verified = service.medai("audit", "verify")
    assert verified.returncode == 0, verified.stdout


def test_a_killed_gateway_is_replaced(service: Service) -> None:
    (victim,) = service.replicas("Gateway")

    os.kill(victim.pid, signal.SIGKILL)

    with httpx2.Client(base_url=service.url, timeout=2) as client:
        deadline = time.monotonic() + HEALED_S
        healed = False
        while not healed:
            assert time.monotonic() < deadline
            try:
                healed = client.get("/health/ready").is_success
            except httpx2.HTTPError:
                healed = False
    assert victim.pid not in {replica.pid for replica in service.replicas("Gateway")}


def test_a_service_is_told_to_be_alone_on_its_home(service: Service) -> None:
    second = service.medai("serve")

    assert second.returncode == 1
    assert second.stderr.strip().count("\n") == 0
    assert f"pid {service.process.pid}" in second.stderr
    assert psutil.pid_exists(service.process.pid)
