"""The site's policy on patients: whose image it is, and whether its pixels may tell.

What follows from each finding is a setting (`PrivacySettings`): refuse, review or accept. The
attributes are those of DICOM PS3.3; a JPEG or PNG says none of this, and gives no finding.
"""

from dataclasses import dataclass

from configs.settings import PrivacySettings
from deployments.inference.constraints import Finding
from registry.card import Action
from registry.contract import Check, ImageFacts, Reason

BURNED_IN = "burned_in_annotation"
SECONDARY_CAPTURE = "secondary_capture"
PATIENT_ID = "patient_id"
_POLICY = {"refuse": Action.REFUSE, "review": Action.REVIEW, "accept": Action.IGNORE}


@dataclass(frozen=True, slots=True)
class Patients:
    """The pseudonyms of the patient ids that came beside the file and in its header, if any did."""

    beside: str | None = None
    in_header: str | None = None

    @property
    def recorded(self) -> str | None:
        """The one that is recorded: what the caller says, before what the file says."""
        return self.beside or self.in_header

    @property
    def differ(self) -> bool:
        """Whether both are there and are two. Those of two keys (`p1:`, `p2:`) do not compare."""
        if self.beside is None or self.in_header is None:
            return False
        one_key = self.beside.partition(":")[0] == self.in_header.partition(":")[0]
        return one_key and self.beside != self.in_header


def check_privacy(facts: ImageFacts, patients: Patients, privacy: PrivacySettings) -> list[Finding]:
    """Every finding on the patient, in order; none where there is nothing to say."""
    findings = [
        _patient(patients, _POLICY[privacy.patient_mismatch]),
        _burned_in(facts, _POLICY[privacy.burned_in_annotation]),
        _captured(facts, _POLICY[privacy.secondary_capture]),
    ]
    return [finding for finding in findings if finding is not None]


def _patient(patients: Patients, action: Action) -> Finding | None:
    """Two patients for one image: a result in the wrong record. Neither id is told."""
    if not patients.differ:
        return None
    advice = "send the id that is in the file, or the right file"
    return _finding(
        PATIENT_ID,
        ("another one in the header", "the same beside the file and in its header"),
        ("PATIENT_MISMATCH", advice),
        (action, Reason.PATIENT_MISMATCH),
    )


def _burned_in(facts: ImageFacts, action: Action) -> Finding | None:
    """(0028,0301) Burned In Annotation, C.7.6.1.1.5: the file says that its pixels tell."""
    if facts.burned_in_annotation != "YES":
        return None
    advice = "send an image without text in its pixels, and say so"
    return _finding(
        BURNED_IN,
        ("YES", "NO"),
        ("BURNED_IN_ANNOTATION", advice),
        (action, Reason.PHI_IN_PIXELS),
    )


def _captured(facts: ImageFacts, action: Action) -> Finding | None:
    """A screenshot or a scanned film that does not say that its pixels tell nothing."""
    if not facts.secondary_capture or facts.burned_in_annotation in {"YES", "NO"}:
        return None
    advice = "send the original image, or declare BurnedInAnnotation NO"
    return _finding(
        SECONDARY_CAPTURE,
        (facts.secondary_capture, "an original image"),
        ("SECONDARY_CAPTURE", advice),
        (action, Reason.PHI_IN_PIXELS),
    )


def _finding(
    name: str,
    measured_and_limit: tuple[str, str],
    code_and_advice: tuple[str, str],
    follows: tuple[Action, Reason],
) -> Finding:
    measured, limit = measured_and_limit
    action, reason = follows
    holds = action is Action.IGNORE
    code, advice = ("", "") if holds else code_and_advice
    return Finding(Check(name, measured, limit, holds, code, advice=advice), action, reason)
