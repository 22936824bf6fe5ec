"""Whether this process traces: the one place that loads OpenTelemetry, and only where it does."""

from typing import TYPE_CHECKING

from configs.settings import TracingSettings
from deployments.telemetry.metrics import Instruments

if TYPE_CHECKING:
    from deployments.telemetry.tracing import Tracing


def start_tracing(settings: TracingSettings, instruments: Instruments) -> "Tracing | None":
    """The tracer of a replica; None where there is no endpoint.

    Args:
        settings: Where spans go, and how many.
        instruments: The process's; spans that are lost are counted, and its component is named.
    """
    if settings.endpoint is None:
        return None
    from deployments.telemetry.tracing_export import exporting  # noqa: PLC0415  # as said above

    tracing = exporting(settings, instruments.component)
    instruments.watch(
        lambda: instruments.lost_spans.advance(tracing.delivery.lost, instruments.component)
    )
    return tracing


async def close_tracing(tracing: "Tracing | None") -> None:
    """Deliver what waits, within a second or two."""
    if tracing is not None:
        await tracing.close()
