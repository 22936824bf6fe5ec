"""Exact percentiles of all that was measured: nothing is sampled, nothing is put in buckets."""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Latency:
    """Latencies in ms. All zero where there were none."""

    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    mean: float = 0.0
    most: float = 0.0


def latency(seconds: Iterable[float]) -> Latency:
    """The summary of latencies that come in seconds."""
    ordered = sorted(seconds)
    if not ordered:
        return Latency()
    return Latency(
        p50=percentile(ordered, 50) * 1e3,
        p95=percentile(ordered, 95) * 1e3,
        p99=percentile(ordered, 99) * 1e3,
        mean=math.fsum(ordered) / len(ordered) * 1e3,
        most=ordered[-1] * 1e3,
    )


def percentile(ordered: "list[float]", percent: float) -> float:
    """The nearest-rank percentile: the smallest value that `percent` of all do not exceed.

    Args:
        ordered: Values in ascending order, at least one.
        percent: Above 0, at most 100.
    """
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]
