"""Many images and their patients' ids from a multipart/form-data body (RFC 7578), as it arrives.

    file          an image; its place among the images is its place in the answer
    patient_id    of the image before it, where it has one

The order of parts is part of the form, and intermediaries must keep it (RFC 7578, 5.2).

Rules this file keeps: the body is held once, never as a whole beside its parts; an image that is
too large is dropped as it comes, and refused by itself; one image too many ends the reading.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from deployments.api.form_stream import StreamedParts, read_form
from deployments.api.multipart import FILE, MAX_FIELD_BYTES, PATIENT_ID, Part, text_of
from registry.errors import MalformedMultipart, PayloadTooLarge, ValidationFailed, Violation

MAX_IMAGES: Final = 100


@dataclass(slots=True)
class FormImage:
    """One image as it came. `body` is None where it was larger than allowed."""

    body: bytes | None
    media_type: str
    patient_id: str | None = None


@dataclass(slots=True)
class _Measured(Part):
    """A part that is dropped once it is too large."""

    size: int = 0
    too_large: bool = field(default=False)


async def read_batch_form(
    stream: AsyncIterator[bytes], boundary: bytes, *, max_image_bytes: int
) -> list[FormImage]:
    """Read the form.

    Args:
        stream: The body, piece by piece.
        boundary: What the Content-Type names.
        max_image_bytes: The largest image.

    Raises:
        MalformedMultipart: The body is no whole multipart body.
        PayloadTooLarge: More than `MAX_IMAGES` images.
        ValidationFailed: No image, a part with another name, or an id of no image.
    """
    images = _Images(max_image_bytes)
    await read_form(stream, boundary, images)
    if not images.images:
        violation = Violation(FILE, "missing", advice=f"add each image as a part {FILE}")
        raise ValidationFailed("the form holds no image", (violation,))
    return images.images


class _Images(StreamedParts):
    """Collects images from the parser's callbacks, each as soon as it is whole."""

    def __init__(self, max_image_bytes: int) -> None:
        super().__init__()
        self.images: list[FormImage] = []
        self._max_bytes = {FILE: max_image_bytes, PATIENT_ID: MAX_FIELD_BYTES}
        self._measured = _Measured()

    def begin(self) -> None:
        self.part = self._measured = _Measured()

    def data(self, data: bytes, start: int, end: int) -> None:
        part = self._measured
        part.size += end - start
        if part.size <= self._limit_of(part):
            part.pieces.append(data[start:end])
        elif not part.too_large:
            part.too_large = True
            part.pieces.clear()

    def end(self) -> None:
        part = self._measured
        if not part.size:  # then no data came that would have looked it up
            self._limit_of(part)
        if part.name == FILE:
            self.images.append(FormImage(None if part.too_large else part.body, part.media_type))
        elif part.too_large:
            raise MalformedMultipart(f"a field has more than {MAX_FIELD_BYTES} bytes")
        elif not self.images or self.images[-1].patient_id is not None:
            advice = f"put it after its {FILE}, once"
            raise ValidationFailed(
                "a patient's id belongs to no image", (Violation(PATIENT_ID, advice=advice),)
            )
        else:
            self.images[-1].patient_id = text_of(part)

    def _limit_of(self, part: Part) -> int:
        """Looked up as soon as the part's headers are known, before any of it is kept."""
        if part.name not in self._max_bytes:
            limit = f"{FILE}, {PATIENT_ID}"
            raise ValidationFailed(
                "the form is not the one this route takes",
                (Violation("parts", limit=limit, advice="leave out every other part"),),
            )
        if part.name == FILE and len(self.images) == MAX_IMAGES:
            raise PayloadTooLarge(
                "the batch has too many images",
                (Violation(FILE, limit=f"{MAX_IMAGES} images", advice="send several batches"),),
            )
        return self._max_bytes[part.name]
