"""From measurements to figures: medians over the rounds, and ratios within a round.

A ratio is taken round by round and then its median, because two rows of one round were measured
minutes apart on the same machine, and two rounds may not have been.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

from benchmarks.percentiles import Latency
from benchmarks.rows import Cell


@dataclass(frozen=True, slots=True)
class Sample:
    """One cell in one round.

    Attributes:
        cpu_ms: By role, for each answered request.
        others: Cores in use by anybody but the server and the client.
    """

    throughput: float
    latency: Latency
    statuses: dict[str, int] = field(default_factory=dict)
    cpu_ms: dict[str, float] = field(default_factory=dict)
    others: float = 0.0


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of two cells: the median of the rounds, the lowest and the highest."""

    median: float
    lowest: float
    highest: float


@dataclass(slots=True)
class Figures:
    """Everything measured so far, by cell and round."""

    samples: dict[Cell, dict[int, Sample]] = field(default_factory=dict)

    def add(self, cell: Cell, turn: int, sample: Sample) -> None:
        """Keep one measurement."""
        self.samples.setdefault(cell, {})[turn] = sample

    def median(self, cell: Cell) -> Sample:
        """The median of each figure of a cell. Raises `KeyError`.

        Statuses are summed; `latency.most` and `others` are the largest.
        """
        rounds = list(self.samples[cell].values())
        statuses: dict[str, int] = {}
        for sample in rounds:
            for status, count in sample.statuses.items():
                statuses[status] = statuses.get(status, 0) + count
        roles = {role for sample in rounds for role in sample.cpu_ms}
        latencies = [sample.latency for sample in rounds]
        return Sample(
            throughput=median(sample.throughput for sample in rounds),
            latency=Latency(
                p50=median(each.p50 for each in latencies),
                p95=median(each.p95 for each in latencies),
                p99=median(each.p99 for each in latencies),
                mean=median(each.mean for each in latencies),
                most=max(each.most for each in latencies),
            ),
            statuses=statuses,
            cpu_ms={
                role: median(sample.cpu_ms.get(role, 0.0) for sample in rounds)
                for role in sorted(roles)
            },
            others=max(sample.others for sample in rounds),
        )

    def ratio(self, over: Cell, under: Cell, figure: "Callable[[Sample], float]") -> Ratio | None:
        """`figure(over) / figure(under)` in the rounds that have both; None where none has."""
        ours, theirs = self.samples.get(over, {}), self.samples.get(under, {})
        ratios = [
            figure(ours[turn]) / figure(theirs[turn])
            for turn in sorted(ours.keys() & theirs.keys())
            if figure(theirs[turn]) > 0
        ]
        return Ratio(median(ratios), min(ratios), max(ratios)) if ratios else None
