"""The page of metrics, and what the API counts."""

from deployments.api.metrics import Counts
from deployments.telemetry.metrics import Instruments
from deployments.telemetry.metrics_exposition import MEDIA_TYPE
from registry.events import AuditAction
from tests.api.house import House


async def test_an_administrator_reads_the_nodes_page(house: House) -> None:
    client = house.client("ada")

    response = await client.get("/metrics")

    assert response.status_code == 200
    assert response.headers["Content-Type"] == MEDIA_TYPE
    assert 'ray_medai_requests_total{route="/infer"} 3.0' in response.text


async def test_every_request_is_counted_by_route_and_status(house: House) -> None:
    client = house.client("vera")

    for _ in range(3):
        await client.get("/models")

    counted = house.services.counts._instruments.requests.points()
    assert dict(counted)["/models", "GET", "200", "ok"] == 3


def test_logins_lockouts_and_denials_are_counted_from_their_entries() -> None:
    instruments = Instruments("gateway")
    counts = Counts(instruments)

    counts.recorded(AuditAction.LOGIN_OK, {})
    counts.recorded(AuditAction.LOGIN_FAILED, {"reason": "unknown"})
    counts.recorded(AuditAction.LOGIN_LOCKED, {"reason": "wrong"})
    counts.recorded(AuditAction.ACCESS_DENIED, {})
    counts.recorded(AuditAction.RESULT_READ, {})

    assert dict(instruments.logins.points()) == {("ok",): 1, ("unknown",): 1, ("wrong",): 1}
    assert dict(instruments.lockouts.points()) == {(): 1}
    assert dict(instruments.access_denials.points()) == {(): 1}
