"""Every error the service can answer, by whose fault it is.

    MedAIError
    ├── Rejected   the caller can put it right (4xx)
    └── Failed     we must put it right (5xx)

Rules this file keeps:

- `code` is the last part of the problem type URI and never changes its meaning once released.
- An error is safe to show: its text carries rules, measured values and limits, never the input, a
  path or another exception's message.
- An error survives `pickle` (it crosses process boundaries), so every constructor argument after
  `detail` has a default.
- No HTTP here: the status of each leaf is in `deployments.api.problems`.
"""

from dataclasses import dataclass
from typing import ClassVar, Final, Self

READ_ONLY: Final = "anchored log"  # the rule that a log behind its anchors breaks


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken rule, said so that the caller can mend it.

    Attributes:
        rule: The rule's name, such as `brightness` or `model`.
        measured: The value found, with its unit, or "" where there is none to show.
        limit: The value allowed, with its unit.
        advice: What to do, as an imperative ("retake the image with ...").
    """

    rule: str
    measured: str = ""
    limit: str = ""
    advice: str = ""

    def __str__(self) -> str:
        measured = f" is {self.measured}" if self.measured else ""
        limit = f", allowed is {self.limit}" if self.limit else ""
        advice = f": {self.advice}" if self.advice else ""
        return f"{self.rule}{measured}{limit}{advice}"


class MedAIError(Exception):
    """The root. `str(error)` is one line, fit for a terminal."""

    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"

    def __init__(
        self,
        detail: str = "",
        violations: tuple[Violation, ...] = (),
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(detail, violations, retry_after_s)
        self.detail = detail
        self.violations = violations
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return "; ".join([self.detail or self.title, *map(str, self.violations)])

    def bare(self) -> Self:
        """This error without the way it came, to be kept as a value.

        That way is made of frames, and they hold the image; where one of them holds the error too,
        all of it stays until the garbage collector comes.
        """
        self.__traceback__ = self.__context__ = self.__cause__ = None
        return self


class Rejected(MedAIError):
    """The caller's to mend."""

    code = "bad-request"
    title = "Bad request"


class Failed(MedAIError):
    """Ours to mend. The caller may try again where `retry_after_s` is set."""


class BadRequest(Rejected):
    """The request is not well-formed."""


class MalformedJson(Rejected):
    """The body is not the JSON this route takes."""

    code = "malformed-json"
    title = "Malformed JSON"


class MalformedMultipart(Rejected):
    """The multipart body is cut short, or lacks the part this route takes."""

    code = "malformed-multipart"
    title = "Malformed multipart body"


class Unauthenticated(Rejected):
    """No valid credentials. Never says which part was wrong."""

    code = "unauthenticated"
    title = "Authentication required"


class PasswordExpired(Rejected):
    """The only thing this user may do is to set a new password."""

    code = "password-expired"
    title = "Password must be changed"


class Forbidden(Rejected):
    """Authenticated, but the role does not hold this permission."""

    code = "forbidden"
    title = "Not permitted"


class NotFound(Rejected):
    """No such thing, or not one this user may see."""

    code = "not-found"
    title = "Not found"


class MethodNotAllowed(Rejected):
    """The path exists, the method does not."""

    code = "method-not-allowed"
    title = "Method not allowed"


class RequestTimeout(Rejected):
    """The request did not arrive in time."""

    code = "request-timeout"
    title = "Request arrived too slowly"


class Conflict(Rejected):
    """The thing exists already, or has changed meanwhile."""

    code = "conflict"
    title = "Conflict"


class IllegalTransition(Rejected):
    """A model version's state does not allow this step."""

    code = "illegal-transition"
    title = "Illegal transition"


class IdempotencyConflict(Rejected):
    """The Idempotency-Key was used before, with another body."""

    code = "idempotency-conflict"
    title = "Idempotency key used with another body"


class PayloadTooLarge(Rejected):
    """The body is larger than the route takes."""

    code = "payload-too-large"
    title = "Body too large"


class ImageTooLarge(Rejected):
    """The image has more pixels, frames or unpacked bytes than the service decodes."""

    code = "image-too-large"
    title = "Image too large"


class UnsupportedMediaType(Rejected):
    """Neither JPEG, PNG nor DICOM, or a transfer syntax no decoder here reads."""

    code = "unsupported-media-type"
    title = "Unsupported media type"


class ValidationFailed(Rejected):
    """The image, or the request, breaks rules. `violations` lists every one."""

    code = "validation-failed"
    title = "Validation failed"


class UndecodableImage(Rejected):
    """The bytes are not a whole image of the type they claim."""

    code = "undecodable-image"
    title = "Image cannot be decoded"


class UnsupportedPixelMode(Rejected):
    """The image is whole, but its pixel layout is not one the model takes."""

    code = "unsupported-pixel-mode"
    title = "Unsupported pixel layout"


class PhiInPixels(Rejected):
    """The image declares burned-in annotation, and the site's policy refuses it."""

    code = "phi-in-pixels"
    title = "Image may show patient data"


class NonfiniteInput(Rejected):
    """The pixels hold NaN or infinity."""

    code = "nonfinite-input"
    title = "Non-finite pixel values"


class InvalidModel(Rejected):
    """The model file or its card is not fit to be registered."""

    code = "invalid-model"
    title = "Invalid model"


class ForbiddenOperator(Rejected):
    """The graph uses an operator outside the allow-list."""

    code = "forbidden-operator"
    title = "Operator not allowed"


class InvalidConfiguration(Rejected):
    """An operator's setting is wrong. Only met at start, on the terminal."""

    code = "invalid-configuration"
    title = "Invalid configuration"


class RateLimited(Rejected):
    """Too many requests from this caller."""

    code = "rate-limited"
    title = "Too many requests"


class HeaderTooLarge(Rejected):
    """The header block is larger than the service reads."""

    code = "header-too-large"
    title = "Header too large"


class Internal(Failed):
    """Unforeseen. Only the request id leaves the house."""


class ModelNonfiniteOutput(Failed):
    """The model answered NaN or infinity."""

    code = "model-nonfinite-output"
    title = "Model gave a non-finite answer"


class ModelUnavailable(Failed):
    """No replica of the model could answer."""

    code = "model-unavailable"
    title = "Model unavailable"


class ModelHalted(Failed):
    """An administrator has stopped this model."""

    code = "model-halted"
    title = "Model halted"


class Overloaded(Failed):
    """A bounded queue is full."""

    code = "overloaded"
    title = "Service overloaded"


class AuditUnavailable(Failed):
    """The outcome could not be recorded, so it is not given."""

    code = "audit-unavailable"
    title = "Audit log unavailable"


class DatabaseUnavailable(Failed):
    """The database did not answer in time."""

    code = "database-unavailable"
    title = "Database unavailable"


class MetricsUnavailable(Failed):
    """The node's metrics agent did not answer."""

    code = "metrics-unavailable"
    title = "Metrics unavailable"


class InferenceTimeout(Failed):
    """The deadline passed before the answer was there."""

    code = "inference-timeout"
    title = "Deadline passed"


def is_read_only(error: MedAIError) -> bool:
    """Whether the log is behind its anchors: what is there can be read, and nothing recorded."""
    return isinstance(error, AuditUnavailable) and any(
        violation.rule == READ_ONLY for violation in error.violations
    )


def leaves(root: type[MedAIError] = MedAIError) -> frozenset[type[MedAIError]]:
    """Every error class below `root` that has no subclass of its own."""
    children = root.__subclasses__()
    if not children:
        return frozenset({root})
    return frozenset(leaf for child in children for leaf in leaves(child))
