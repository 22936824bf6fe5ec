"""The messages that travel between the deployments. Frozen values; nothing here acts.

Upload   Gateway → Validator      one image, as it came
Tensors  Validator → OnnxModel    one uint8 array for many images
Scores   OnnxModel → Validator
Verdict  Validator → Gateway      what may be said of the image, or why nothing may
Receipt  AuditWriter → Gateway    where the record stands in the chain
"""

from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from registry.errors import MedAIError
from registry.message import Message


class Role(StrEnum):
    """What a user may do; the permissions of each role are in `deployments.api.permissions`."""

    ADMIN = "admin"
    CLINICIAN = "clinician"
    VIEWER = "viewer"


class Outcome(StrEnum):
    """How a request for inference ended."""

    PREDICTED = "predicted"
    ABSTAINED = "abstained"
    REJECTED = "rejected"
    FAILED = "failed"


class Reason(StrEnum):
    """Why there is no label, or why a person must look. Part of the API: never renamed.

    A verdict tells its reasons in this order.
    """

    PATIENT_MISMATCH = "PATIENT_MISMATCH"  # the id beside the file is not the one in its header
    OUT_OF_DOMAIN = "OUT_OF_DOMAIN"  # the gate model does not know this kind of image
    OUTSIDE_INTENDED_USE = "OUTSIDE_INTENDED_USE"  # the header says what the card does not allow
    INTENDED_USE_UNKNOWN = "INTENDED_USE_UNKNOWN"  # the header does not say what the card needs
    ASYMMETRIC = "ASYMMETRIC"  # left and right differ: a side is cut off, or one lung is white
    PHI_IN_PIXELS = "PHI_IN_PIXELS"  # the pixels may show who the patient is
    BELOW_THRESHOLD = "BELOW_THRESHOLD"  # no score reaches the card's threshold


@dataclass(frozen=True, slots=True)
class Principal(Message):
    """Who asks. `token_id` is the access token's jti."""

    user_id: UUID
    username: str
    role: Role
    token_id: str
    must_change_password: bool = False  # until then, nothing else is permitted


@dataclass(frozen=True, slots=True)
class ModelRef(Message):
    """Exactly one model: its row, name, version and the SHA-256 of its file (hex)."""

    id: UUID
    name: str
    version: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Upload(Message):
    """One image as it came.

    Attributes:
        result_id: The id the result will have (UUIDv7).
        model: The version that shall answer.
        body: The file's bytes.
        media_type: `image/jpeg`, `image/png` or `application/dicom`, as declared; the bytes must
            agree.
        patient: Pseudonym of the patient id that came beside the file, if one did.
        frame: Which frame of a multi-frame image to take, from 1.
        trace: The span that waits for the answer, as a W3C traceparent; None where the request is
            not traced.
    """

    result_id: UUID
    model: ModelRef
    body: bytes
    media_type: str
    patient: str | None = None
    frame: int | None = None
    trace: str | None = None


@dataclass(frozen=True, slots=True)
class Tensors(Message):
    """Many images for one model version. `pixels`: uint8, shape (n, channels, height, width).

    `traces`: the spans that wait for the scores, as W3C traceparents, of those images whose request
    is traced; in no order that matters.
    """

    model: ModelRef
    pixels: NDArray[np.uint8]
    traces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scores(Message):
    """The model's answer. `values`: float32, shape (n, labels), after the card's activation."""

    values: NDArray[np.float32]
    inference_ms: float
    batch_size: int


@dataclass(frozen=True, slots=True)
class Check(Message):
    """One rule applied to one image.

    Attributes:
        name: The rule, such as `brightness` or `modality`.
        measured: The value found; None where the image does not say.
        limit: The card's limit, in words.
        passed: Whether the rule holds.
        code: The error code where it does not, such as `LOW_BRIGHTNESS`; part of the API.
        unit: The unit of `measured`, or "".
        advice: What to do where the rule does not hold.
    """

    name: str
    measured: float | int | str | None
    limit: str
    passed: bool
    code: str = ""
    unit: str = ""
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Validation(Message):
    """All rules applied to one image.

    Attributes:
        is_valid: Whether no rule that refuses is broken.
        score: 0 (every measure at or beyond its limit) to 1 (all well inside).
        checks: In the order they were applied.
    """

    is_valid: bool
    score: float
    checks: tuple[Check, ...]

    @property
    def error_codes(self) -> tuple[str, ...]:
        """The codes of the broken rules, in order."""
        return tuple(check.code for check in self.checks if not check.passed)

    def holds(self, *names: str) -> bool:
        """Whether none of the named rules is broken."""
        return all(check.passed for check in self.checks if check.name in names)


@dataclass(frozen=True, slots=True)
class ImageFacts(Message):
    """What is kept of an image: measures of the file and the allow-listed header values.

    No name, id, date or free text is ever among them. Sizes in pixels, spacing in mm.
    """

    sha256: str
    size_bytes: int
    format: str = ""
    width: int = 0
    height: int = 0
    bit_depth: int = 0
    frames: int = 1
    frame: int = 1
    photometric: str = ""
    orientation: int = 1  # EXIF orientation that was applied; 1 = as stored
    transfer_syntax: str = ""
    sop_class: str = ""
    modality: str = ""
    body_part: str = ""
    view: str = ""
    laterality: str = ""
    pixel_spacing_mm: float | None = None
    manufacturer: str = ""  # once recorded: a name of `inference.manufacturers`
    manufacturer_model: str = ""  # recorded only where the manufacturer is listed
    burned_in_annotation: str = ""
    secondary_capture: str = ""  # by which attribute it is one; "" where it is none


@dataclass(frozen=True, slots=True)
class GateVerdict(Message):
    """What the gate model said. `score` is the sum over the accepted labels, 0..1."""

    model: ModelRef
    label: str
    score: float
    at_least: float
    passed: bool


@dataclass(frozen=True, slots=True)
class Verdict(Message):
    """What may be said of one image.

    `error` is set for `rejected` and `failed`, and for nothing else. `scores` are in the order of
    the card's labels, empty where none were made. Times are in ms.
    """

    outcome: Outcome
    facts: ImageFacts
    validation: Validation | None = None
    prediction: str | None = None
    confidence: float | None = None
    scores: dict[str, float] = field(default_factory=dict)
    threshold: float | None = None
    needs_review: bool = False
    reasons: tuple[Reason, ...] = ()
    gate: GateVerdict | None = None
    patient: str | None = None
    error: MedAIError | None = None
    decode_ms: float = 0.0
    validate_ms: float = 0.0
    preprocess_ms: float = 0.0
    model_ms: float = 0.0  # the whole hop to the model: queue, batch wait and inference
    inference_ms: float = 0.0
    batch_size: int = 0


@dataclass(frozen=True, slots=True)
class Receipt(Message):
    """Where a record stands in the audit chain. Given only after the commit."""

    event_id: UUID
    seq: int
    entry_hash: bytes
    recorded_at: str  # RFC 3339, UTC, microseconds
