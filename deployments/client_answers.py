"""What the server answers, as the client's types. Moments and ids are text, as JSON has them.

They repeat the schemas of `deployments.api`, which a client need not install; a test compares them
field by field.
"""

from typing import TypedDict


class ModelIdentity(TypedDict):
    """Exactly one model."""

    name: str
    version: str
    sha256: str


class Violation(TypedDict):
    """One broken rule."""

    rule: str
    measured: str
    limit: str
    advice: str


class AuditPosition(TypedDict):
    """Where the record stands in the audit chain."""

    seq: int
    entry_hash: str


class Check(TypedDict):
    """One rule applied to the image."""

    name: str
    measured: float | int | str | None
    limit: str
    passed: bool
    code: str
    unit: str
    advice: str


class Validation(TypedDict):
    """Every rule applied to the image."""

    is_valid: bool
    score: float
    error_codes: list[str]
    checks: list[Check]


class Gate(TypedDict):
    """What another model said of the kind of image."""

    model: ModelIdentity
    label: str
    score: float
    at_least: float
    passed: bool


class Image(TypedDict):
    """What is kept of the image."""

    sha256: str
    size_bytes: int
    format: str
    width: int
    height: int
    bit_depth: int
    frames: int
    frame: int
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
    secondary_capture: str


class Inference(TypedDict):
    """The answer to an image."""

    result_id: str
    created_at: str
    outcome: str
    prediction: str | None
    confidence: float | None
    scores: dict[str, float]
    threshold: float | None
    needs_review: bool
    reasons: list[str]
    model: ModelIdentity
    gate: Gate | None
    validation: Validation | None
    image: Image
    patient: str | None
    audit: AuditPosition
    timings_ms: dict[str, float]


class ProblemDocument(TypedDict, total=False):
    """A refusal or failure (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    violations: list[Violation] | None
    result_id: str | None
    audit: AuditPosition | None


class BatchItem(TypedDict):
    """One image's answer: either `result` or `problem` is there, the other is None."""

    index: int
    status: int
    result: Inference | None
    problem: ProblemDocument | None


class Links(TypedDict):
    """Where else a list can be read."""

    first: str
    prev: str | None
    next: str | None
    last: str | None


class ResultSummary(TypedDict):
    """What a list shows of a result."""

    result_id: str
    created_at: str
    created_by: str
    outcome: str
    prediction: str | None
    confidence: float | None
    needs_review: bool
    reasons: list[str]
    error_code: str | None
    model: ModelIdentity
    patient: str | None
    audit: AuditPosition


class ResultPage(TypedDict):
    """A page of results, the newest first. Of a page by cursor, page and total are None."""

    items: list[ResultSummary]
    page: int | None
    size: int
    total: int | None
    links: Links


class ModelSummary(TypedDict):
    """One version of one model."""

    id: str
    name: str
    version: str
    status: str
    clinical_domain: str
    confidence_threshold: float
    labels: list[str]
    sha256: str
    size_bytes: int
    created_at: str
    status_changed_at: str


class ModelPage(TypedDict):
    """A page of model versions, by name, then the newest first."""

    items: list[ModelSummary]
    page: int
    size: int
    total: int
    links: Links
