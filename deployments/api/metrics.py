"""What the API counts, and `GET /metrics` for people with one node.

Prometheus itself reads every node's own port (docs/operations.md), because an access token lasts
minutes; this page shows the same numbers to an administrator.
"""

from fastapi import APIRouter
from starlette.responses import Response

from deployments.api.exchange import Exchange
from deployments.api.guard import guarded_router
from deployments.api.permissions import Permission, requires
from deployments.api.problems import problems
from deployments.telemetry.metrics import Instruments
from deployments.telemetry.metrics_exposition import MEDIA_TYPE, MetricsPage
from deployments.telemetry.metrics_observations import observe_request
from registry import errors
from registry.events import AuditAction, ContextValue


class Counts:
    """The gateway's instruments, as the API's layers use them.

    Args:
        instruments: Where observations go.
    """

    def __init__(self, instruments: Instruments) -> None:
        self._instruments = instruments

    def request(self, method: str, exchange: Exchange) -> None:
        """One request and its answer."""
        observe_request(
            self._instruments,
            route=exchange.route,
            method=method,
            status=exchange.status,
            seconds=exchange.elapsed_ms / 1e3,
            code=exchange.code,
            bytes_in=exchange.bytes_in,
            bytes_out=exchange.bytes_out,
        )

    def recorded(self, action: AuditAction, context: dict[str, ContextValue]) -> None:
        """One audit entry of the API itself: log-ins, lock-outs and denials are seen here."""
        match action:
            case AuditAction.LOGIN_OK:
                self._instruments.logins.add(1, "ok")
            case AuditAction.LOGIN_FAILED:
                self._instruments.logins.add(1, str(context.get("reason", "wrong")))
            case AuditAction.LOGIN_LOCKED:
                self._instruments.logins.add(1, str(context.get("reason", "wrong")))
                self._instruments.lockouts.add(1)
            case AuditAction.ACCESS_DENIED:
                self._instruments.access_denials.add(1)
            case _:
                pass


def routes(page: MetricsPage) -> APIRouter:
    """The routes of this file."""
    router = guarded_router("metrics")

    @router.get(
        "/metrics",
        summary="Metrics of this node, in Prometheus' text format",
        response_class=Response,
        responses={
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
            **problems(errors.MetricsUnavailable),
        },
    )
    @requires(Permission.METRICS)
    async def metrics() -> Response:
        """The same numbers whichever gateway answers, as old as the node's last report."""
        return Response(await page.text(), media_type=MEDIA_TYPE)

    return router
