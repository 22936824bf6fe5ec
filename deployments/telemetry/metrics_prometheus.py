"""The instruments of one process as families of the Prometheus client.

For tests and single processes: `CollectorRegistry().register(InstrumentsCollector(instruments))`.
"""

from collections.abc import Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from deployments.telemetry.metrics import Instruments
from deployments.telemetry.metrics_values import Counter, Gauge, Histogram


class InstrumentsCollector(Collector):
    """Reads the instruments whenever the registry is read."""

    def __init__(self, instruments: Instruments) -> None:
        self._instruments = instruments

    def collect(self) -> Iterator[Metric]:
        """One family for each instrument that has a series."""
        self._instruments.refresh()
        for instrument in self._instruments.all:
            match instrument:
                case Counter():
                    counter = CounterMetricFamily(
                        instrument.name, instrument.text, labels=instrument.labels
                    )
                    for values, total in instrument.points():
                        counter.add_metric(values, total)
                    yield counter
                case Gauge():
                    gauge = GaugeMetricFamily(
                        instrument.name, instrument.text, labels=instrument.labels
                    )
                    for values, value in instrument.points():
                        gauge.add_metric(values, value)
                    yield gauge
                case Histogram():
                    yield histogram_family(instrument)


def histogram_family(instrument: Histogram) -> HistogramMetricFamily:
    """The family of one histogram."""
    family = HistogramMetricFamily(instrument.name, instrument.text, labels=instrument.labels)
    for values, seen in instrument.points():
        buckets = list(zip(instrument.uppers, map(float, seen.cumulative), strict=True))
        family.add_metric(values, buckets, seen.sum)
    return family
