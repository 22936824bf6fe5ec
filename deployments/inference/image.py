"""From a file's bytes to pixels and facts. The one door: whatever a decoder raises stays inside.

Rules this file keeps: the bytes decide what a file is, and must agree with what was declared; no
exception of a decoder leaves, because its text may quote the file; and a decoder's `BaseException`
(a Rust codec's panic) is a broken file like any other.
"""

from configs.settings import LimitSettings
from deployments.inference.decoded import DecodedImage
from deployments.inference.dicom import read_dicom
from deployments.inference.jpeg_png import read_jpeg_png
from deployments.inference.signature import DICOM, signature
from registry.contract import ImageFacts
from registry.errors import (
    ImageTooLarge,
    MedAIError,
    UndecodableImage,
    UnsupportedMediaType,
    ValidationFailed,
    Violation,
)


def read(
    body: bytes,
    media_type: str,
    facts: ImageFacts,
    *,
    limits: LimitSettings,
    frame: int | None = None,
    rgb: bool = False,
    at_least: tuple[int, int] | None = None,
) -> DecodedImage:
    """Decode one image.

    Args:
        body: The file.
        media_type: What the caller declared: `image/jpeg`, `image/png` or `application/dicom`.
        facts: Digest and size of the file; the rest is filled in.
        limits: The most pixels and frames.
        frame: Which frame of a multi-frame DICOM image, from 1.
        rgb: Give three channels instead of grey.
        at_least: The width and height a JPEG may be scaled down to while it is decoded; None
            decodes in full.

    Raises:
        UnsupportedMediaType: None of the three types, or not the declared one.
        ImageTooLarge: More pixels, frames or memory than the service decodes.
        UnsupportedPixelMode: A whole image whose layout no model here takes.
        UndecodableImage: Not a whole image.
        ValidationFailed: `frame` is missing or does not exist.
    """
    claimed = signature(body)
    if claimed.media_type != media_type or not media_type:
        raise UnsupportedMediaType(
            "the bytes are not of the declared type",
            (
                Violation(
                    "media_type",
                    claimed.media_type or "unknown",
                    "image/jpeg, image/png or application/dicom, as declared",
                    "declare the type of the file you send",
                ),
            ),
        )
    if frame not in (None, 1) and media_type != DICOM:
        raise ValidationFailed(
            "the image has 1 frame(s)", (Violation("frame", str(frame), "1", "leave frame out"),)
        )
    try:
        if media_type == DICOM:
            return read_dicom(body, facts, limits=limits, frame=frame, rgb=rgb)
        return read_jpeg_png(body, claimed, facts, limits=limits, rgb=rgb, at_least=at_least)
    except (MedAIError, KeyboardInterrupt, SystemExit):
        raise
    except MemoryError:
        raise ImageTooLarge(
            "decoding takes more memory than the service gives it",
            (Violation("memory", advice="send the image at a smaller size"),),
        ) from None
    except BaseException:  # noqa: BLE001  # pylibjpeg-rle panics with a BaseException
        raise UndecodableImage(
            "the file is not a whole image of its type",
            (Violation("file", advice="export the image again and send it whole"),),
        ) from None
