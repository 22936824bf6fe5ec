"""More than the service can do: what becomes of those it accepts, and what it tells the others.

The service runs with admission on (`MAX_IN_PROGRESS` as many as saturate it). Its saturation is
measured in a closed loop; then requests are due at 1.5 times that rate, open loop, whatever it
does. Latencies count from the time a request was due.
"""

from dataclasses import dataclass

from benchmarks.load import Load, Result
from benchmarks.service import HOST, Service, measure

SATURATING = 64
FACTOR = 1.5
CONNECTIONS = 512
REFUSALS = frozenset({"429", "503"})


@dataclass(frozen=True, slots=True)
class Overload:
    """Both loads, and what follows. `faults`: refusals without Retry-After, and other errors."""

    saturation: Result
    overload: Result
    rate: float

    @property
    def p99_ratio(self) -> float:
        """p99 of the accepted at overload / p99 at saturation."""
        return self.overload.latency.p99 / max(self.saturation.latency.p99, 1e-9)

    @property
    def faults(self) -> int:
        """Answers that are neither 2xx nor a refusal with Retry-After."""
        return faults(self.overload)


def faults(result: Result) -> int:
    """See `Overload.faults`."""
    found = 0
    for status, count in result.statuses.items():
        if status in REFUSALS:
            found += count - result.retry_after.get(status, 0)
        elif not status.startswith("2"):
            found += count
    return found


def overload(service: Service, body: bytes, *, seconds: float) -> Overload:
    """Measure both, one after the other."""
    request = service.request(body)
    closed = Load(HOST, service.port, request, SATURATING, warmup_s=2, seconds=seconds)
    saturation = measure(service, closed).result
    rate = FACTOR * saturation.throughput
    opened = Load(HOST, service.port, request, CONNECTIONS, warmup_s=2, seconds=seconds, rate=rate)
    return Overload(saturation, measure(service, opened).result, rate)
