"""What a caller sends as an image: its type, its size in memory, and the patient it belongs to.

Rules this file keeps: an unknown type is refused before the body is read; the images being held
have a bound together, since each is held whole; the patient's id becomes a pseudonym here and goes
no further.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request

from configs.settings import LimitSettings
from deployments.api.batch_form import FormImage, read_batch_form
from deployments.api.exchange import exchange_in
from deployments.api.multipart import PATIENT_ID, boundary_of, parse_image_form
from deployments.inference.pseudonym import Pseudonyms
from deployments.inference.signature import DICOM, JPEG, PNG, signature
from registry.errors import (
    MedAIError,
    Overloaded,
    PayloadTooLarge,
    Rejected,
    UnsupportedMediaType,
    ValidationFailed,
    Violation,
)

TYPES: Final = (JPEG, PNG, DICOM)
UNTYPED: Final = frozenset({"", "application/octet-stream"})
FORM: Final = "multipart/form-data"
BATCH_BODIES: Final = 4  # a batch may be as large as so many bodies of the largest size
BODIES_HELD: Final = 16  # of the largest size, at once
MAX_PATIENT_ID: Final = 64  # characters (DICOM PS3.5, LO)
# Form parts and their headers beside the image.
FORM_OVERHEAD: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class UploadedImage:
    """One image as it came. `patient` is a pseudonym, or None."""

    body: bytes
    media_type: str
    patient: str | None


class Uploads:
    """Reads images from requests. One a gateway.

    Args:
        pseudonyms: Makes the patients unrecognisable.
        limits: The size of a body, and when to come again.
    """

    def __init__(self, pseudonyms: Pseudonyms, limits: LimitSettings) -> None:
        self._pseudonyms = pseudonyms
        self._retry_after_s = limits.retry_after_s
        self._max_bytes = limits.max_body_bytes + FORM_OVERHEAD
        self._room = BODIES_HELD * self._max_bytes

    @property
    def max_body_bytes(self) -> int:
        """The largest body a route that takes images takes."""
        return self._max_bytes

    @property
    def max_batch_bytes(self) -> int:
        """The largest body a route that takes batches takes."""
        return BATCH_BODIES * self._max_bytes

    @contextmanager
    def held(self, request: Request, *, batch: bool = False) -> Iterator[None]:
        """Keep room for the body, an image's or a batch's, while it is read and worked on.

        Raises:
            Overloaded: The bodies that are held already take all the room.
        """
        largest = self.max_batch_bytes if batch else self._max_bytes
        declared = exchange_in(request.scope).content_length
        size = largest if declared is None else min(declared, largest)
        if size > self._room:
            raise Overloaded(
                "too many images are being received", retry_after_s=self._retry_after_s
            )
        self._room -= size
        try:
            yield
        finally:
            self._room += size

    async def read(self, request: Request) -> UploadedImage:
        """The image of a request.

        Raises:
            UnsupportedMediaType: Neither an image type of `TYPES` nor a form with one.
            MalformedMultipart: See `multipart.parse_image_form`.
            ValidationFailed: The form, or the patient's id in it.
        """
        declared = request.headers.get("content-type", "")
        refuse_encoded(request)
        boundary = boundary_of(declared)
        if boundary is not None:
            form = parse_image_form(await request.body(), boundary)
            media_type = self._type_of(form.media_type, form.body)
            return UploadedImage(form.body, media_type, self._patient(form.patient_id))
        media_type = declared.partition(";")[0].strip().lower()
        if media_type not in TYPES:
            raise _unsupported()
        return UploadedImage(await request.body(), media_type, None)

    async def read_batch(self, request: Request) -> list[UploadedImage | MedAIError]:
        """The images of a batch, in order; for one that `read` would refuse, why.

        Raises:
            UnsupportedMediaType: The body is no form.
            MalformedMultipart: See `batch_form.read_batch_form`.
            PayloadTooLarge: Too many images.
            ValidationFailed: The form.
        """
        refuse_encoded(request)
        boundary = boundary_of(request.headers.get("content-type", ""))
        if boundary is None:
            raise UnsupportedMediaType(
                "the body is of no type this route takes",
                (Violation("content-type", limit=FORM, advice="send the images as a form"),),
            )
        form = await read_batch_form(
            request.stream(), boundary, max_image_bytes=self._max_bytes - FORM_OVERHEAD
        )
        return [self._image_of(part) for part in form]

    def _image_of(self, part: FormImage) -> UploadedImage | MedAIError:
        if part.body is None:
            limit = f"{self._max_bytes - FORM_OVERHEAD} bytes"
            return PayloadTooLarge(
                "the image is larger than this route takes",
                (Violation("body", limit=limit, advice="send a smaller file"),),
            )
        try:
            media_type = self._type_of(part.media_type, part.body)
            return UploadedImage(part.body, media_type, self._patient(part.patient_id))
        except Rejected as refusal:
            return refusal

    @staticmethod
    def _type_of(declared: str, body: bytes) -> str:
        """The part's own type; where the client did not know it, what the first bytes say."""
        media_type = declared.lower()
        if media_type in UNTYPED:
            media_type = signature(body).media_type
        if media_type not in TYPES:
            raise _unsupported()
        return media_type

    def _patient(self, patient_id: str | None) -> str | None:
        if patient_id is None:
            return None
        written = patient_id.strip()
        if not written or len(written) > MAX_PATIENT_ID or not written.isprintable():
            limit = f"1 to {MAX_PATIENT_ID} printable characters"
            raise ValidationFailed(
                "the patient's id is not one",
                (Violation(PATIENT_ID, limit=limit, advice="leave the part out if there is none"),),
            )
        return self._pseudonyms.of(written)


def refuse_encoded(request: Request) -> None:
    """Raises `UnsupportedMediaType` where the body is compressed."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("send the body without a Content-Encoding")


def _unsupported() -> UnsupportedMediaType:
    accepted = ", ".join((*TYPES, FORM))
    return UnsupportedMediaType(
        "the body is of no type this route takes",
        (Violation("content-type", limit=accepted, advice="name the image's own type"),),
    )
