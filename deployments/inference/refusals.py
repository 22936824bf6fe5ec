"""The refusal that broken rules are answered with, now or when it is asked for again.

Apart from `inference.screening`, because the gateway answers a repeated request by it and has no
use for the libraries that decode images.
"""

from deployments.inference.constraints import refuses
from deployments.inference.privacy_checks import BURNED_IN, SECONDARY_CAPTURE
from registry.card import Constraints
from registry.contract import Check, Validation
from registry.errors import PhiInPixels, Rejected, ValidationFailed, Violation

_SHOW_PATIENTS = frozenset({BURNED_IN, SECONDARY_CAPTURE})


def refusal_again(validation: Validation, constraints: Constraints, code: str) -> Rejected:
    """The refusal that a recorded validation was answered with.

    Args:
        validation: The record.
        constraints: Of the card of the model that was asked.
        code: The recorded kind of the refusal. It tells whether what may show patients was refused
            then, or only to be looked at, as the settings were.
    """
    broken = [
        check
        for check in validation.checks
        if not check.passed
        and refuses(constraints, check)
        and (check.name not in _SHOW_PATIENTS or code == PhiInPixels.code)
    ]
    return refusal(broken)


def refusal(broken: list[Check]) -> Rejected:
    """The refusal of an image that breaks these rules."""
    violations = tuple(
        Violation(
            rule=check.name,
            measured=f"{check.measured} {check.unit}".strip(),
            limit=f"{check.limit} {check.unit}".strip(),
            advice=check.advice,
        )
        for check in broken
    )
    count = f"{len(broken)} rule{'s' if len(broken) > 1 else ''} broken"
    if any(check.name in _SHOW_PATIENTS for check in broken):
        return PhiInPixels(f"the image may show patient data; {count}", violations)
    return ValidationFailed(f"{count} by this image", violations)
