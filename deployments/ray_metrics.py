"""The way of the instruments to Ray's metrics agent, which Prometheus scrapes on every node.

    Instruments ──every second──► ray.util.metrics ──every report──► node's agent ◄──scrape

Ray puts `ray_` before each name. What it does otherwise, and what follows (Ray 2.60):

- A call costs 2 to 3 µs and takes one observation at a time. So nothing calls Ray while a request
  is answered; what the instruments have gathered is handed over once a second.
- Ray's histogram is rebuilt in the agent from the midpoints of the buckets, one call for each
  observation: its sum is wrong (ray-project/ray#54538) and its cost grows with the traffic. So the
  buckets, sum and count of a histogram travel as gauges under the names that Prometheus expects,
  with exact totals of this process.
- Ray forgets a gauge after each report. So every gauge is set again at each export; what is not,
  such as a dead worker's, is gone after two reports, like a dead target's in Prometheus.
- Ray keeps a counter for good, also after its worker has ended: totals over a node stay exact
  through restarts of replicas. What was counted since the last report is lost where a process is
  killed; where it ends in good order, Ray reports once more.
- `ray._raylet.Sum` would fit better, but is counted twice on its way through the agent.
"""

import asyncio
import contextvars
from typing import Final

from ray.util import metrics

from configs.settings import Settings
from deployments.telemetry.logs import LogChain
from deployments.telemetry.metrics import Instruments
from deployments.telemetry.metrics_observations import (
    show_database,
    start_at_zero,
    watch_process,
)
from deployments.telemetry.metrics_values import Counter, Gauge, Histogram, Values
from storage.circuit import CircuitState
from storage.database import Database

EXPORT_EVERY_S: Final = 1.0
LAG_EVERY_S: Final = 0.25  # how often the loop's lag is measured


def start_exporting(
    settings: Settings, component: str, logs: LogChain, database: Database | None = None
) -> "RayExporter":
    """The instruments of a replica, on their way to Ray from now on. Needs a running loop.

    Args:
        settings: Where the home is, and how many connections there may be.
        component: Which part of the service this is.
        logs: The process's log, for what it has dropped.
        database: The process's connections, if it has any.
    """
    instruments = Instruments(component)
    start_at_zero(instruments)
    watch_process(instruments, settings.home_dir)

    def read() -> None:
        instruments.dropped_log_lines.advance(logs.sink.dropped, component)
        instruments.dropped_log_keys.advance(logs.dropped_keys, component)
        if database is not None:
            state = database.state()
            show_database(
                instruments,
                in_use=state.checked_out,
                idle=state.size - state.checked_out,
                limit=settings.database.pool_size + settings.database.max_overflow,
                up=state.circuit is not CircuitState.OPEN,
            )

    instruments.watch(read)
    exporter = RayExporter(instruments)
    exporter.start()
    return exporter


class RayExporter:
    """Hands the instruments of this process to Ray.

    Args:
        instruments: This process's.
    """

    def __init__(self, instruments: Instruments) -> None:
        self.instruments = instruments
        self._counters: dict[str, metrics.Counter] = {}
        self._gauges: dict[str, metrics.Gauge] = {}
        self._sent: dict[tuple[str, Values], float] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Export from now on, from the running loop, whose lag is measured on the way."""
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._export_for_ever(), context=contextvars.Context())

    async def close(self) -> None:
        """Stop, after one last export."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.export()

    def export(self) -> None:
        """Hand everything over now."""
        self.instruments.refresh()
        for instrument in self.instruments.all:
            match instrument:
                case Counter():
                    self._export_counter(instrument)
                case Gauge():
                    gauge = self._gauge(instrument.name, instrument.text, instrument.labels)
                    for values, value in instrument.points():
                        gauge.set(value, dict(zip(instrument.labels, values, strict=True)))
                case Histogram():
                    self._export_histogram(instrument)

    def _export_counter(self, instrument: Counter) -> None:
        name = instrument.name
        for values, total in instrument.points():
            sent = self._sent.get((name, values))
            if total == sent:
                continue
            if (counter := self._counters.get(name)) is None:
                counter = metrics.Counter(name, instrument.text, instrument.labels)
                self._counters[name] = counter
            tags = dict(zip(instrument.labels, values, strict=True))
            # `inc` refuses the 0 that makes a series known before anything has happened.
            counter._record(total - (sent or 0.0), tags)  # noqa: SLF001
            self._sent[name, values] = total

    def _export_histogram(self, instrument: Histogram) -> None:
        points = instrument.points()
        if not points:
            return
        name, text, labels = instrument.name, instrument.text, instrument.labels
        bucket = self._gauge(f"{name}_bucket", text, (*labels, "le"))
        count = self._gauge(f"{name}_count", text, labels)
        total = self._gauge(f"{name}_sum", text, labels)
        for values, seen in points:
            tags = dict(zip(labels, values, strict=True))
            for upper, upto in zip(instrument.uppers, seen.cumulative, strict=True):
                bucket.set(upto, tags | {"le": upper})
            count.set(seen.cumulative[-1], tags)
            total.set(seen.sum, tags)

    def _gauge(self, name: str, text: str, labels: Values) -> metrics.Gauge:
        if (gauge := self._gauges.get(name)) is None:
            gauge = self._gauges[name] = metrics.Gauge(name, text, labels)
        return gauge

    async def _export_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        instruments = self.instruments
        export_at = loop.time() + EXPORT_EVERY_S
        while True:
            due = loop.time() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            instruments.loop_lag.observe(loop.time() - due, instruments.component)
            if loop.time() >= export_at:
                export_at = loop.time() + EXPORT_EVERY_S
                try:
                    self.export()
                except Exception:  # noqa: BLE001  # no count is lost: the next export has it too
                    instruments.failed_watches.add(1, instruments.component)
