"""The DICOM grayscale pipeline: stored values to the display scale 0 (black) .. 255 (white).

    stored ─► modality LUT or rescale ─► VOI LUT or window ─► inverted for MONOCHROME1 ─► 0..255

(PS3.4 N.2; PS3.3 C.11.1, C.11.2, C.7.6.3.1.2.) Where there is no VOI, the *declared* output range
of the modality step is the display range. Never the minimum and maximum of the image: a bright
marker or a dark corner would then change the picture of the lung, and with it the score.

Every step is a function of one stored value. So it is computed once for each value there can be
(65,536 for 16 bits) and looked up for each pixel, which takes 4 ms where arithmetic on each pixel
of a chest film takes 150 ms.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from registry.errors import UnsupportedPixelMode, Violation

Floats = NDArray[np.float64]
Range = tuple[float, float]


def to_display(stored: NDArray[Any], header: Dataset, transform: Dataset) -> NDArray[np.uint8]:
    """Grey pixels on the display scale, shape as `stored`.

    Args:
        stored: Integer pixels as decoded, 8, 16 or 32 bits a cell.
        header: Where the image pixel module is.
        transform: Where modality and VOI attributes are: the header itself, or an enhanced
            image's functional groups of one frame.

    Raises:
        UnsupportedPixelMode: A VOI function or a table this pipeline does not know.
    """
    if stored.dtype.itemsize > 2:  # noqa: PLR2004  # a table of 2^32 values helps nobody
        return _display(stored.astype(np.float64), header, transform)
    cells = np.dtype(f"u{stored.dtype.itemsize}")
    every = np.arange(1 << (8 * cells.itemsize), dtype=cells).view(stored.dtype)
    table = _display(_meaningful_bits(every, header), header, transform)
    shown: NDArray[np.uint8] = table[stored.view(cells)]
    return shown


def stored_range(header: Dataset) -> tuple[int, int]:
    """The least and greatest value that BitsStored and PixelRepresentation declare."""
    bits = int(header.BitsStored)
    if header.get("PixelRepresentation", 0):
        return -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    return 0, (1 << bits) - 1


def _meaningful_bits(cells: NDArray[Any], header: Dataset) -> Floats:
    """The values that cells hold.

    Bits above the high bit are not part of them (PS3.5 §8.1.1): old files kept overlays there. The
    sign is that of the value, not that of the cell.
    """
    low, high = stored_range(header)
    values = cells.astype(np.int64) & (high - low)
    values[values > high] -= high - low + 1
    return values.astype(np.float64)


def _display(stored: Floats, header: Dataset, transform: Dataset) -> NDArray[np.uint8]:
    values, declared = _modality(stored, stored_range(header), transform)
    shown = _voi(values, declared, transform)
    if header.PhotometricInterpretation == "MONOCHROME1":
        shown = 1.0 - shown
    shown[_padding(stored, header)] = 0.0
    shown *= 255.0
    return np.rint(shown, out=shown).astype(np.uint8)


def _padding(stored: Floats, header: Dataset) -> NDArray[np.bool_]:
    """Which values only fill the frame (PS3.3 C.7.5.1.1.2). They are shown black."""
    first = header.get("PixelPaddingValue")
    if first is None:
        return np.zeros(stored.shape, np.bool_)
    last = header.get("PixelPaddingRangeLimit", first)
    low, high = sorted((float(first), float(last)))
    inside: NDArray[np.bool_] = (stored >= low) & (stored <= high)
    return inside


def _modality(stored: Floats, declared: Range, transform: Dataset) -> tuple[Floats, Range]:
    """Values after the modality step, and the range it declares (PS3.3 C.11.1)."""
    if tables := transform.get("ModalityLUTSequence"):
        return _look_up(stored, tables[0])
    slope, intercept = transform.get("RescaleSlope"), transform.get("RescaleIntercept")
    if slope is None or intercept is None:
        return stored, declared
    ends = sorted(end * float(slope) + float(intercept) for end in declared)
    return stored * float(slope) + float(intercept), (ends[0], ends[1])


def _voi(values: Floats, declared: Range, transform: Dataset) -> Floats:
    """Values after the VOI step, as a fraction 0..1 of the display range (PS3.3 C.11.2).

    Where a file offers several views, the first is taken, as a viewer would open it.
    """
    if tables := transform.get("VOILUTSequence"):
        values, declared = _look_up(values, tables[0])
    elif (window := _window(transform)) is not None:
        return _windowed(values, *window, str(transform.get("VOILUTFunction") or "LINEAR"))
    low, high = declared
    span = high - low
    return np.clip((values - low) / span, 0.0, 1.0) if span > 0 else np.zeros_like(values)


def _window(transform: Dataset) -> tuple[float, float] | None:
    """Centre and width of the first window; None where there is none, or one of no width."""
    center, width = _first(transform.get("WindowCenter")), _first(transform.get("WindowWidth"))
    if center is None or width is None or not math.isfinite(center + width):
        return None
    exact = transform.get("VOILUTFunction") in ("LINEAR_EXACT", "SIGMOID")
    usable = width > 0 if exact else width >= 1
    return (center, width) if usable else None


def _windowed(values: Floats, center: float, width: float, function: str) -> Floats:
    if function == "LINEAR":  # C.11.2.1.2.1
        if width == 1:
            return (values > center - 0.5).astype(np.float64)
        return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0.0, 1.0)
    if function == "LINEAR_EXACT":  # C.11.2.1.3.2
        return np.clip((values - center) / width + 0.5, 0.0, 1.0)
    if function == "SIGMOID":  # C.11.2.1.3.1
        power = np.clip(-4.0 * (values - center) / width, -700.0, 700.0)
        return 1.0 / (1.0 + np.exp(power))
    raise UnsupportedPixelMode(
        "the VOI LUT function is not supported",
        (Violation("voi_lut_function", limit="LINEAR, LINEAR_EXACT or SIGMOID"),),
    )


def _look_up(values: Floats, item: Dataset) -> tuple[Floats, Range]:
    """Apply one LUT item: values below its first entry take the first, above its last the last."""
    count, first, bits = (int(number) for number in item.LUTDescriptor)
    count = count or 1 << 16
    if not 1 <= bits <= 16:  # noqa: PLR2004  # PS3.3 C.11.1.1.1: 8 or 16; C.11.2.1.1: 8 to 16
        raise UnsupportedPixelMode(
            "the lookup table is not supported", (Violation("lut_bits", str(bits), "1 to 16"),)
        )
    entries = _entries(item.LUTData, count, item)
    index = np.clip(values - first, 0, len(entries) - 1).astype(np.int64)
    return entries[index], (0.0, float((1 << bits) - 1))


def _entries(table: bytes | Sequence[int] | int, count: int, item: Dataset) -> Floats:
    if isinstance(table, bytes):
        order = ">" if item.original_encoding[1] is False else "<"
        packed = len(table) < 2 * count  # two 8-bit entries a word
        table = np.frombuffer(table, "u1" if packed else f"{order}u2")[:count].tolist()
    entries = np.atleast_1d(np.asarray(table, np.float64))
    if len(entries) < count:
        raise UnsupportedPixelMode(
            "the lookup table is cut short",
            (Violation("lut_entries", str(len(entries)), str(count)),),
        )
    return entries


def _first(value: Any) -> float | None:
    """The first of one or more numbers; None where there is none."""
    if value is None or isinstance(value, str):
        return None
    if isinstance(value, Sequence):
        return float(value[0]) if value else None
    return float(value)
