"""DICOM Part 10 files: one frame, on the display scale, with facts by allow-list.

The order is the safety: transfer syntax before the data set (a deflated data set of 1 MB can unpack
to gigabytes), sizes before pixels (a header may claim 65,535 x 65,535), one frame and never all.
This runs in the guarded process (`inference.guard`), because a codec can still be made to crash,
hang or eat memory, and no `except` helps against that.
"""

import struct
import warnings
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from configs.settings import LimitSettings
from deployments.inference.decoded import DecodedImage, check_size
from deployments.inference.dicom_header import HEADER, image_facts, patient_facts
from deployments.inference.grayscale import stored_range, to_display
from deployments.inference.jpeg_png import to_8_bit
from registry.contract import ImageFacts
from registry.errors import (
    UndecodableImage,
    UnsupportedMediaType,
    UnsupportedPixelMode,
    ValidationFailed,
    Violation,
)

# Deflated explicit little endian is not among them: unpacking it is the bomb.
TRANSFER_SYNTAXES = frozenset(
    {
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        RLELossless,
        JPEGBaseline8Bit,
        JPEGExtended12Bit,
        JPEGLossless,
        JPEGLosslessSV1,
        JPEGLSLossless,
        JPEGLSNearLossless,
        JPEG2000Lossless,
        JPEG2000,
        HTJ2KLossless,
        HTJ2KLosslessRPCL,
        HTJ2K,
    }
)

_TRANSFORM = (
    "ModalityLUTSequence",
    "RescaleIntercept",
    "RescaleSlope",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "VOILUTSequence",
)
_PALETTE_TABLES = (
    "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
)
_PIXELS = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor",
    *_PALETTE_TABLES,
    "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "PixelData",
    "FloatPixelData",
    "DoubleFloatPixelData",
)
_GROUPS = ("PixelValueTransformationSequence", "FrameVOILUTSequence", "PixelMeasuresSequence")
_GREY = frozenset({"MONOCHROME1", "MONOCHROME2"})
_COLOUR = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"})
_PALETTE = "PALETTE COLOR"
_LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT"})


def read_dicom(
    body: bytes,
    facts: ImageFacts,
    *,
    limits: LimitSettings,
    frame: int | None = None,
    rgb: bool = False,
) -> DecodedImage:
    """Decode one frame.

    Args:
        body: The file.
        facts: Digest and size of the file; the rest is filled in.
        limits: The most pixels and frames.
        frame: Which frame, from 1. Must be given where there are several.
        rgb: Give three channels instead of grey.

    Raises:
        ImageTooLarge: The header claims more pixels or frames than `limits` allow.
        UnsupportedMediaType: A transfer syntax that is not in the list, or no image inside.
        UnsupportedPixelMode: A pixel layout the pipeline does not take.
        ValidationFailed: `frame` is missing or does not exist.
        Exception: Whatever pydicom and its codecs raise on a broken file, and BaseException from
            one of them; `inference.image` turns it into one of ours.
    """
    syntax = _transfer_syntax(body)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote header values
        tags = [*HEADER, *_PIXELS, *_TRANSFORM]
        header = dcmread(BytesIO(body), specific_tags=list(tags))
        frames = int(header.get("NumberOfFrames") or 1)
        _check_header(header, frames, limits)
        frame = _chosen(frame, frames)
        # Unused bits as they are: pydicom would clear them, and with them a codec's surplus.
        stored, properties = get_decoder(syntax).as_array(
            header,
            index=frame - 1,
            correct_unused_bits=False,  # type: ignore[arg-type]  # pydicom lacks Unpack here
        )
        transform = _transform(header, frame)
        pixels = _shown(stored, str(properties["photometric_interpretation"]), header, transform)
    image = Image.fromarray(pixels)
    wanted = "RGB" if rgb else "L"
    described = image_facts(header, transform, facts, frame=frame, frames=frames)
    return DecodedImage(
        pixels if image.mode == wanted else np.asarray(image.convert(wanted)),
        described,
        patient_facts(header),
    )


def _transfer_syntax(body: bytes) -> UID:
    """The transfer syntax.

    Raises:
        UndecodableImage: There is none.
        UnsupportedMediaType: It is not in the list.
    """
    uid = transfer_syntax_of(body)
    if uid in TRANSFER_SYNTAXES:
        return uid
    known = uid.name if uid.name != str(uid) else "not one of the standard"
    raise UnsupportedMediaType(
        "no decoder here reads this transfer syntax",
        (
            Violation(
                "transfer_syntax",
                known,
                advice="send it as Explicit VR Little Endian or a JPEG family syntax",
            ),
        ),
    )


def transfer_syntax_of(body: bytes) -> UID:
    """What the file names, from the file meta group alone (explicit little endian, PS3.10 §7.1).

    Raises:
        UndecodableImage: It names none.
    """
    position = 132
    while position + 8 <= len(body) and body[position : position + 2] == b"\2\0":
        element, vr, length = struct.unpack_from("<H2sH", body, position + 2)
        position += 8
        if vr in _LONG_VRS:
            length = int.from_bytes(body[position : position + 4], "little")
            position += 4
        if element == 0x0010:  # noqa: PLR2004  # (0002,0010) Transfer Syntax UID
            return UID(body[position : position + length].decode("ascii", "replace").strip(" \0"))
        position += length
    raise UndecodableImage(
        "the file does not name its transfer syntax",
        (Violation("transfer_syntax", advice="send a DICOM Part 10 file with file meta"),),
    )


def _check_header(header: Dataset, frames: int, limits: LimitSettings) -> None:
    """Everything that must hold before a pixel is decoded."""
    if "PixelData" not in header:
        floats = "FloatPixelData" in header or "DoubleFloatPixelData" in header
        kind = UnsupportedPixelMode if floats else UnsupportedMediaType
        raise kind(
            "the pixels are floating point" if floats else "the file holds no image",
            (Violation("pixel_data", advice="send an image with integer pixel data"),),
        )
    rows, columns = int(header.Rows), int(header.Columns)
    if rows < 1 or columns < 1 or frames < 1:
        raise UndecodableImage(
            "the header claims an image without pixels",
            (Violation("pixels", f"{columns} x {rows} x {frames}", "at least 1 of each"),),
        )
    check_size(columns, rows, frames, limits)
    photometric = str(header.get("PhotometricInterpretation") or "")
    samples = 3 if photometric in _COLOUR else 1
    violations = []
    if photometric not in _GREY | _COLOUR | {_PALETTE}:
        violations.append(
            Violation("photometric", limit="MONOCHROME1, MONOCHROME2, PALETTE COLOR, RGB or YBR")
        )
    elif int(header.get("SamplesPerPixel") or 1) != samples:
        violations.append(Violation("samples_per_pixel", str(header.SamplesPerPixel), f"{samples}"))
    allocated, stored = int(header.BitsAllocated), int(header.BitsStored)
    if not 1 <= stored <= allocated <= 32:  # noqa: PLR2004  # PS3.5 §8.1.1, as far as codecs go
        violations.append(Violation("bits_stored", str(stored), "1 to bits allocated, at most 32"))
    if int(header.get("HighBit", stored - 1)) != stored - 1:
        violations.append(Violation("high_bit", str(header.HighBit), "bits stored - 1"))
    if violations:
        raise UnsupportedPixelMode("the pixel layout is not supported", tuple(violations))


def _chosen(frame: int | None, frames: int) -> int:
    if frame is None and frames > 1:
        raise ValidationFailed(
            f"the image has {frames} frames",
            (Violation("frame", "none", f"1 to {frames}", "choose one with frame=NUMBER"),),
        )
    if frame is not None and not 1 <= frame <= frames:
        raise ValidationFailed(
            f"the image has {frames} frame(s)",
            (Violation("frame", str(frame), f"1 to {frames}", "choose one of these"),),
        )
    return frame or 1


def _transform(header: Dataset, frame: int) -> Dataset:
    """The attributes that tell how to show this frame.

    An enhanced multi-frame image keeps them in functional groups (PS3.3 C.7.6.16): those of all
    frames, then those of this one, which win.
    """
    transform = Dataset()
    for keyword in _TRANSFORM:
        if keyword in header:
            transform.add(header[keyword])
    groups = list(header.get("SharedFunctionalGroupsSequence") or ())[:1]
    groups += list(header.get("PerFrameFunctionalGroupsSequence") or ())[frame - 1 : frame]
    for group in groups:
        for keyword in _GROUPS:
            for item in list(group.get(keyword) or ())[:1]:
                transform.update(item)
    return transform


def _palette_to_little_endian(header: Dataset) -> None:
    """Pydicom 3.0 reads a big endian file's palette as little endian: black, and no error."""
    if header.original_encoding[1] is False:
        for keyword in _PALETTE_TABLES:
            if keyword in header:
                table = header[keyword].value
                header[keyword].value = np.frombuffer(table, "u2").byteswap().tobytes()


def _shown(
    stored: NDArray[Any], photometric: str, header: Dataset, transform: Dataset
) -> NDArray[np.uint8]:
    """Pixels on the display scale: grey (rows, columns) or RGB (rows, columns, 3)."""
    if photometric == _PALETTE:
        _palette_to_little_endian(header)
        coloured = apply_color_lut(stored, header)
        return to_8_bit(coloured, 8 * coloured.dtype.itemsize)
    low, high = stored_range(header)
    if photometric in _GREY:
        # Native pixels may have other things above the high bit; a codec's output may not. (It may
        # leave the sign to us: then a signed value has the form of an unsigned one.)
        if UID(header.file_meta.TransferSyntaxUID).is_encapsulated and (
            stored.min() < low or stored.max() > high - low
        ):
            raise UndecodableImage(
                "the pixels do not fit the header",
                (Violation("bits_stored", limit=f"values {low} to {high}"),),
            )
        return to_display(stored, header, transform)
    if low < 0 or photometric != "RGB":
        raise UnsupportedPixelMode(
            "the pixel layout is not supported", (Violation("photometric", limit="unsigned RGB"),)
        )
    return to_8_bit(stored, int(header.BitsStored))
