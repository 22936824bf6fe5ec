"""What screening does about patients: in the pixels, in two places that differ, in free text."""

from dataclasses import replace

import pytest

from configs.settings import PrivacySettings
from deployments.inference.privacy_checks import Patients
from deployments.inference.screening import Candidate, screen
from registry.card import Action, Constraints, ExcludedValues
from registry.contract import Outcome, Reason, Verdict
from registry.errors import PhiInPixels, ValidationFailed
from tests.inference.screened import FACTS, MODEL, POLICY, SECONDARY, candidate, prepared, version


@pytest.mark.parametrize(
    ("burned_in", "captures", "declared", "captured", "expected"),
    [
        ("refuse", "accept", "YES", "", Action.REFUSE),
        ("review", "accept", "YES", "", Action.REVIEW),
        ("accept", "refuse", "YES", SECONDARY, Action.IGNORE),
        ("refuse", "refuse", "NO", SECONDARY, Action.IGNORE),
        ("refuse", "refuse", "", "", Action.IGNORE),
        ("accept", "refuse", "", SECONDARY, Action.REFUSE),
        ("refuse", "review", "", SECONDARY, Action.REVIEW),
        ("refuse", "accept", "", SECONDARY, Action.IGNORE),
    ],
)
def test_what_pixels_may_tell_of_a_patient_follows_the_sites_policy(
    burned_in: str, captures: str, declared: str, captured: str, expected: Action
) -> None:
    facts = replace(FACTS, burned_in_annotation=declared, secondary_capture=captured)
    privacy = PrivacySettings(burned_in_annotation=burned_in, secondary_capture=captures)

    stage = screen(MODEL, None, prepared(facts), Patients(), privacy)

    if expected is Action.REFUSE:
        assert isinstance(stage, Verdict)
        assert isinstance(stage.error, PhiInPixels)
        assert stage.error.violations[0].rule in {"burned_in_annotation", "secondary_capture"}
        assert stage.error.violations[0].advice
    else:
        assert isinstance(stage, Candidate)
        expected_reasons = (Reason.PHI_IN_PIXELS,) if expected is Action.REVIEW else ()
        assert stage.so_far.reasons == expected_reasons
        assert stage.so_far.needs_review is (expected is Action.REVIEW)


OTHER_PATIENT = Patients(beside="p1:" + "a" * 32, in_header="p1:" + "b" * 32)


def test_two_patients_for_one_image_are_refused_and_neither_is_told() -> None:
    verdict = screen(MODEL, None, prepared(), OTHER_PATIENT, POLICY)

    assert isinstance(verdict, Verdict)
    assert verdict.outcome is Outcome.REJECTED
    assert isinstance(verdict.error, ValidationFailed)
    assert verdict.validation is not None
    assert verdict.validation.error_codes == ("PATIENT_MISMATCH",)
    assert verdict.patient == OTHER_PATIENT.beside
    assert "aaaa" not in str(verdict.error)
    assert "bbbb" not in str(verdict.error)


@pytest.mark.parametrize(
    ("policy", "reasons"), [("review", (Reason.PATIENT_MISMATCH,)), ("accept", ())]
)
def test_a_site_may_have_two_patients_reviewed_or_accept_them(
    policy: str, reasons: tuple[Reason, ...]
) -> None:
    privacy = PrivacySettings(patient_mismatch=policy)

    stage = screen(MODEL, None, prepared(), OTHER_PATIENT, privacy)

    assert isinstance(stage, Candidate)
    assert stage.so_far.reasons == reasons


@pytest.mark.parametrize(
    "patients",
    [
        Patients("p1:abc", "p1:abc"),
        Patients("p1:abc", None),
        Patients(None, "p1:abc"),
        Patients("p2:abc", "p1:def"),  # of two keys: nobody can tell
        Patients(),
    ],
)
def test_one_patient_is_no_finding(patients: Patients) -> None:
    stage = screen(MODEL, None, prepared(), patients, POLICY)

    assert isinstance(stage, Candidate)
    assert stage.so_far.patient == (patients.beside or patients.in_header)
    assert "patient_id" not in [check.name for check in stage.so_far.validation.checks]  # type: ignore[union-attr]  # it was validated


def test_free_text_of_the_manufacturer_is_not_recorded() -> None:
    canary = replace(FACTS, manufacturer="CANARY JOHN", manufacturer_model="CANARY JANE")
    rule = ExcludedValues(excluded=("ACME",))

    stage = candidate(version(constraints=Constraints(manufacturer=rule)), facts=canary)
    known = candidate(facts=replace(canary, manufacturer="SIEMENS Canary", manufacturer_model="X"))

    assert "CANARY" not in repr(stage.so_far).upper()
    assert stage.so_far.facts.manufacturer == "unlisted"
    assert known.so_far.facts.manufacturer == "Siemens"
    assert known.so_far.facts.manufacturer_model == "X"
