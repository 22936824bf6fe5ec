"""A challenger in the shadow of the version that answers: what may be compared, and what was seen.

The challenger scores the very tensors that the answering version has scored, and nobody hears it.
Two answers are compared by their decision, which is the label with the highest score where that
reaches the version's own threshold, else `BELOW_THRESHOLD`. Counts only: no image, no result, no
patient. docs/adr/0015
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Self, TypeAlias
from uuid import UUID

from registry.card import InputSpec, ModelCard
from registry.contract import ModelRef, Reason
from registry.errors import IllegalTransition, Violation

LATENCY_BOUNDS_MS: Final = tuple(round(10 ** (step / 10), 4) for step in range(-10, 51))
"""Upper bounds of the counted latencies, 0.1 ms to 100 s, each 26 % above the one before."""
DIFFERENCE_BOUNDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
MAX_PAIRS: Final = 256  # of decisions that one tally tells apart; the others are one
OTHER: Final = "other"
MAX_SHARE: Final = 1.0
NORMAL_95: Final = 1.959964  # quantile 0.975 of the standard normal distribution

# What the replica itself does with a tensor, by the card of the version that scores. The rest was
# done before, by the card of the version that answers, and must be the same.
_DONE_BY_THE_SESSION: Final = frozenset({"name", "scale", "mean", "std"})

Pair: TypeAlias = tuple[str, str]  # decisions of the answering version and of the challenger


@dataclass(frozen=True, slots=True)
class ShadowRun:
    """One comparison. `share`: of the calls that the answering version scores, above 0 to 1."""

    id: UUID
    answering: ModelRef
    challenger: ModelRef
    share: float
    started_at: datetime
    ended_at: datetime | None = None


def check_comparable(answering: ModelCard, challenger: ModelCard) -> None:
    """See that the challenger can score the tensors made for the answering version.

    `scale`, `mean` and `std` may differ: tensors are uint8, and each session applies its own.

    Raises:
        IllegalTransition: The cards' input or labels differ; each difference is named.
    """
    broken = [
        Violation(
            f"input.{name}",
            str(getattr(challenger.input, name)),
            str(getattr(answering.input, name)),
            "the shadow scores the same tensors: try this version on stored films instead",
        )
        for name in InputSpec.model_fields
        if name not in _DONE_BY_THE_SESSION
        and getattr(challenger.input, name) != getattr(answering.input, name)
    ]
    if set(challenger.output.labels) != set(answering.output.labels):
        broken.append(
            Violation(
                "output.labels",
                ", ".join(challenger.output.labels),
                ", ".join(answering.output.labels),
                "answers in other words cannot be compared",
            )
        )
    if broken:
        raise IllegalTransition("the versions cannot be compared image by image", tuple(broken))


def decision(scores: Mapping[str, float], threshold: float) -> str:
    """The label of the highest score, or `BELOW_THRESHOLD` where it does not reach `threshold`."""
    best = max(scores, key=scores.__getitem__)
    return best if scores[best] >= threshold else Reason.BELOW_THRESHOLD


@dataclass(slots=True)
class Tally:
    """Counts of one comparison in one replica, or of many added up.

    Attributes:
        compared: Images that both versions scored.
        agreed: Those of them with the same decision.
        dropped: Images that were to be compared but not scored: too much waited already.
        failed: Images for which the challenger gave no finite answer.
        pairs: How often each pair of decisions came.
        differences: The largest difference of a label's scores, by `DIFFERENCE_BOUNDS`, then above.
        latencies: The challenger's run that the image was part of, by `LATENCY_BOUNDS_MS`, then
            above.
    """

    compared: int = 0
    agreed: int = 0
    dropped: int = 0
    failed: int = 0
    pairs: Counter[Pair] = field(default_factory=Counter)
    differences: list[int] = field(default_factory=lambda: [0] * (len(DIFFERENCE_BOUNDS) + 1))
    latencies: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS_MS) + 1))

    def compare(self, answered: str, challenger: str, difference: float, latency_ms: float) -> None:
        """Count one image that both have scored."""
        self.compared += 1
        self.agreed += answered == challenger
        pair = (answered, challenger)
        known = pair in self.pairs or len(self.pairs) < MAX_PAIRS
        self.pairs[pair if known else (OTHER, OTHER)] += 1
        self.differences[bucket(DIFFERENCE_BOUNDS, difference)] += 1
        self.latencies[bucket(LATENCY_BOUNDS_MS, latency_ms)] += 1

    def add(self, other: "Tally") -> None:
        """Add what another replica has counted."""
        self.compared += other.compared
        self.agreed += other.agreed
        self.dropped += other.dropped
        self.failed += other.failed
        self.pairs.update(other.pairs)
        self.differences = _sums(self.differences, other.differences)
        self.latencies = _sums(self.latencies, other.latencies)

    def document(self) -> dict[str, Any]:
        """The counts as JSON takes them; see `of`."""
        return {
            "compared": self.compared,
            "agreed": self.agreed,
            "dropped": self.dropped,
            "failed": self.failed,
            "pairs": [[*pair, count] for pair, count in sorted(self.pairs.items())],
            "differences": list(self.differences),
            "latencies": list(self.latencies),
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """The tally of a `document`."""
        pairs = Counter({(left, right): count for left, right, count in document["pairs"]})
        return cls(**{**document, "pairs": pairs})

    def latency_ms(self, quantile: float) -> float | None:
        """A quantile of the latencies, exact to its bucket (26 %); None where none was counted."""
        return quantile_of(LATENCY_BOUNDS_MS, self.latencies, quantile)

    def agreement(self) -> tuple[float, float, float] | None:
        """The share of equal decisions, and its Wilson 95 % interval; None before the first."""
        if not self.compared:
            return None
        low, high = wilson(self.agreed, self.compared)
        return self.agreed / self.compared, low, high


def wilson(successes: int, trials: int, z: float = NORMAL_95) -> tuple[float, float]:
    """The score interval of a proportion.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of
    the American Statistical Association 22 (1927). It takes the trials for independent: several
    films of one patient make it too narrow.

    Args:
        successes: At most `trials`.
        trials: Above 0.
        z: Quantile of the standard normal distribution; by default that of 95 %.
    """
    rate = successes / trials
    middle = rate + z * z / (2 * trials)
    half = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def bucket(bounds: Sequence[float], value: float) -> int:
    """The place of the first bound that is not below `value`; `len(bounds)` above the last."""
    return next((place for place, bound in enumerate(bounds) if value <= bound), len(bounds))


def quantile_of(bounds: Sequence[float], counts: Sequence[int], quantile: float) -> float | None:
    """A quantile from counts by bucket, linear inside one; the last bound where it lies above."""
    rank = quantile * sum(counts)
    if not rank:
        return None
    below, seen = 0.0, 0
    for bound, count in zip(bounds, counts, strict=False):
        if count and seen + count >= rank:
            return below + (bound - below) * (rank - seen) / count
        below, seen = bound, seen + count
    return bounds[-1]


def _sums(left: Sequence[int], right: Sequence[int]) -> list[int]:
    return [a + b for a, b in zip(left, right, strict=True)]
