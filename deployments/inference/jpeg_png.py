"""JPEG and PNG, by Pillow. Grey stays grey, and no bit is clipped on the way.

Pillow's own conversions are convenient and, for medical images, wrong in two places: 16-bit grey
through `convert("L")` is clipped at 255, and transparency is silently dropped. So every mode a file
can have is in the table below with what becomes of it, and every other mode is refused.

Grey of a colour JPEG is its luma channel as it is coded (ITU-T T.871, Rec. 601 weights), which
libjpeg gives without decoding the colour at half the cost. For grey content it equals
`convert("L")` pixel by pixel; where colour is so strong that RGB would be clipped it differs by a
few levels, towards what was coded.
"""

import struct
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from configs.settings import LimitSettings
from deployments.inference.decoded import DecodedImage, check_size
from deployments.inference.signature import JPEG, PNG, Signature
from registry.contract import ImageFacts
from registry.errors import UnsupportedMediaType, UnsupportedPixelMode, Violation

FORMATS = {JPEG: "JPEG", PNG: "PNG"}

# DICOM's words (PS3.3 C.7.6.3.1.2) for what the file holds.
_PHOTOMETRIC = {
    "1": "MONOCHROME2",
    "L": "MONOCHROME2",
    "LA": "MONOCHROME2",
    "I;16": "MONOCHROME2",
    "P": "PALETTE COLOR",
    "RGB": "RGB",
    "RGBA": "RGB",
}

# EXIF 2.32 §4.6.5.2, tag 0x0112: what was done to the picture, and what undoes it.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION_TAG = 0x0112
_OPAQUE = 255


def read_jpeg_png(
    body: bytes,
    claimed: Signature,
    facts: ImageFacts,
    *,
    limits: LimitSettings,
    rgb: bool = False,
    at_least: tuple[int, int] | None = None,
) -> DecodedImage:
    """Decode a JPEG or PNG file.

    Args:
        body: The file.
        claimed: Its signature.
        facts: Digest and size of the file; the rest is filled in.
        limits: The most pixels.
        rgb: Give three channels instead of grey.
        at_least: A JPEG may be decoded at 1/2, 1/4 or 1/8 (DCT scaling) as long as it keeps this
            width and height. It changes pixels; None decodes in full.

    Raises:
        ImageTooLarge: More pixels than `limits` allow.
        UnsupportedMediaType: Another format inside (an MPO posing as JPEG).
        UnsupportedPixelMode: Animated, transparent, CMYK, or another layout not in the table.
        Exception: Whatever Pillow raises on a broken file; `inference.image` turns it into one of
            ours.
    """
    check_size(claimed.width, claimed.height, 1, limits)
    image = Image.open(BytesIO(body), formats=[FORMATS[claimed.media_type]])
    if image.format != FORMATS[claimed.media_type]:
        raise UnsupportedMediaType(
            "the file is not a single image",
            (Violation("format", "MPO", "JPEG or PNG", "export one image as plain JPEG"),),
        )
    check_size(image.width, image.height, 1, limits)  # a second header may have spoken
    if getattr(image, "n_frames", 1) != 1:
        raise UnsupportedPixelMode(
            "the image is animated", (Violation("frames", advice="send a single image"),)
        )
    photometric = _PHOTOMETRIC.get(image.mode)
    if photometric is None:
        raise UnsupportedPixelMode(
            "the pixel layout is not supported",
            (
                Violation(
                    "pixel_mode", image.mode, "grey, palette or RGB", "convert it to grey or RGB"
                ),
            ),
        )
    width, height = image.size
    if image.format == "JPEG":
        image.draft(None if rgb else "L", at_least or image.size)
    orientation = exif_orientation(image.info.get("exif", b""))
    upright = _flat(image, rgb=rgb)
    if orientation in _UPRIGHT:
        upright = upright.transpose(_UPRIGHT[orientation])
    if orientation >= 5:  # noqa: PLR2004  # these swap rows and columns
        width, height = height, width
    described = ImageFacts(
        sha256=facts.sha256,
        size_bytes=facts.size_bytes,
        format=FORMATS[claimed.media_type],
        width=width,
        height=height,
        bit_depth=claimed.bit_depth,
        photometric=photometric,
        orientation=orientation,
    )
    return DecodedImage(np.asarray(upright), described)


def _flat(image: Image.Image, *, rgb: bool) -> Image.Image:
    """The image in mode L or RGB, opaque."""
    wanted = "RGB" if rgb else "L"
    if image.mode in ("LA", "RGBA") or "transparency" in image.info:
        if image.mode == "I;16":
            raise _transparent()
        image = image.convert("RGBA")
        lowest, _ = image.getchannel("A").getextrema()
        if lowest != _OPAQUE:
            raise _transparent()
        return image.convert("RGB").convert(wanted)
    if image.mode == "I;16":
        image = Image.fromarray(to_8_bit(np.asarray(image), 16))
    if image.mode == wanted:
        image.load()
        return image
    if image.mode == "P":
        image = image.convert("RGB")  # a palette's own grey conversion rounds differently
    return image.convert(wanted)


def _transparent() -> UnsupportedPixelMode:
    return UnsupportedPixelMode(
        "the image has transparent pixels",
        (Violation("pixel_mode", "transparent", "opaque", "flatten the image before sending it"),),
    )


def to_8_bit(samples: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Unsigned samples of `bits` bits, scaled by their declared range and rounded to 0..255."""
    highest = (1 << bits) - 1
    if highest == 255:  # noqa: PLR2004  # it is the display scale already
        return samples.astype(np.uint8, copy=False)
    scaled = samples.astype(np.uint64)  # room for 32 bits x 255
    scaled *= 255
    scaled += highest // 2
    scaled //= highest
    return scaled.astype(np.uint8)


def exif_orientation(exif: bytes) -> int:
    """The orientation, 1 to 8, from an EXIF block (TIFF 6.0 §2). 1 where it does not say.

    Read by hand, because a whole EXIF parser is a large door for one number.
    """
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, entry)
            if tag == _ORIENTATION_TAG:
                return value if kind == 3 and 1 <= value <= 8 else 1  # noqa: PLR2004  # SHORT, 1..8
    except struct.error:
        pass
    return 1
