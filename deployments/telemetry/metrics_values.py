"""Counters, gauges and histograms of one process, each with a bound on what its labels may say.

Recording is a look-up and an addition in this process; nothing is sent. Exporters take copies.

Rules this file keeps:

- Counts are exact: everything is under one lock, from whichever thread it comes.
- A label is bounded (`Label`). What lies beyond the bound is counted under "other", so that no
  caller can grow the server's memory or the monitoring system's by making values up.
- A declaration (`CounterSpec`, ...) is an attribute of a class and holds no state; `Instruments`
  makes the live instrument of each.
"""

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from threading import Lock
from typing import Final, Generic, TypeAlias, TypeVar, overload

OTHER: Final = "other"
NONE: Final = "none"  # instead of "": Prometheus takes an empty label for an absent one
INFINITY: Final = float("inf")
MAX_CANDIDATES: Final = 500  # values of one label that have not come often enough yet
MAX_SERIES: Final = 1000  # of one instrument; further label sets are one, of nothing but other

Values: TypeAlias = tuple[str, ...]
S = TypeVar("S")


def upper(bound: float) -> str:
    """A bucket's bound as its `le` says it."""
    return "+Inf" if bound == INFINITY else repr(bound)


@dataclass(frozen=True, slots=True)
class Label:
    """A label and its bound.

    Attributes:
        name: The label's name.
        values: Those there always are, beside "other" and "none".
        limit: How many further values are told apart, first come, first served.
        after: How often a value must come before it is told apart. For text that a caller can
            choose: what came once or twice may be anything, also a name, and is never shown.
    """

    name: str
    values: frozenset[str] = frozenset()
    limit: int = 0
    after: int = 1


class Vocabulary:
    """The values of one label that are told apart in this process."""

    def __init__(self, label: Label) -> None:
        self._known = {*label.values, OTHER, NONE}
        self._limit = len(self._known) + label.limit
        self._after = label.after
        self._seen: Tally[str] = Tally()

    def admit(self, value: str) -> str:
        """`value` where it is, or from now on can be, told apart; else "other"."""
        if value in self._known:
            return value
        if not value:
            return NONE
        if len(self._known) >= self._limit:
            return OTHER
        if len(self._seen) >= MAX_CANDIDATES:
            self._seen.clear()
        self._seen[value] += 1
        if self._seen[value] < self._after:
            return OTHER
        del self._seen[value]
        self._known.add(value)
        return value


class Instrument(ABC, Generic[S]):
    """What counters, gauges and histograms share: one series for each set of label values."""

    kind = ""

    def __init__(
        self, name: str, text: str, labels: tuple[Label, ...], words: list[Vocabulary], lock: Lock
    ) -> None:
        self.name = name
        self.text = text
        self.labels = tuple(label.name for label in labels)
        self._words = words
        self._lock = lock
        self._series: dict[Values, S] = {}

    @abstractmethod
    def _new(self) -> S:
        """A series that has seen nothing."""

    def _at(self, values: Values) -> S:
        """The series of `values`, bounded. The lock is held."""
        try:
            return self._series[values]
        except KeyError:
            return self._admitted(values)

    def _admitted(self, values: Values) -> S:
        if len(values) != len(self._words):
            raise ValueError(f"{self.name} has the labels {', '.join(self.labels) or 'none'}")
        known = tuple(
            word.admit(str(value)) for word, value in zip(self._words, values, strict=True)
        )
        if known not in self._series and len(self._series) >= MAX_SERIES:
            known = (OTHER,) * len(values)
        return self._series.setdefault(known, self._new())


class Counter(Instrument[list[float]]):
    """Only grows. `name` ends in `_total`."""

    kind = "counter"

    def _new(self) -> list[float]:
        return [0.0]

    def add(self, amount: float, *values: str) -> None:
        """Add `amount`, 0 or more; 0 makes the series known before anything has happened."""
        with self._lock:
            self._at(values)[0] += max(amount, 0.0)

    def advance(self, total: float, *values: str) -> None:
        """Take over a count that is kept elsewhere. It never goes back."""
        with self._lock:
            series = self._at(values)
            series[0] = max(series[0], total)

    def points(self) -> list[tuple[Values, float]]:
        """A copy of every series."""
        with self._lock:
            return [(values, series[0]) for values, series in self._series.items()]


class Gauge(Instrument[list[float]]):
    """Has a value at this moment."""

    kind = "gauge"

    def _new(self) -> list[float]:
        return [0.0]

    def set(self, value: float, *values: str) -> None:
        """The value from now on."""
        with self._lock:
            self._at(values)[0] = value

    def keep_only(self, label_sets: Iterable[Values]) -> None:
        """Forget every series but these, such as a model version that is no longer active."""
        kept = set(label_sets)
        with self._lock:
            for values in self._series.keys() - kept:
                del self._series[values]

    def points(self) -> list[tuple[Values, float]]:
        """A copy of every series."""
        with self._lock:
            return [(values, series[0]) for values, series in self._series.items()]


@dataclass(frozen=True, slots=True)
class Distribution:
    """A histogram's series. `cumulative`: observations up to each bound, then all of them."""

    cumulative: tuple[int, ...]
    sum: float


class Cells:
    """The state of one histogram series."""

    __slots__ = ("counts", "sum")

    def __init__(self, size: int) -> None:
        self.counts = [0] * size
        self.sum = 0.0


class Histogram(Instrument[Cells]):
    """Observations by size, with their exact sum. `bounds` ascend and are inclusive."""

    kind = "histogram"

    def __init__(
        self,
        name: str,
        text: str,
        labels: tuple[Label, ...],
        words: list[Vocabulary],
        lock: Lock,
        bounds: tuple[float, ...],
    ) -> None:
        super().__init__(name, text, labels, words, lock)
        self.bounds = bounds
        self.uppers = tuple(map(upper, (*bounds, INFINITY)))

    def _new(self) -> Cells:
        return Cells(len(self.bounds) + 1)

    def observe(self, value: float, *values: str) -> None:
        """Take one observation. NaN is none; below zero, as when a clock was set back, is zero."""
        if value != value:  # noqa: PLR0124  # the one value that differs from itself
            return
        value = max(value, 0.0)
        with self._lock:
            cells = self._at(values)
            cells.counts[bisect_left(self.bounds, value)] += 1
            cells.sum += value

    def points(self) -> list[tuple[Values, Distribution]]:
        """A copy of every series."""
        with self._lock:
            return [
                (values, Distribution(tuple(accumulate(cells.counts)), cells.sum))
                for values, cells in self._series.items()
            ]


AnyInstrument: TypeAlias = Counter | Gauge | Histogram
I = TypeVar("I", Counter, Gauge, Histogram)  # noqa: E741  # an instrument


class Spec(ABC, Generic[I]):
    """A declaration, as the attribute of a class: see the module's docstring."""

    kind = ""

    def __init__(self, name: str, text: str, *labels: Label) -> None:
        self.name = name
        self.text = text
        self.labels = labels
        self.attribute = ""

    def __set_name__(self, owner: type, attribute: str) -> None:
        self.attribute = attribute

    @overload
    def __get__(self, instance: None, owner: type) -> "Spec[I]": ...
    @overload
    def __get__(self, instance: object, owner: type) -> I: ...
    def __get__(self, instance: object, owner: type) -> "Spec[I] | I":
        # On an instance, the live instrument of the same name hides this declaration.
        return self

    @abstractmethod
    def make(self, words: list[Vocabulary], lock: Lock) -> I:
        """The live instrument."""


class CounterSpec(Spec[Counter]):
    """Declares a counter."""

    kind = Counter.kind

    def make(self, words: list[Vocabulary], lock: Lock) -> Counter:
        """The live counter."""
        return Counter(self.name, self.text, self.labels, words, lock)


class GaugeSpec(Spec[Gauge]):
    """Declares a gauge."""

    kind = Gauge.kind

    def make(self, words: list[Vocabulary], lock: Lock) -> Gauge:
        """The live gauge."""
        return Gauge(self.name, self.text, self.labels, words, lock)


class HistogramSpec(Spec[Histogram]):
    """Declares a histogram with its bounds."""

    kind = Histogram.kind

    def __init__(self, name: str, text: str, *labels: Label, bounds: tuple[float, ...]) -> None:
        super().__init__(name, text, *labels)
        self.bounds = bounds

    def make(self, words: list[Vocabulary], lock: Lock) -> Histogram:
        """The live histogram."""
        return Histogram(self.name, self.text, self.labels, words, lock, self.bounds)
