"""What may be said of one image: the rules between its measures, its header, gate and scores.

    a refusing rule is broken                    rejected   no score is made
    the gate does not know the kind of image     abstained  OUT_OF_DOMAIN, no score is made
    the header breaks an abstaining constraint   abstained  OUTSIDE_INTENDED_USE, scores for review
    the best score is below the threshold        abstained  BELOW_THRESHOLD, scores for review
    otherwise                                    predicted  marked for review where a rule asks

Pure: no I/O, no clock. Every broken rule is named, not the first. Whatever is abstained is for
review.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from configs.settings import PrivacySettings
from deployments.inference.constraints import Finding, check_constraints
from deployments.inference.manufacturers import UNLISTED, listed
from deployments.inference.prepare import Prepared
from deployments.inference.privacy_checks import Patients, check_privacy
from deployments.inference.quality import judge
from deployments.inference.refusals import refusal
from registry.card import Action
from registry.catalogue import Served
from registry.contract import (
    GateVerdict,
    ImageFacts,
    Outcome,
    Reason,
    Scores,
    Upload,
    Validation,
    Verdict,
)
from registry.errors import (
    Failed,
    Internal,
    ModelNonfiniteOutput,
    Rejected,
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image that no rule refuses.

    Attributes:
        served: The version that shall answer.
        gate: The version that is asked first, if the card names one.
        prepared: Tensors, for the model and for the gate, in this order.
        so_far: What can be said already; `predicted`, unless a rule abstains.
    """

    served: Served
    gate: Served | None
    prepared: Prepared
    so_far: Verdict


def screen(
    served: Served,
    gate: Served | None,
    prepared: Prepared,
    patients: Patients,
    privacy: PrivacySettings,
) -> Candidate | Verdict:
    """Hold one image against its model's card. A `Verdict` where it is refused.

    Args:
        served: The version that shall answer.
        gate: Its gate, if it has one.
        prepared: The image.
        patients: The patient's pseudonyms.
        privacy: The site's policy.
    """
    facts, card = prepared.facts, served.card
    quality, score = judge(prepared.measures, card.quality)
    findings = [
        *check_constraints(
            card.constraints, facts, prepared.patient, symmetry=prepared.measures.symmetry
        ),
        *check_privacy(facts, patients, privacy),
    ]
    refusing = [check for check in quality if not check.passed]
    refusing += [found.check for found in findings if found.action is Action.REFUSE]
    checks = (*quality, *(found.check for found in findings))
    reasons = _reasons(findings)
    abstains = any(found.action is Action.ABSTAIN for found in findings)
    verdict = Verdict(
        outcome=Outcome.ABSTAINED if abstains else Outcome.PREDICTED,
        facts=_recorded(facts),
        validation=Validation(is_valid=not refusing, score=score, checks=checks),
        threshold=card.confidence_threshold,
        needs_review=bool(reasons),
        reasons=reasons,
        patient=patients.recorded,
        decode_ms=prepared.decode_ms,
        validate_ms=prepared.measure_ms,
        preprocess_ms=prepared.preprocess_ms,
    )
    if not refusing:
        return Candidate(served, gate, prepared, verdict)
    return replace(
        verdict,
        outcome=Outcome.REJECTED,
        threshold=None,
        needs_review=False,
        reasons=(),
        error=refusal(refusing),
    )


def after_gate(
    candidate: Candidate, judgement: GateVerdict | Failed, gate_ms: float
) -> Candidate | Verdict:
    """Go on, or end here where the gate does not accept the image or cannot say."""
    if isinstance(judgement, Failed):
        return failed(candidate, judgement)
    verdict = replace(
        candidate.so_far, gate=judgement, validate_ms=candidate.so_far.validate_ms + gate_ms
    )
    if judgement.passed:
        return Candidate(candidate.served, candidate.gate, candidate.prepared, verdict)
    return replace(
        verdict,
        outcome=Outcome.ABSTAINED,
        needs_review=True,
        reasons=_in_order((*verdict.reasons, Reason.OUT_OF_DOMAIN)),
    )


def decide(
    candidate: Candidate, row: NDArray[np.float32], scores: Scores, model_ms: float
) -> Verdict:
    """The verdict, from the model's scores of this image, shape (labels,)."""
    so_far, card = candidate.so_far, candidate.served.card
    values = row.tolist()  # a few numbers: Python's own functions are faster than an array's
    if not all(map(math.isfinite, values)):
        error = ModelNonfiniteOutput("the model's answer is not finite for this image")
        return replace(
            failed(candidate, error),
            model_ms=model_ms,
            inference_ms=scores.inference_ms,
            batch_size=scores.batch_size,
        )
    labels = card.output.labels
    confidence = max(values)
    reasons = so_far.reasons
    outcome = so_far.outcome
    if confidence < card.confidence_threshold:
        reasons = (*reasons, Reason.BELOW_THRESHOLD)
        outcome = Outcome.ABSTAINED
    best = labels[values.index(confidence)]
    return replace(
        so_far,
        outcome=outcome,
        prediction=best if outcome is Outcome.PREDICTED else None,
        confidence=confidence,
        scores=dict(zip(labels, values, strict=True)),
        needs_review=bool(reasons),
        reasons=reasons,
        model_ms=model_ms,
        inference_ms=scores.inference_ms,
        batch_size=scores.batch_size,
    )


def unprepared(upload: Upload, facts: ImageFacts, error: Exception) -> Verdict:
    """The verdict on a file that could not even be measured."""
    if isinstance(error, Rejected):
        return Verdict(Outcome.REJECTED, facts, patient=upload.patient, error=error.bare())
    return Verdict(Outcome.FAILED, facts, patient=upload.patient, error=_ours(error))


def failed(candidate: Candidate, error: Exception) -> Verdict:
    """The verdict where it was our fault that there is none."""
    return replace(
        candidate.so_far,
        outcome=Outcome.FAILED,
        threshold=None,
        needs_review=False,
        reasons=(),
        error=_ours(error),
    )


def _ours(error: Exception) -> Failed:
    ours = error if isinstance(error, Failed) else Internal(f"raised {type(error).__name__}")
    return ours.bare()


def _reasons(findings: list[Finding]) -> tuple[Reason, ...]:
    """Why a person must look, as far as the header tells."""
    shown = (Action.ABSTAIN, Action.REVIEW)
    return _in_order(found.reason for found in findings if found.action in shown)


def _in_order(reasons: Iterable[Reason]) -> tuple[Reason, ...]:
    told = set(reasons)
    return tuple(reason for reason in Reason if reason in told) if told else ()


def _recorded(facts: ImageFacts) -> ImageFacts:
    """The facts without the header's free text."""
    manufacturer = listed(facts.manufacturer)
    model = "" if manufacturer in {"", UNLISTED} else facts.manufacturer_model
    if (manufacturer, model) == (facts.manufacturer, facts.manufacturer_model):
        return facts  # as of every JPEG and PNG
    return replace(facts, manufacturer=manufacturer, manufacturer_model=model)
