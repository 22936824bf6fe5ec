"""What may be compared, and the arithmetic of a comparison."""

import json
import random

import numpy as np
import pytest

from registry.errors import IllegalTransition
from registry.shadow import (
    LATENCY_BOUNDS_MS,
    MAX_PAIRS,
    OTHER,
    Tally,
    check_comparable,
    decision,
    wilson,
)
from tests.inference.models import card


def spec(**changes: object) -> dict[str, object]:
    return {"height": 8, "width": 8, "scale": 1.0, "mean": [0.5], "std": [0.25], **changes}


def test_a_version_that_takes_other_tensors_cannot_be_compared() -> None:
    active = card(b"a", input=spec())
    other = card(b"b", input=spec(height=16, scaled_jpeg_decoding=True))

    with pytest.raises(IllegalTransition) as caught:
        check_comparable(active, other)

    assert [(one.rule, one.measured, one.limit) for one in caught.value.violations] == [
        ("input.height", "16", "8"),
        ("input.scaled_jpeg_decoding", "True", "False"),
    ]


def test_a_version_with_other_labels_cannot_be_compared() -> None:
    golden = {"seed": "g", "scores": {"DARK": 0.5, "GREY": 0.5}, "tolerance": 0.05}
    output = {"activation": "softmax", "labels": ["DARK", "GREY"]}

    with pytest.raises(IllegalTransition, match=r"output\.labels is DARK, GREY"):
        check_comparable(card(b"a"), card(b"b", output=output, golden=golden))


def test_a_version_may_scale_the_same_tensors_otherwise_and_order_its_labels_otherwise() -> None:
    output = {"activation": "sigmoid", "labels": ["BRIGHT", "DARK"]}
    active = card(b"a", input=spec())

    check_comparable(active, card(b"b", input=spec(scale=0.1, mean=[0.0], std=[1.0], name="x")))
    check_comparable(active, card(b"b", input=spec(), output=output))


def test_a_decision_is_the_best_label_or_none() -> None:
    assert decision({"A": 0.2, "B": 0.8}, 0.8) == "B"
    assert decision({"A": 0.2, "B": 0.8}, 0.81) == "BELOW_THRESHOLD"


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_of_an_agreement_is_wilsons(
    successes: int, trials: int, low: float, high: float
) -> None:
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_an_interval_holds_the_true_rate_in_95_of_100_cases() -> None:
    chance = random.Random(1)  # noqa: S311  # not a secret
    held = 0
    for _ in range(2000):
        agreed = sum(chance.random() < 0.9 for _ in range(80))
        low, high = wilson(agreed, 80)
        held += low <= 0.9 <= high

    assert 0.93 <= held / 2000 <= 0.97


def test_latencies_are_exact_to_their_bucket() -> None:
    values = np.random.default_rng(1).lognormal(2.0, 0.6, 5000)
    tally = Tally()
    for value in values:
        tally.compare("A", "A", 0.0, float(value))

    for quantile in (0.5, 0.95):
        assert tally.latency_ms(quantile) == pytest.approx(np.quantile(values, quantile), rel=0.05)
    assert Tally().latency_ms(0.5) is None


def test_a_latency_beyond_every_bound_is_shown_as_the_last_bound() -> None:
    tally = Tally()
    tally.compare("A", "A", 0.0, 1e9)

    assert tally.latency_ms(0.95) == LATENCY_BOUNDS_MS[-1]


def test_tallies_of_replicas_add_up_and_survive_being_stored() -> None:
    one, other = Tally(dropped=2), Tally(failed=3)
    one.compare("A", "A", 0.0, 1.0)
    one.compare("A", "B", 0.3, 5.0)
    other.compare("A", "B", 2.0, 5.0)

    total = Tally()
    for tally in (one, other):
        total.add(Tally.of(json.loads(json.dumps(tally.document()))))

    assert (total.compared, total.agreed, total.dropped, total.failed) == (3, 1, 2, 3)
    assert total.pairs == {("A", "A"): 1, ("A", "B"): 2}
    assert (total.differences[0], total.differences[-1]) == (1, 1)
    assert sum(total.latencies) == 3
    agreement = total.agreement()
    assert agreement is not None
    assert agreement[0] == pytest.approx(1 / 3)


def test_pairs_are_bounded_and_the_agreement_stays_right() -> None:
    tally = Tally()
    for number in range(2 * MAX_PAIRS):
        tally.compare("A", f"{number}", 0.0, 1.0)
    tally.compare("B", "B", 0.0, 1.0)

    assert len(tally.pairs) == MAX_PAIRS + 1
    assert tally.pairs[OTHER, OTHER] == MAX_PAIRS + 1
    assert (tally.compared, tally.agreed) == (2 * MAX_PAIRS + 1, 1)
