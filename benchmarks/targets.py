"""The targets: what must be reached, what is aimed at, and what was.

A target that was not measured is not met. A missed one is named as missed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from benchmarks.densenet import NAME as DENSENET
from benchmarks.figures import Figures, Ratio, Sample
from benchmarks.film import Picture
from benchmarks.rows import CXR, NO_AUDIT, UNGATED, Cell

GIB = 2**30


class Direction(StrEnum):
    """Which side of a limit is good."""

    AT_LEAST = "at least"
    AT_MOST = "at most"


class Verdict(StrEnum):
    """How a target stands."""

    AIM = "aim reached"
    MET = "met"
    MISSED = "missed"
    OPEN = "not measured"


@dataclass(frozen=True, slots=True)
class Target:
    """One line of the table. `key` is where `measured_values` puts what was measured."""

    key: str
    what: str
    must: float
    aim: float | None = None
    direction: Direction = Direction.AT_LEAST

    def judge(self, measured: float | None) -> Verdict:
        """How `measured` stands."""
        if measured is None:
            return Verdict.OPEN
        if self.aim is not None and self._holds(measured, self.aim):
            return Verdict.AIM
        return Verdict.MET if self._holds(measured, self.must) else Verdict.MISSED

    def _holds(self, measured: float, limit: float) -> bool:
        if self.direction is Direction.AT_LEAST:
            return measured >= limit
        return measured <= limit


@dataclass(frozen=True, slots=True)
class Judged:
    """A target with what was measured. `spread`: lowest and highest of the rounds' ratios."""

    target: Target
    measured: float | None
    verdict: Verdict
    spread: tuple[float, float] | None = None


LESS = Direction.AT_MOST
TARGETS = (
    Target("litserve_64", "cxr-pneumonia, 64 clients: full without gate / LitServe", 1.2, 1.7),
    Target("litserve_16", "the same at 16 clients", 0.9, 1.5),
    Target("bare_64", "the same at 64 clients / bare FastAPI, 2 processes", 0.7, 1.0),
    Target("p50_1", "p50 at 1 client, cxr-pneumonia / LitServe's", 1.1, 0.5, LESS),
    Target("densenet_16", "DenseNet-121, 16 clients: full / raw decode, both cores", 0.90, 0.97),
    Target("audit_64", "full / full with audit off, 64 clients", 0.95, 0.99),
    Target("writer_sqlite", "AuditWriter alone, durable entries/s, SQLite FULL", 5_000, 10_000),
    Target("writer_postgresql", "the same, PostgreSQL", 5_000, 10_000),
    Target("batch_100", "100-image batch / 100 single requests at 16 clients", 1.1, 1.5),
    Target("overload_p99", "p99 at 1.5x overload / p99 at saturation", 1.5, None, LESS),
    Target("overload_faults", "other errors than 429/503 with Retry-After, at 1.5x", 0, None, LESS),
    Target("idle_gib", "idle memory, sum of PSS, GiB", 1.3, 1.0, LESS),
    Target("growth_append", "audit append, most rows / fewest rows", 1.2, None, LESS),
    Target("growth_lookup", "lookup of a result, most rows / fewest rows", 1.2, None, LESS),
    Target("growth_page", "page of results by cursor, most rows / fewest rows", 1.2, None, LESS),
    Target("growth_first", "first page with its count, most rows / fewest rows", 1.2, None, LESS),
)


def _cell(row: str, clients: int, model: str = CXR) -> Cell:
    return Cell(row, model, Picture.SMALL, clients)


_FULL = UNGATED.name
_BOTH_CORES = _cell("raw-decode", 2, DENSENET)
# Numerator and denominator of each target that is a ratio of two cells.
_PAIRS = {
    "litserve_64": (_cell(_FULL, 64), _cell("litserve", 64)),
    "litserve_16": (_cell(_FULL, 16), _cell("litserve", 16)),
    "bare_64": (_cell(_FULL, 64), _cell("bare", 64)),
    "p50_1": (_cell(_FULL, 1), _cell("litserve", 1)),
    "densenet_16": (_cell(_FULL, 16, DENSENET), _BOTH_CORES),
    "audit_64": (_cell(_FULL, 64), _cell(NO_AUDIT.name, 64)),
}
TARGET_CELLS = frozenset(cell for pair in _PAIRS.values() for cell in pair)
"""The cells that every round measures; the others are measured once."""


def ratios(figures: Figures) -> dict[str, Ratio]:
    """The targets that are ratios of two cells, where both were measured."""

    def throughput(sample: Sample) -> float:
        return sample.throughput

    def p50(sample: Sample) -> float:
        return sample.latency.p50

    found = {
        key: figures.ratio(above, below, p50 if key == "p50_1" else throughput)
        for key, (above, below) in _PAIRS.items()
    }
    return {key: ratio for key, ratio in found.items() if ratio is not None}


def judged(figures: Figures, others: Mapping[str, float]) -> list[Judged]:
    """Every target. `others`: what was measured beside the cells, by key."""
    measured = ratios(figures)
    lines = []
    for target in TARGETS:
        ratio = measured.get(target.key)
        value = others.get(target.key) if ratio is None else ratio.median
        spread = None if ratio is None else (ratio.lowest, ratio.highest)
        lines.append(Judged(target, value, target.judge(value), spread))
    return lines
