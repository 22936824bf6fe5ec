"""An inference as rows, and the hash that binds those rows to the audit log.

    record = SHA-256("medaiflow/record/v1" LF || canonical JSON of every field that never changes)
    commit = SHA-256("medaiflow/phi/v1" LF || salt || canonical JSON of {"patient_id": pseudonym})

The record's hash is in the audit entry, so a row that was edited later no longer agrees with the
log. The patient enters it through the commitment alone: once `audit_subjects` has lost the salt,
the row's pseudonym can be emptied, the log still verifies, and nothing in it can be guessed back.

Floats enter the hash by `repr`, the shortest text that reads back as the same IEEE 754 double; both
databases store doubles. -0.0 becomes 0.0, because SQLite does not keep the sign.
"""

import hashlib
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson

from registry.contract import Check, GateVerdict, ImageFacts, ModelRef, Validation, Verdict
from registry.events import NewResult
from storage.hashchain import Json, canonical

RESULT_FIELDS = (
    "id",
    "created_at",
    "model_version_id",
    "outcome",
    "prediction",
    "confidence_score",
    "scores",
    "reasons",
    "needs_review",
    "error_code",
    "image_sha256",
    "image_facts",
    "gate",
    "inference_latency_ms",
    "preprocessing_latency_ms",
    "created_by",
    "idempotency_key",
)
VALIDATION_FIELDS = (
    "id",
    "created_at",
    "inference_result_id",
    "brightness_valid",
    "contrast_valid",
    "motion_artifact_free",
    "is_valid",
    "validation_score",
    "error_codes",
    "measurements",
)

_RECORD = b"medaiflow/record/v1\n"
_PHI = b"medaiflow/phi/v1\n"
_FACTS = tuple(field.name for field in fields(ImageFacts) if field.name != "sha256")


@dataclass(frozen=True, slots=True)
class Record:
    """One inference, ready to be inserted.

    Attributes:
        result: The row of `inference_results`.
        validation: The row of `validation_results`, where the image was measured.
        subject_commit: The commitment to the patient, where there is one.
        salt: What the commitment was salted with, 32 bytes.
        summary: What the audit payload says of the result.
    """

    result: dict[str, Any]
    validation: dict[str, Any] | None
    subject_commit: bytes | None
    salt: bytes | None
    summary: dict[str, Json]


def record_of(change: NewResult) -> Record:
    """The rows of `change`. Raises `ValueError` where a score is not finite."""
    verdict = change.verdict
    salt = None if verdict.patient is None else secrets.token_bytes(32)
    commit = None if salt is None else subject_commit(salt, str(verdict.patient))
    result = _result_row(change)
    validation = _validation_row(change, verdict.validation)
    digest = record_hash(result, validation, commit)
    result["record_hash"] = digest
    return Record(result, validation, commit, salt, _summary(change, digest))


def record_hash(
    result: Mapping[str, Any], validation: Mapping[str, Any] | None, commit: bytes | None
) -> bytes:
    """The hash over the rows of one inference, given as column name to value."""
    content: dict[str, Json] = {
        "result": {name: _stable(result[name]) for name in RESULT_FIELDS},
        "validation": None
        if validation is None
        else {name: _stable(validation[name]) for name in VALIDATION_FIELDS},
        "subject_commit": None if commit is None else commit.hex(),
    }
    return hashlib.sha256(_RECORD + canonical(content)).digest()


def subject_commit(salt: bytes, patient: str) -> bytes:
    """The commitment to a patient's pseudonym; tells nothing without the salt."""
    return hashlib.sha256(_PHI + salt + canonical({"patient_id": patient})).digest()


def rfc3339(moment: datetime) -> str:
    """The one text of a moment: RFC 3339, UTC, microseconds, `Z`."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def model_json(model: ModelRef) -> dict[str, Json]:
    """A model version, as payloads and rows spell it."""
    return {
        "id": str(model.id),
        "name": model.name,
        "version": model.version,
        "sha256": model.sha256,
    }


def decimal(value: float | None) -> str | None:
    """A score or threshold as a payload spells it: six digits after the point."""
    return None if value is None else f"{value:.6f}"


def _result_row(change: NewResult) -> dict[str, Any]:
    verdict = change.verdict
    facts = {name: getattr(verdict.facts, name) for name in _FACTS}
    if not _is_finite(facts["pixel_spacing_mm"]):
        facts["pixel_spacing_mm"] = None
    return {
        "id": change.result_id,
        "created_at": change.created_at,
        "model_version_id": change.model.id,
        "outcome": str(verdict.outcome),
        "prediction": verdict.prediction,
        "confidence_score": None if verdict.confidence is None else _double(verdict.confidence),
        "scores": _scores_json(verdict),
        "reasons": ",".join(verdict.reasons),
        "needs_review": verdict.needs_review,
        "error_code": None if verdict.error is None else verdict.error.code,
        "patient_id": verdict.patient,
        "image_sha256": verdict.facts.sha256,
        "image_facts": _text(facts),
        "gate": None if verdict.gate is None else _gate_json(verdict.gate),
        "inference_latency_ms": _double(verdict.inference_ms),
        "preprocessing_latency_ms": _double(
            verdict.decode_ms + verdict.validate_ms + verdict.preprocess_ms
        ),
        "created_by": change.created_by,
        "idempotency_key": change.idempotency_key,
        "request_digest": change.request_digest,
    }


def _validation_row(change: NewResult, validation: Validation | None) -> dict[str, Any] | None:
    """One row a result that was measured; it has the result's id."""
    if validation is None:
        return None
    return {
        "id": change.result_id,
        "created_at": change.created_at,
        "inference_result_id": change.result_id,
        "brightness_valid": validation.holds("brightness"),
        "contrast_valid": validation.holds("contrast"),
        "motion_artifact_free": validation.holds("motion"),
        "is_valid": validation.is_valid,
        "validation_score": _double(validation.score),
        "error_codes": _text(validation.error_codes),
        "measurements": _text([_check_json(check) for check in validation.checks]),
    }


def _summary(change: NewResult, digest: bytes) -> dict[str, Json]:
    verdict = change.verdict
    validation = verdict.validation
    return {
        "id": str(change.result_id),
        "record_hash": digest.hex(),
        "outcome": str(verdict.outcome),
        "prediction": verdict.prediction,
        "confidence": decimal(verdict.confidence),
        "scores": [[label, decimal(score)] for label, score in verdict.scores.items()],
        "threshold": decimal(verdict.threshold),
        "reasons": [str(reason) for reason in verdict.reasons],
        "needs_review": verdict.needs_review,
        "error_code": None if verdict.error is None else verdict.error.code,
        "input_sha256": verdict.facts.sha256,
        "model": model_json(change.model),
        "checks_failed": [] if validation is None else list(validation.error_codes),
    }


def _scores_json(verdict: Verdict) -> str | None:
    if not verdict.scores:
        return None
    return _text({label: _double(score) for label, score in verdict.scores.items()})


def _gate_json(gate: GateVerdict) -> str:
    return _text(
        {
            "model": model_json(gate.model),
            "label": gate.label,
            "score": _double(gate.score),
            "at_least": _double(gate.at_least),
            "passed": gate.passed,
        }
    )


def _check_json(check: Check) -> dict[str, Any]:
    return {
        "name": check.name,
        # JSON has no NaN: what is not a number is kept as the word for it
        "measured": check.measured if _is_finite(check.measured) else str(check.measured),
        "limit": check.limit,
        "passed": check.passed,
        "code": check.code,
        "unit": check.unit,
        "advice": check.advice,
    }


def _double(value: float) -> float:
    """A finite Python float (not numpy's), without a negative zero."""
    number = float(value) + 0.0
    if not _is_finite(number):
        raise ValueError("a record holds finite numbers only")
    return number


def _is_finite(value: float | str | None) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _text(value: object) -> str:
    """A JSON column. Only ever read back as JSON, and hashed as the text it is."""
    return orjson.dumps(value).decode()


def _stable(value: object) -> Json:
    """The value's text form in the hash; the same before it was stored and after."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"a record holds no {type(value).__name__}")
