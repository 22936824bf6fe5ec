"""Was the model meant for this image? The card's clinical constraints, applied to the header.

One of them, symmetry, is of the pixels; the header tells whether it applies. Every constraint the
card sets gives one check, whatever comes of it. What follows from a broken one is the card's to say
(`registry.card.Action`): refuse, abstain, let a person look, or nothing. A header that does not say
is not a header that agrees: for that, too, the card has an action.
"""

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from deployments.inference.decoded import PatientFacts
from deployments.inference.manufacturers import listed
from deployments.inference.per_card import PerCard
from registry.card import (
    Action,
    AllowedRange,
    AllowedValues,
    Constraints,
    ExcludedValues,
    SymmetryRule,
)
from registry.contract import Check, ImageFacts, Reason

OLDEST_SHOWN = 89  # years: ages above are identifiers (HIPAA 164.514(b)(2)(i)(C))

HeaderRule: TypeAlias = AllowedValues | AllowedRange | ExcludedValues

_UNITS = {"patient_age_years": "years", "bit_depth": "bits", "pixel_spacing_mm": "mm"}


@dataclass(frozen=True, slots=True)
class Finding:
    """A check and what follows from it: `IGNORE` where it holds.

    `reason` is what a verdict tells where the action is to abstain or to have a person look.
    """

    check: Check
    action: Action
    reason: Reason


def check_constraints(
    constraints: Constraints,
    facts: ImageFacts,
    patient: PatientFacts,
    *,
    symmetry: float | None = None,
) -> list[Finding]:
    """Apply every constraint that is set, in the card's order.

    Args:
        constraints: The card's.
        facts: What the header says of the image.
        patient: What it says of the patient.
        symmetry: Of the pixels, -1..1; None where it could not be measured.
    """
    values: dict[str, str | float | None] = {
        "modality": facts.modality or None,
        "body_part": facts.body_part or None,
        "view": facts.view or None,
        "laterality": facts.laterality or None,
        "patient_age_years": patient.age_years,
        "patient_sex": patient.sex or None,
        "bit_depth": facts.bit_depth or None,
        "pixel_spacing_mm": facts.pixel_spacing_mm,
        "photometric": facts.photometric or None,
        "manufacturer": facts.manufacturer or None,
    }
    findings = [
        known.silent if (value := values[known.name]) is None else _apply(known, value)
        for known in _rules(constraints)
    ]
    rule = constraints.symmetry
    if rule is not None and symmetry is not None and facts.view in {"", *rule.views}:
        findings.append(_symmetric(rule, symmetry, facts.view))
    return findings


def refuses(constraints: Constraints, broken: Check) -> bool:
    """Whether an image is refused for this broken check. Every check that is no constraint does."""
    rule = getattr(constraints, broken.name, None)
    if rule is None:
        return True
    unknown = broken.code.endswith("_UNKNOWN")
    return bool((rule.absent if unknown else rule.violated) is Action.REFUSE)


class _Known(NamedTuple):
    """A rule that the card sets, with what is the same for every image."""

    name: str
    rule: HeaderRule
    limit: str
    silent: Finding  # where the header does not say


@PerCard
def _rules(constraints: Constraints) -> tuple[_Known, ...]:
    """In the card's order; without symmetry, which is not of the header."""
    rules = ((name, getattr(constraints, name)) for name in Constraints.model_fields)
    return tuple(
        _Known(name, rule, limit := _limit(rule), _silent(name, rule, limit))
        for name, rule in rules
        if rule is not None and name != "symmetry"
    )


def _silent(name: str, rule: HeaderRule, limit: str) -> Finding:
    holds = rule.absent is Action.IGNORE
    check = Check(
        name=name,
        measured=None,
        limit=limit,
        passed=holds,
        code="" if holds else f"{name.upper()}_UNKNOWN",
        unit=_UNITS.get(name, ""),
        advice="" if holds else f"send an image whose header tells {name}",
    )
    return Finding(check, rule.absent, Reason.INTENDED_USE_UNKNOWN)


def _apply(known: _Known, value: str | float) -> Finding:
    name, rule = known.name, known.rule
    holds = _holds(rule, value)
    check = Check(
        name=name,
        measured=_shown(name, value),
        limit=known.limit,
        passed=holds,
        code="" if holds else f"WRONG_{name.upper()}",
        unit=_UNITS.get(name, ""),
        advice="" if holds else "the model was not made for this; use another",
    )
    return Finding(check, Action.IGNORE if holds else rule.violated, Reason.OUTSIDE_INTENDED_USE)


def _symmetric(rule: SymmetryRule, measured: float, view: str) -> Finding:
    """Whether both sides are there. Where the view is not known, the image may be a lateral one."""
    action = rule.violated if view else rule.absent
    in_range = rule.allowed.holds(measured)
    holds = in_range or action is Action.IGNORE
    code = "ASYMMETRIC" if view else "ASYMMETRIC_VIEW_UNKNOWN"
    check = Check(
        name="symmetry",
        measured=round(measured, 4),
        limit=str(rule.allowed),
        passed=holds,
        code="" if holds else code,
        advice="" if holds else "send the whole image with both sides; if it is whole, review it",
    )
    return Finding(check, Action.IGNORE if in_range else action, Reason.ASYMMETRIC)


def _holds(rule: HeaderRule, value: str | float) -> bool:
    if isinstance(rule, AllowedRange):
        return rule.allowed.holds(float(value))
    if isinstance(rule, AllowedValues):
        return str(value).upper() in rule.allowed
    # Firms write themselves in many ways: the text itself counts, and the name it stands for.
    return not {str(value).upper(), listed(str(value)).upper()} & set(rule.excluded)


def _limit(rule: HeaderRule) -> str:
    if isinstance(rule, AllowedRange):
        return str(rule.allowed)
    if isinstance(rule, AllowedValues):
        return " or ".join(rule.allowed)
    return f"not {' or '.join(rule.excluded)}"


def _shown(name: str, value: str | float) -> str | float:
    if name == "manufacturer" and isinstance(value, str):
        return listed(value)
    if name == "patient_age_years" and isinstance(value, float):
        return "90 or over" if value > OLDEST_SHOWN else round(value, 1)
    return value
