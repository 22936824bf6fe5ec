"""The schemas of an inference, as `/infer` answers it and `/results` shows it again.

They describe what is sent; what is sent is rendered straight from the frozen values of
`registry.contract` (`api.infer`), because building these models for each answer would cost more
than the rest of the layer. A test validates real answers against them, field for field.
"""

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from deployments.api.problems import AuditPosition
from registry.contract import Outcome, Reason

EXAMPLE_SHA256 = "5d1c" * 16


class Answered(BaseModel):
    """A part of an answer. Every field is always there."""

    model_config = ConfigDict(extra="forbid")


class ModelIdentity(Answered):
    """Exactly one model."""

    name: str = Field(examples=["cxr-pneumonia"])
    version: str = Field(examples=["1.0.0"])
    sha256: str = Field(pattern="^[0-9a-f]{64}$", examples=[EXAMPLE_SHA256])


class CheckDetails(Answered):
    """One rule applied to the image."""

    name: str = Field(examples=["brightness"])
    measured: float | int | str | None = Field(examples=[0.47])
    limit: str = Field(examples=["0.08 to 0.92"])
    passed: bool
    code: str = Field(description="`LOW_BRIGHTNESS` and the like, where the rule does not hold")
    unit: str
    advice: str


class ValidationDetails(Answered):
    """Every rule applied to the image."""

    is_valid: bool
    score: float = Field(ge=0, le=1)
    error_codes: list[str]
    checks: list[CheckDetails]


class GateDetails(Answered):
    """What another model said of the kind of image."""

    model: ModelIdentity
    label: str = Field(examples=["chest"])
    score: float = Field(ge=0, le=1)
    at_least: float = Field(ge=0, le=1)
    passed: bool


class ImageDetails(Answered):
    """What is kept of the image. Values of the header are "" where it does not say."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$", examples=[EXAMPLE_SHA256])
    size_bytes: int
    format: str = Field(examples=["DICOM"])
    width: int = Field(description="pixels")
    height: int = Field(description="pixels")
    bit_depth: int
    frames: int
    frame: int = Field(description="the one that was used, from 1")
    photometric: str
    orientation: int
    transfer_syntax: str
    sop_class: str
    modality: str
    body_part: str
    view: str
    laterality: str
    pixel_spacing_mm: float | None
    manufacturer: str
    manufacturer_model: str
    burned_in_annotation: str
    secondary_capture: str = Field(description="by which attribute of the header it is one")


class RecordedInference(Answered):
    """What was said of an image, or why no label was given, and where that is recorded."""

    result_id: UUID
    created_at: datetime
    outcome: Outcome
    prediction: str | None = Field(description="null unless the outcome is `predicted`")
    confidence: float | None = Field(ge=0, le=1)
    scores: dict[str, float] = Field(examples=[{"NORMAL": 0.03, "PNEUMONIA": 0.97}])
    threshold: float | None = Field(ge=0, le=1)
    needs_review: bool
    reasons: list[Reason]
    model: ModelIdentity
    gate: GateDetails | None
    validation: ValidationDetails | None
    image: ImageDetails
    patient: str | None = Field(description="pseudonym of the patient's id")
    audit: AuditPosition


class InferenceDetails(RecordedInference):
    """The answer to an image."""

    timings_ms: dict[str, float] = Field(examples=[{"decode": 1.2, "inference": 1.1}])


class ResultDetails(RecordedInference):
    """A recorded inference."""

    created_by: UUID
    error_code: str | None = Field(description="the problem's code, where the outcome is one")
    preprocessing_ms: float = Field(ge=0)
    inference_ms: float = Field(ge=0)
    record_hash: str = Field(pattern="^[0-9a-f]{64}$", examples=[EXAMPLE_SHA256])
