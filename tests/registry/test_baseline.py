"""A card's baseline: a histogram in the buckets of the live scores, or none."""

from typing import Any

import pytest
from pydantic import ValidationError

from deployments.telemetry.metrics_labels import RATIOS
from registry.card import SCORE_BOUNDS, ModelCard
from tests.inference.models import card

DARK = [40, 10, 10, 10, 5, 5, 5, 5, 5, 3, 1, 1, 0, 0]
BRIGHT = DARK[::-1]


def with_baseline(**changes: Any) -> ModelCard:
    baseline = {
        "source": "100 films of a test",
        "taken_on": "2026-11-24",
        "images": 100,
        "counts": {"DARK": DARK, "BRIGHT": BRIGHT},
        **changes,
    }
    return card(b"a", baseline=baseline)


def test_a_baseline_says_which_share_lies_below_each_bound() -> None:
    made = with_baseline()

    assert made.baseline is not None
    upto = made.baseline.upto("DARK")
    assert tuple(upto) == SCORE_BOUNDS == RATIOS
    assert (upto[0.05], upto[0.1], upto[1.0]) == (0.4, 0.5, 1.0)
    assert ModelCard.model_validate_json(made.model_dump_json()) == made


def test_a_card_without_a_baseline_has_none() -> None:
    assert card(b"a").baseline is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bounds": [0.5, 1.0]}, "bounds must be those of the live scores"),
        ({"images": 99}, "greater than or equal to 100"),
        ({"images": 101}, "as many as images"),
        ({"counts": {"DARK": DARK[1:], "BRIGHT": BRIGHT}}, "takes 14 counts"),
        ({"counts": {"DARK": DARK}}, "must name each label"),
        ({"counts": {"DARK": DARK, "GREY": BRIGHT}}, "must name each label"),
        ({"counts": {"DARK": [-1, 1, *DARK[2:]], "BRIGHT": BRIGHT}}, "greater than or equal to 0"),
    ],
)
def test_a_baseline_that_does_not_add_up_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        with_baseline(**changes)
