"""The rules of a verdict: every combination of quality, intended use, gate and scores."""

from dataclasses import replace

import numpy as np
import pytest

from configs.settings import PrivacySettings
from deployments.inference.refusals import refusal_again
from deployments.inference.screening import Candidate, after_gate, failed, unprepared
from registry.card import Action, AllowedRange, AllowedValues, Constraints, QualityLimits, Range
from registry.contract import GateVerdict, Outcome, Reason, Upload, Verdict
from registry.errors import (
    Internal,
    ModelNonfiniteOutput,
    ModelUnavailable,
    UndecodableImage,
    ValidationFailed,
)
from tests.inference.files import film_pixels
from tests.inference.models import bundled
from tests.inference.ruined import contrast, moved
from tests.inference.screened import (
    FACTS,
    MODEL,
    POLICY,
    SECONDARY,
    candidate,
    refused,
    scored,
    version,
)


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


def test_of_equal_scores_the_first_label_is_predicted() -> None:
    assert scored(candidate(), 0.5, 0.5).prediction == "NORMAL"


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


def test_a_manufacturer_by_its_name_in_the_list_keeps_its_model() -> None:
    facts = replace(FACTS, manufacturer="Siemens", manufacturer_model="X")

    assert candidate(facts=facts).so_far.facts == facts


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


@pytest.mark.parametrize("scores", [(np.nan, np.nan), (0.2, np.nan), (np.inf, 0.8)])
def test_an_answer_that_is_not_finite_is_our_failure(scores: tuple[float, float]) -> None:
    verdict = scored(candidate(), *scores)

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
