"""The model card: what it refuses, and what its values mean."""

import math
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from registry.card import (
    AllowedValues,
    GoldenCase,
    InputSpec,
    ModelCard,
    QualityLimits,
    Range,
)
from tests.inference.models import bundled, card


def refused(**changes: Any) -> str:
    with pytest.raises(ValidationError) as refusal:
        card(b"", **changes)
    return str(refusal.value)


@pytest.mark.parametrize(
    "change",
    [
        {"confidence_treshold": 0.5},
        {"name": "Not A Name"},
        {"version": "1.0"},
        {"sha256": "xyz"},
        {"file": "../model.onnx"},
        {"confidence_threshold": 1.5},
        {"confidence_threshold": math.nan},
        {"limits": []},
        {"data": []},
        {"output": {"activation": "softmax", "labels": ["A", "A"]}},
        {"golden": {"seed": "g", "scores": {"DARK": 1.0}, "tolerance": 0.01}},
        {"golden": {"seed": "g", "scores": {"DARK": 1.0, "BRIGHT": 0.0}, "tolerance": 0.5}},
        {"input": {"height": 8, "width": 8, "scale": 1, "mean": [0, 0], "std": [1]}},
        {"input": {"height": 8, "width": 8, "scale": 1, "mean": [0], "std": [0]}},
        {"quality": {"brightnes": {"at_least": 0.1}}},
        {"constraints": {"modality": {"allowed": []}}},
    ],
)
def test_a_card_with_a_fault_is_refused(change: dict[str, object]) -> None:
    assert refused(**change)


def test_labels_missing_from_the_golden_case_are_told() -> None:
    message = refused(golden={"seed": "g", "scores": {"DARK": 1.0}, "tolerance": 0.01})

    assert "golden.scores must name each label" in message


@pytest.mark.parametrize(
    ("limits", "text", "inside", "outside"),
    [
        ({"at_least": 0.2}, "at least 0.2", 0.2, 0.19),
        ({"at_most": 5}, "at most 5", 5, 5.1),
        ({"at_least": 1, "at_most": 2}, "1 to 2", 2, 2.1),
        ({"at_least": 1, "at_most": 2}, "1 to 2", 1, 0.9),
    ],
)
def test_a_range_is_inclusive_and_speaks(
    limits: dict[str, float], text: str, inside: float, outside: float
) -> None:
    allowed = Range(**limits)

    assert str(allowed) == text
    assert allowed.holds(inside)
    assert not allowed.holds(outside)
    assert not allowed.holds(math.nan)


@pytest.mark.parametrize("limits", [{}, {"at_least": 2, "at_most": 1}])
def test_a_range_without_room_is_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Range(**limits)


def test_the_golden_input_is_pinned_for_ever() -> None:
    case = GoldenCase(seed="medai-golden-1", scores={"A": 1}, tolerance=0.01)
    spec = InputSpec(height=8, width=8, color="rgb", scale=1, mean=(0,) * 3, std=(1,) * 3)

    pixels = case.pixels(spec)

    assert len(pixels) == 3 * 8 * 8
    assert pixels[:8].hex() == "db4660b58787e1ca"


def test_values_are_compared_without_regard_to_case() -> None:
    assert AllowedValues(allowed=("cr", "Dx")).allowed == ("CR", "DX")


def test_every_quality_limit_has_a_default_that_was_calibrated() -> None:
    assert set(QualityLimits.model_fields) == {
        "width_px",
        "height_px",
        "aspect_ratio",
        "brightness",
        "contrast",
        "dynamic_range",
        "clipping",
        "content",
        "noise",
        "sharpness",
        "motion",
    }


@pytest.mark.parametrize("name", ["cxr-pneumonia", "body-part"])
def test_a_bundled_card_survives_being_stored(name: str) -> None:
    original = bundled(name).card

    assert ModelCard.model_validate_json(original.model_dump_json()) == original
    assert (
        ModelCard.model_validate(yaml.safe_load(yaml.safe_dump(original.model_dump(mode="json"))))
        == original
    )


def test_bundled_cards_attribute_their_data() -> None:
    (kermany,), (mednist,) = (bundled(name).card.data for name in ("cxr-pneumonia", "body-part"))

    assert (kermany.licence, kermany.doi) == ("CC BY 4.0", "10.17632/rscbjbr9sj.2")
    assert mednist.licence == "CC BY-SA 4.0"
    assert "Erickson" in mednist.authors


def test_the_pneumonia_model_is_gated_to_childrens_chest_films() -> None:
    made = bundled("cxr-pneumonia").card

    assert made.gate is not None
    assert (made.gate.model, made.gate.accept, made.gate.at_least) == ("body-part", ("CXR",), 0.4)
    assert made.constraints.modality is not None
    assert made.constraints.patient_age_years is not None
    assert made.constraints.patient_age_years.violated == "abstain"
    assert set(made.gate.accept) <= set(bundled("body-part").card.output.labels)
