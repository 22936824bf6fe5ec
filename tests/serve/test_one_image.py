"""The main job through a real Ray Serve: HAProxy, gateway, validator, model, audit writer."""

import concurrent.futures
import json
import time
from pathlib import Path

import pytest
from httpx2 import Client, Response

from tests.serve.challengers import challenger
from tests.serve.conftest import PASSWORD, Service
from tests.serve.films import INFER, ROUTER, corrupt, film, film_file, washed_out
from tests.telemetry.collector import Collector

pytestmark = [pytest.mark.serve, pytest.mark.timeout(480)]

JPEG = {"Content-Type": "image/jpeg"}
DICOM = {"Content-Type": "application/dicom"}


def send(client: Client, body: bytes) -> Response:
    """One JPEG to the chest model."""
    return client.post(INFER, content=body, headers=JPEG)


def test_a_film_comes_back_validated_and_recorded(service: Service) -> None:
    with service.client("carl") as client:
        response = send(client, film())

        assert response.status_code == 200
        answer = response.json()
        assert answer["outcome"] == "predicted"
        assert answer["prediction"] in {"NORMAL", "PNEUMONIA"}
        assert answer["validation"]["is_valid"]
        assert answer["gate"]["label"] == "CXR"
        assert len(answer["model"]["sha256"]) == 64
        assert "total;dur=" in response.headers["Server-Timing"]
        stored = client.get(f"/results/{answer['result_id']}").json()
        assert stored["audit"] == answer["audit"]
        assert stored["scores"] == answer["scores"]


def test_an_adult_film_gets_no_label_from_the_childrens_model(service: Service) -> None:
    with service.client("carl") as client:
        body = film_file().read_bytes()

        answer = client.post(INFER, content=body, headers=DICOM).json()
        router = client.post(ROUTER, content=body, headers=DICOM).json()

    assert answer["outcome"] == "abstained"
    assert answer["prediction"] is None
    assert answer["needs_review"]
    assert "OUTSIDE_INTENDED_USE" in answer["reasons"]
    assert answer["patient"].startswith("p1:")
    assert router["prediction"] == "CXR"


def test_a_ruined_image_is_refused_with_every_broken_rule_and_recorded(service: Service) -> None:
    with service.client("carl") as client:
        response = send(client, washed_out())

        problem = response.json()
        assert response.status_code == 422
        assert response.headers["Content-Type"] == "application/problem+json"
        broken = {violation["rule"] for violation in problem["violations"]}
        assert {"brightness", "contrast"} <= broken
        stored = client.get(f"/results/{problem['result_id']}").json()
        assert stored["outcome"] == "rejected"


def test_a_traced_request_is_one_trace_through_every_deployment(
    service: Service, collector: Collector
) -> None:
    trace, caller = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    header = {"traceparent": f"00-{trace}-{caller}-01"}
    with service.client("carl") as client:
        untraced = send(client, film())
        response = client.post(INFER, content=film(), headers=JPEG | header)

    deadline = time.monotonic() + 20
    while len(spans := collector.spans()) < 12 and time.monotonic() < deadline:
        time.sleep(0.1)

    assert untraced.headers["traceparent"][3:35] != trace
    assert {component for component, _ in spans} == {
        "gateway",
        "validator",
        "model:cxr-pneumonia",
        "audit-writer",
    }
    assert {span.trace_id.hex() for _, span in spans} == {trace}
    ids = {span.span_id.hex() for _, span in spans}
    assert {span.parent_span_id.hex() for _, span in spans} < ids | {caller}
    assert response.headers["traceparent"].split("-")[2] in ids


def test_one_corrupt_image_among_eight_fails_alone(service: Service) -> None:
    with service.client("carl") as client, concurrent.futures.ThreadPoolExecutor(8) as threads:
        bodies = [film()] * 7 + [corrupt()]

        for _ in range(3):
            statuses = list(threads.map(lambda body: send(client, body).status_code, bodies))
            assert statuses == [200] * 7 + [422]


def test_who_may_not_infer_is_refused(service: Service) -> None:
    with service.client("vera") as viewer, service.client() as anonymous:
        assert send(viewer, film()).status_code == 403
        assert send(anonymous, film()).status_code == 401


def test_a_token_is_worth_nothing_after_logout(service: Service) -> None:
    with service.client("carl") as client:
        assert client.post("/auth/logout").is_success

        assert send(client, film()).status_code == 401


def test_a_model_arrives_through_the_proxy_checked_and_registered(
    service: Service, tmp_path: Path
) -> None:
    version = challenger(tmp_path / "version", "9.9.9", 0.5)
    parts = {
        "card": ("card.yaml", (version / "card.yaml").read_bytes(), "application/yaml"),
        "model": ("model.onnx", (version / "model.onnx").read_bytes(), "application/octet-stream"),
    }

    with service.client("carl") as clinician:
        assert clinician.post("/admin/models", files=parts).status_code == 403
    with service.client("anna") as admin:
        uploaded = admin.post("/admin/models", files=parts, timeout=60)
        again = admin.post("/admin/models", files=parts, timeout=60)
        versions = admin.get("/models/cxr-pneumonia").json()["versions"]

    assert uploaded.status_code == 201, uploaded.text
    assert again.status_code == 409
    assert {one["version"]: one["status"] for one in versions}["9.9.9"] != "active"
    assert service.medai("audit", "verify").returncode == 0


def test_the_replicas_own_port_asks_for_a_token_as_well(service: Service) -> None:
    low, high = json.loads(service.environment["MEDAI_SERVER__REPLICA_PORTS"])
    (gateway,) = service.replicas("Gateway")
    ports = [
        connection.laddr.port
        for connection in gateway.net_connections("tcp")
        if connection.status == "LISTEN" and low <= connection.laddr.port <= high
    ]

    for port in ports:
        with Client(base_url=f"http://127.0.0.1:{port}") as beside:
            assert send(beside, film()).status_code == 401
    assert ports


def test_the_command_line_sends_images_and_reports_each(service: Service) -> None:
    file = service.home / "film.jpg"
    file.write_bytes(film())
    bad = service.home / "bad.jpg"
    bad.write_bytes(corrupt())
    options = ("--user", "carl", "--password-stdin", "--json")

    done = service.medai("infer", str(file), str(bad), *options, text=PASSWORD)

    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1
    assert [line["file"] for line in lines] == ["film.jpg", "bad.jpg"]
    assert lines[0]["outcome"] == "predicted"
    assert lines[1]["type"].endswith("/undecodable-image")


def test_the_command_line_adds_a_user_while_the_server_runs(service: Service) -> None:
    added = service.medai(
        "users", "add", "nina", "--role", "viewer", "--password-stdin", text=PASSWORD
    )

    assert added.returncode == 0, added.stderr
    with service.client("nina") as client:
        assert client.get("/auth/me").json()["role"] == "viewer"
    assert service.medai("audit", "verify").returncode == 0
