"""Clinical constraints: what the header says against what the card wants."""

import pytest

from deployments.inference.constraints import Finding, check_constraints
from deployments.inference.decoded import PatientFacts
from registry.card import Action, AllowedRange, AllowedValues, Constraints, ExcludedValues, Range
from registry.contract import ImageFacts

FILM = ImageFacts(
    "0" * 64,
    1,
    modality="CR",
    body_part="CHEST",
    view="AP",
    laterality="L",
    bit_depth=12,
    pixel_spacing_mm=0.15,
    photometric="MONOCHROME2",
    manufacturer="Siemens Healthineers",
)
CHILD = PatientFacts(age_years=4.26, sex="F")


def found(
    constraints: Constraints, facts: ImageFacts = FILM, patient: PatientFacts = CHILD
) -> Finding:
    (finding,) = check_constraints(constraints, facts, patient)
    return finding


@pytest.mark.parametrize(
    ("constraints", "measured"),
    [
        (Constraints(modality=AllowedValues(allowed=("cr", "DX"))), "CR"),
        (Constraints(body_part=AllowedValues(allowed=("CHEST",))), "CHEST"),
        (Constraints(view=AllowedValues(allowed=("AP",))), "AP"),
        (Constraints(laterality=AllowedValues(allowed=("L",))), "L"),
        (Constraints(patient_sex=AllowedValues(allowed=("F",))), "F"),
        (Constraints(photometric=AllowedValues(allowed=("MONOCHROME2",))), "MONOCHROME2"),
        (Constraints(patient_age_years=AllowedRange(allowed=Range(at_most=18))), 4.3),
        (Constraints(bit_depth=AllowedRange(allowed=Range(at_least=8))), 12),
        (Constraints(pixel_spacing_mm=AllowedRange(allowed=Range(at_most=0.2))), 0.15),
        (Constraints(manufacturer=ExcludedValues(excluded=("BROKEN",))), "Siemens"),
    ],
)
def test_a_constraint_that_holds_passes(constraints: Constraints, measured: object) -> None:
    finding = found(constraints)

    assert finding.check.passed
    assert finding.action is Action.IGNORE
    assert finding.check.measured == measured
    assert finding.check.code == finding.check.advice == ""


@pytest.mark.parametrize(
    ("constraints", "code", "limit"),
    [
        (Constraints(modality=AllowedValues(allowed=("CT", "MR"))), "WRONG_MODALITY", "CT or MR"),
        (
            Constraints(patient_age_years=AllowedRange(allowed=Range(at_least=18))),
            "WRONG_PATIENT_AGE_YEARS",
            "at least 18",
        ),
        (
            Constraints(manufacturer=ExcludedValues(excluded=("siemens",))),
            "WRONG_MANUFACTURER",
            "not SIEMENS",
        ),
    ],
)
def test_a_constraint_that_is_broken_refuses_by_default(
    constraints: Constraints, code: str, limit: str
) -> None:
    finding = found(constraints)

    assert not finding.check.passed
    assert finding.action is Action.REFUSE
    assert (finding.check.code, finding.check.limit) == (code, limit)
    assert finding.check.advice


@pytest.mark.parametrize("action", list(Action))
def test_the_card_says_what_follows(action: Action) -> None:
    broken = found(Constraints(view=AllowedValues(allowed=("PA",), violated=action)))
    silent = found(
        Constraints(view=AllowedValues(allowed=("PA",), absent=action)), ImageFacts("", 1)
    )

    assert broken.action is silent.action is action
    assert not broken.check.passed
    assert silent.check.passed is (action is Action.IGNORE)


def test_a_header_that_does_not_say_is_no_violation_unless_the_card_needs_it() -> None:
    ignored = found(Constraints(modality=AllowedValues(allowed=("CR",))), ImageFacts("", 1))
    needed = found(
        Constraints(modality=AllowedValues(allowed=("CR",), absent=Action.REVIEW)),
        ImageFacts("", 1),
    )

    assert ignored.check.passed
    assert ignored.check.measured is None
    assert needed.check.code == "MODALITY_UNKNOWN"
    assert needed.action is Action.REVIEW


@pytest.mark.parametrize(
    ("age", "shown"), [(0.5, 0.5), (89.0, 89.0), (89.5, "90 or over"), (103.0, "90 or over")]
)
def test_great_ages_are_not_shown(age: float, shown: object) -> None:
    rule = Constraints(patient_age_years=AllowedRange(allowed=Range(at_most=18)))

    assert found(rule, patient=PatientFacts(age_years=age)).check.measured == shown


def test_every_constraint_that_is_set_is_reported_in_the_cards_order() -> None:
    rules = Constraints(
        manufacturer=ExcludedValues(excluded=("siemens",)),
        modality=AllowedValues(allowed=("CT",)),
        view=AllowedValues(allowed=("AP",)),
    )

    names = [finding.check.name for finding in check_constraints(rules, FILM, CHILD)]

    assert names == ["modality", "view", "manufacturer"]


def test_no_constraint_gives_no_check() -> None:
    assert check_constraints(Constraints(), FILM, CHILD) == []


def test_units_are_told() -> None:
    rules = Constraints(pixel_spacing_mm=AllowedRange(allowed=Range(at_most=0.2)))

    assert found(rules).check.unit == "mm"
