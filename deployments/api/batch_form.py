"""Many images and their patients' ids from a multipart/form-data body (RFC 7578), as it arrives.

    file          an image; its place among the images is its place in the answer
    patient_id    of the image before it, where it has one

The order of parts is part of the form, and intermediaries must keep it (RFC 7578, 5.2).

Rules this file keeps: the body is held once, never as a whole beside its parts; an image that is
too large is dropped as it comes, and refused by itself; one image too many ends the reading.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from deployments.api.multipart import (
    FILE,
    MAX_FIELD_BYTES,
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    PATIENT_ID,
    Part,
    Parts,
    text_of,
)
from registry.errors import MalformedMultipart, PayloadTooLarge, ValidationFailed, Violation

if TYPE_CHECKING:  # a type only, the parser has it nowhere else
    from python_multipart.multipart import MultipartCallbacks

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
    if not boundary:
        raise MalformedMultipart("the Content-Type names no boundary")
    images = _Images(max_image_bytes)
    frame = Frame(boundary)
    try:
        parser = MultipartParser(
            boundary,
            images.callbacks(),
            max_header_count=MAX_HEADERS,
            max_header_size=MAX_HEADER_BYTES,
        )
        async for piece in stream:
            if piece:
                frame.see(piece)
                parser.write(piece)
        parser.finalize()
    except FormParserError:
        raise MalformedMultipart("the body is not well-formed multipart/form-data") from None
    if not (images.ended and frame.is_closed):
        raise MalformedMultipart("the body does not end with its last boundary: it is cut short")
    if not images.images:
        violation = Violation(FILE, "missing", advice=f"add each image as a part {FILE}")
        raise ValidationFailed("the form holds no image", (violation,))
    return images.images


class Frame:
    """Sees that the body begins and ends with its boundary; the parser skips what stands around."""

    def __init__(self, boundary: bytes) -> None:
        self._frame = b"--" + boundary
        self._head = self._tail = b""

    def see(self, piece: bytes) -> None:
        """Look at the next piece. Raises `MalformedMultipart` where the body begins otherwise."""
        self._tail = (self._tail + piece)[-len(self._frame) - len(b"--\r\n") :]
        if len(self._head) <= len(self._frame) + len(b"\r\n"):
            self._head += piece[: len(self._frame) + len(b"\r\n")]
            begun = self._head.removeprefix(b"\r\n")[: len(self._frame)]
            if not self._frame.startswith(begun) and self._head != b"\r":
                raise MalformedMultipart("the body does not begin with its boundary")

    @property
    def is_closed(self) -> bool:
        """Whether the body has ended with its last boundary."""
        return self._tail.endswith((self._frame + b"--", self._frame + b"--\r\n"))


class _Images(Parts):
    """Collects images from the parser's callbacks, each as soon as it is whole."""

    def __init__(self, max_image_bytes: int) -> None:
        super().__init__()
        self.images: list[FormImage] = []
        self.ended = False
        self._max_bytes = {FILE: max_image_bytes, PATIENT_ID: MAX_FIELD_BYTES}
        self._measured = _Measured()

    def callbacks(self) -> "MultipartCallbacks":
        return {**super().callbacks(), "on_end": self._last}

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

    def _last(self) -> None:
        self.ended = True
