"""What may stand in a span: the names of spans and attributes. Nothing else is sent.

The allow-list of the log (`telemetry.events`) for traces: a collector may be another company's. An
attribute is written only where it is in `ATTRIBUTES` and its value has the form that stands there;
no form admits free text. Spans have no events, no exception texts and no status descriptions, and a
caller's `tracestate` and `baggage` are not read, because they hold what their writer likes.

Names are those of OpenTelemetry's semantic conventions, or begin with `medai.`.
"""

from enum import StrEnum
from types import MappingProxyType
from typing import Final

from deployments.telemetry.events import KEYS, Form, integer, number, text


class SpanName(StrEnum):
    """Every span but those of requests, whose name is `METHOD /route/{template}`."""

    # Whoever waits: in the queue, on the wire and for the work
    SCREEN = "screen"  # gateway -> Validator, one an image
    MODEL = "model"  # Validator -> OnnxModel, one an image
    AUDIT = "audit"  # gateway -> AuditWriter, one a request

    # The work, as each image's or request's own share of time; children of the three above
    VALIDATE = "validate"
    PREPARE = "prepare"  # decoding, measuring and resizing
    GATE = "gate"
    RUN = "run"  # ONNX Runtime
    COMMIT = "commit"  # the transaction

    # The work as it was done: one span for many, linked with each of them
    VALIDATE_BATCH = "validate batch"
    RUN_BATCH = "run batch"
    COMMIT_BATCH = "commit batch"


class Attribute(StrEnum):
    """Every attribute's name."""

    METHOD = "http.request.method"
    ROUTE = "http.route"
    STATUS = "http.response.status_code"
    ERROR = "error.type"  # a problem's code
    REQUEST_ID = "medai.request_id"
    RESULT_ID = "medai.result_id"
    MODEL = "medai.model"
    VERSION = "medai.version"
    OUTCOME = "medai.outcome"
    ACTION = "medai.action"
    BATCH_SIZE = "medai.batch_size"
    BYTES_IN = "medai.bytes_in"
    DECODE_MS = "medai.decode_ms"
    MEASURE_MS = "medai.measure_ms"
    PREPROCESS_MS = "medai.preprocess_ms"
    INFERENCE_MS = "medai.inference_ms"


ATTRIBUTES: Final[MappingProxyType[str, Form]] = MappingProxyType(
    {
        Attribute.METHOD: KEYS["method"],
        Attribute.ROUTE: KEYS["route"],
        Attribute.STATUS: integer,
        Attribute.ERROR: text(r"[a-z]+(?:-[a-z]+){0,4}"),
        Attribute.REQUEST_ID: KEYS["request_id"],
        Attribute.RESULT_ID: KEYS["result_id"],
        Attribute.MODEL: KEYS["model"],
        Attribute.VERSION: KEYS["version"],
        Attribute.OUTCOME: KEYS["outcome"],
        Attribute.ACTION: KEYS["action"],
        Attribute.BATCH_SIZE: integer,
        Attribute.BYTES_IN: integer,
        Attribute.DECODE_MS: number,
        Attribute.MEASURE_MS: number,
        Attribute.PREPROCESS_MS: number,
        Attribute.INFERENCE_MS: number,
    }
)
