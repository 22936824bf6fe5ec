"""The rules of a verdict: every combination of quality, intended use, privacy, gate and scores."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from configs.settings import PrivacySettings
from deployments.inference.decoded import PatientFacts
from deployments.inference.prepare import Prepared
from deployments.inference.privacy_checks import Patients
from deployments.inference.quality import measure
from deployments.inference.refusals import refusal_again
from deployments.inference.screening import (
    Candidate,
    after_gate,
    decide,
    failed,
    screen,
    unprepared,
)
from registry.card import (
    Action,
    AllowedRange,
    AllowedValues,
    Constraints,
    ExcludedValues,
    QualityLimits,
    Range,
)
from registry.catalogue import Served
from registry.contract import GateVerdict, ImageFacts, Outcome, Reason, Scores, Upload, Verdict
from registry.errors import (
    Internal,
    ModelNonfiniteOutput,
    ModelUnavailable,
    PhiInPixels,
    UndecodableImage,
    ValidationFailed,
)
from tests.inference.files import film_pixels
from tests.inference.models import bundled
from tests.inference.ruined import contrast, moved

MODEL = bundled("cxr-pneumonia")
SECONDARY = "SOP class"
FACTS = ImageFacts("0" * 64, 1000, format="DICOM", modality="CR", body_part="CHEST", view="AP")
POLICY = PrivacySettings()
PATIENT = Patients(beside="p1:abc")


def prepared(facts: ImageFacts = FACTS, *, age: float | None = 4.0, pixels: Any = None) -> Prepared:
    return Prepared(
        facts=facts,
        patient=PatientFacts(age_years=age),
        measures=measure(film_pixels() if pixels is None else pixels),
        tensors=(),
        decode_ms=1.0,
        measure_ms=2.0,
        preprocess_ms=3.0,
    )


def version(**changes: Any) -> Served:
    return Served(MODEL.model, MODEL.card.model_copy(update=changes), MODEL.path)


def candidate(served: Served = MODEL, **options: Any) -> Candidate:
    stage = screen(served, None, prepared(**options), PATIENT, POLICY)
    assert isinstance(stage, Candidate), stage
    return stage


def refused(served: Served = MODEL, privacy: PrivacySettings = POLICY, **options: Any) -> Verdict:
    stage = screen(served, None, prepared(**options), PATIENT, privacy)
    assert isinstance(stage, Verdict), stage
    return stage


def scored(under_test: Candidate, *scores: float) -> Verdict:
    row = np.array(scores, np.float32)
    return decide(under_test, row, Scores(row[None], 5.0, 7), 9.0)


def test_a_good_film_is_predicted_with_all_its_figures() -> None:
    verdict = scored(candidate(), 0.2, 0.8)

    assert verdict.outcome is Outcome.PREDICTED
    assert verdict.prediction == "PNEUMONIA"
    assert verdict.confidence == pytest.approx(0.8)
    assert verdict.scores == pytest.approx({"NORMAL": 0.2, "PNEUMONIA": 0.8})
    assert (verdict.threshold, verdict.patient) == (0.5, "p1:abc")
    assert (verdict.needs_review, verdict.reasons) == (False, ())
    assert (verdict.decode_ms, verdict.validate_ms, verdict.preprocess_ms) == (1, 2, 3)
    assert (verdict.model_ms, verdict.inference_ms, verdict.batch_size) == (9, 5, 7)
    assert verdict.validation is not None
    assert verdict.validation.is_valid
    assert verdict.validation.error_codes == ()
    assert verdict.error is None


def test_below_the_threshold_there_is_no_label_but_the_scores() -> None:
    verdict = scored(candidate(version(confidence_threshold=0.9)), 0.2, 0.8)

    assert verdict.outcome is Outcome.ABSTAINED
    assert verdict.prediction is None
    assert verdict.confidence == pytest.approx(0.8)
    assert verdict.scores["PNEUMONIA"] == pytest.approx(0.8)
    assert verdict.reasons == (Reason.BELOW_THRESHOLD,)
    assert verdict.needs_review


def test_a_score_at_the_threshold_is_enough() -> None:
    assert (
        scored(candidate(version(confidence_threshold=0.75)), 0.25, 0.75).prediction == "PNEUMONIA"
    )


def test_every_broken_rule_is_reported_at_once() -> None:
    verdict = refused(
        pixels=contrast(0.4)(moved(13, 1)(film_pixels())),
        facts=replace(FACTS, modality="CT", body_part="HEAD"),
    )

    assert verdict.outcome is Outcome.REJECTED
    assert isinstance(verdict.error, ValidationFailed)
    rules = [violation.rule for violation in verdict.error.violations]
    assert rules == ["contrast", "dynamic_range", "motion", "modality", "body_part"]
    assert verdict.error.detail == "5 rules broken by this image"
    assert verdict.validation is not None
    assert not verdict.validation.is_valid
    assert verdict.validation.error_codes == (
        "LOW_CONTRAST", "LOW_DYNAMIC_RANGE", "MOTION_ARTIFACT", "WRONG_MODALITY", "WRONG_BODY_PART",
    )  # fmt: skip
    assert (verdict.scores, verdict.prediction, verdict.threshold) == ({}, None, None)


def test_a_violation_tells_measure_limit_unit_and_advice() -> None:
    limits = QualityLimits(width_px=Range(at_least=1000))

    verdict = refused(version(quality=limits))

    assert verdict.error is not None
    (violation,) = verdict.error.violations
    assert str(violation) == (
        "width_px is 482 px, allowed is at least 1000 px: retake: send the original, not a copy"
    )


def test_outside_the_intended_use_there_is_no_label_but_the_scores() -> None:
    verdict = scored(candidate(age=64.0), 0.2, 0.8)

    assert verdict.outcome is Outcome.ABSTAINED
    assert (verdict.prediction, verdict.needs_review) == (None, True)
    assert verdict.reasons == (Reason.OUTSIDE_INTENDED_USE,)
    assert verdict.scores["PNEUMONIA"] == pytest.approx(0.8)
    assert verdict.validation is not None
    assert verdict.validation.is_valid
    assert verdict.validation.error_codes == ("WRONG_PATIENT_AGE_YEARS",)


def test_where_the_card_asks_for_review_the_label_stays() -> None:
    verdict = scored(candidate(facts=replace(FACTS, view="PA")), 0.2, 0.8)

    assert verdict.outcome is Outcome.PREDICTED
    assert verdict.prediction == "PNEUMONIA"
    assert verdict.needs_review
    assert verdict.reasons == (Reason.OUTSIDE_INTENDED_USE,)


@pytest.mark.parametrize("action", [Action.ABSTAIN, Action.REVIEW])
def test_what_is_wrong_and_what_is_not_said_are_two_reasons(action: Action) -> None:
    rule = AllowedValues(allowed=("AP",), violated=action, absent=action)
    served = version(constraints=Constraints(view=rule))

    wrong = scored(candidate(served, facts=replace(FACTS, view="PA")), 0, 1)
    silent = scored(candidate(served, facts=replace(FACTS, view="")), 0, 1)

    assert wrong.reasons == (Reason.OUTSIDE_INTENDED_USE,)
    assert silent.reasons == (Reason.INTENDED_USE_UNKNOWN,)
    assert wrong.needs_review
    assert silent.needs_review


def test_an_age_that_is_needed_and_unknown_is_its_own_reason() -> None:
    rule = AllowedRange(allowed=Range(at_most=18), absent=Action.ABSTAIN)

    verdict = scored(
        candidate(version(constraints=Constraints(patient_age_years=rule)), age=None), 0, 1
    )

    assert verdict.outcome is Outcome.ABSTAINED
    assert verdict.reasons == (Reason.INTENDED_USE_UNKNOWN,)


def test_what_the_card_ignores_is_shown_and_has_no_consequence() -> None:
    rule = AllowedValues(allowed=("MR",), violated=Action.IGNORE)

    verdict = scored(candidate(version(constraints=Constraints(modality=rule))), 0, 1)

    assert verdict.outcome is Outcome.PREDICTED
    assert not verdict.needs_review
    assert verdict.validation is not None
    assert verdict.validation.error_codes == ("WRONG_MODALITY",)


def test_reasons_add_up() -> None:
    rule = AllowedValues(allowed=("CR",), absent=Action.REVIEW)
    age = AllowedRange(allowed=Range(at_most=18), violated=Action.ABSTAIN)
    low = version(
        confidence_threshold=0.9, constraints=Constraints(modality=rule, patient_age_years=age)
    )
    facts = replace(FACTS, modality="", secondary_capture=SECONDARY)

    verdict = scored(candidate(low, age=64.0, facts=facts), 0.2, 0.8)

    assert verdict.reasons == (
        Reason.OUTSIDE_INTENDED_USE, Reason.INTENDED_USE_UNKNOWN, Reason.PHI_IN_PIXELS,
        Reason.BELOW_THRESHOLD,
    )  # fmt: skip


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


def judgement(*, passed: bool) -> GateVerdict:
    return GateVerdict(bundled("body-part").model, "CXR", 0.7, 0.4, passed)


def test_what_the_gate_accepts_goes_on() -> None:
    stage = after_gate(candidate(), judgement(passed=True), 0.5)

    assert isinstance(stage, Candidate)
    assert stage.so_far.gate == judgement(passed=True)
    assert stage.so_far.validate_ms == 2.5
    assert scored(stage, 0, 1).outcome is Outcome.PREDICTED


def test_what_the_gate_does_not_know_ends_without_scores() -> None:
    stage = after_gate(candidate(age=64.0), judgement(passed=False), 0.5)

    assert isinstance(stage, Verdict)
    assert stage.outcome is Outcome.ABSTAINED
    assert stage.reasons == (Reason.OUT_OF_DOMAIN, Reason.OUTSIDE_INTENDED_USE)
    assert (stage.needs_review, stage.prediction, stage.scores) == (True, None, {})


def test_a_gate_that_fails_is_our_failure() -> None:
    stage = after_gate(candidate(), ModelUnavailable("gone"), 0.5)

    assert isinstance(stage, Verdict)
    assert stage.outcome is Outcome.FAILED
    assert isinstance(stage.error, ModelUnavailable)


def test_an_answer_that_is_not_finite_is_our_failure() -> None:
    verdict = scored(candidate(), np.nan, np.nan)

    assert verdict.outcome is Outcome.FAILED
    assert isinstance(verdict.error, ModelNonfiniteOutput)
    assert (verdict.prediction, verdict.scores, verdict.model_ms) == (None, {}, 9)


def test_a_failure_keeps_what_is_known_and_hides_what_it_was() -> None:
    verdict = failed(candidate(age=64.0), KeyError("DOE^JOHN"))

    assert verdict.outcome is Outcome.FAILED
    assert isinstance(verdict.error, Internal)
    assert str(verdict.error) == "raised KeyError"
    assert (verdict.reasons, verdict.needs_review, verdict.threshold) == ((), False, None)
    assert verdict.patient == "p1:abc"
    assert verdict.validation is not None


@pytest.mark.parametrize(
    ("error", "outcome", "kind"),
    [
        (UndecodableImage("cut short"), Outcome.REJECTED, UndecodableImage),
        (ModelUnavailable("gone"), Outcome.FAILED, ModelUnavailable),
        (ValueError("DOE^JOHN"), Outcome.FAILED, Internal),
    ],
)
def test_a_file_that_could_not_be_prepared_has_a_verdict(
    error: Exception, outcome: Outcome, kind: type[Exception]
) -> None:
    upload = Upload(MODEL.model.id, MODEL.model, b"x", "image/jpeg", patient="p1:abc")

    verdict = unprepared(upload, FACTS, error)

    assert verdict.outcome is outcome
    assert type(verdict.error) is kind
    assert (verdict.facts, verdict.patient, verdict.validation) == (FACTS, "p1:abc", None)


def test_a_refusal_is_made_again_of_its_record() -> None:
    """With a rule that refuses, one that only abstains and a picture that only needs a look."""
    constraints = Constraints(
        view=AllowedValues(allowed=("PA",), violated=Action.ABSTAIN),
        body_part=AllowedValues(allowed=("KNEE",), violated=Action.REFUSE),
    )
    served = version(constraints=constraints)
    facts = replace(FACTS, secondary_capture=SECONDARY)
    for policy in (POLICY, PrivacySettings(secondary_capture="refuse")):
        verdict = refused(served, policy, facts=facts, pixels=contrast(0.01)(film_pixels()))

        assert verdict.error is not None
        assert verdict.validation is not None
        again = refusal_again(verdict.validation, constraints, verdict.error.code)

        assert type(again) is type(verdict.error)
        assert (again.detail, again.violations) == (verdict.error.detail, verdict.error.violations)
