"""Image quality as numbers. Deterministic; the limits are in the model card.

Everything is measured on a small copy (longest side at most 256 pixels, box average): blur and
noise finer than that do not reach a model that sees 224 pixels, and the whole set costs 0.3 ms.
`brightness` to `clipping` come from the copy's histogram.

| measure | unit | what it is |
| --- | --- | --- |
| width_px, height_px | px | of the image itself |
| aspect_ratio | width / height | a model that squashes sees a strip distorted |
| brightness | 0..1 | mean of the display scale |
| contrast | 0..0.5 | RMS contrast: standard deviation (Peli, JOSA A 7(10), 1990) |
| dynamic_range | 0..1 | from the 1st to the 99th percentile |
| clipping | 0..1 | share of pixels that are plain white: black is what surrounds a body |
| content | 0..1 | share of the image inside uniform borders: what collimation or a crop left |
| noise | 0..1 | standard deviation of noise (Immerkaer, CVIU 64(2), 1996) |
| sharpness | 0..1 | along the sharper axis: falls with defocus |
| motion | 0..1 | along the less sharp axis: falls with movement in any direction |
| symmetry | -1..1 | of left and right (`inference.symmetry`): falls where a side is cut off |

All but the last are held against `QualityLimits` here. What is not symmetric is poor only for
frontal images of what is: `symmetry` is a constraint of the card (`inference.constraints`).

Sharpness along an axis compares the variogram (Matheron, Economic Geology 58, 1963) at a lag of one
pixel with that at four: s = (sqrt(g(1) / g(4)) - 1/4) / (3/4). A ramp, which is what blur turns an
edge into, gives 0; white noise gives 1; a chest film in focus 0.10 to 0.35, whatever its brightness
and contrast. Like the re-blurring metric of Crete-Roffet et al. (SPIE 6492, 2007) it asks how much
the finest scale still adds.

Two things would pass for sharpness and are left out. Sensor noise, by its own estimate. And the
edges of borders and burned-in markers, which are sharp on a blurred film too: borders are cut off,
steps above 3/4 of the standard deviation are not counted, and of ten bands along the axis the
70th percentile counts, so that a marker in three of them changes nothing.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deployments.inference.symmetry import symmetry
from registry.card import QualityLimits, Range
from registry.contract import Check

SMALL_SIDE = 256
BORDER_STEP = 12  # display levels: rows and columns that vary less are border
LAG = 4
BANDS = 10
QUANTILE = 0.7
EDGE = 0.75  # of the standard deviation
LEAST_ENERGY = 1.0  # display levels squared: below, there is nothing to judge
LEAST_SIDE = 24  # pixels of content, for sharpness and noise

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Measures:
    """The measures of one image, as in the table above. None where there is nothing to judge."""

    width_px: int
    height_px: int
    aspect_ratio: float
    brightness: float
    contrast: float
    dynamic_range: float
    clipping: float
    content: float
    noise: float | None
    sharpness: float | None
    motion: float | None
    symmetry: float | None


def measure(pixels: NDArray[np.uint8], *, width: int = 0, height: int = 0) -> Measures:
    """Measure one image.

    Args:
        pixels: uint8 on the display scale, shape (rows, columns) or (rows, columns, 3).
        width: The image's own width, where `pixels` were decoded at a smaller scale.
        height: The image's own height, likewise.
    """
    rows, columns = pixels.shape[:2]
    width, height = width or columns, height or rows
    image = Image.fromarray(pixels)
    if image.mode != "L":
        image = image.convert("L")
    factor = -(-max(rows, columns) // SMALL_SIDE)
    small = image.reduce(factor) if factor > 1 else image
    copy = np.asarray(small)
    brightness, contrast, dynamic_range, clipping = _from_histogram(small.histogram())
    content = _content(copy)
    inside = copy[content].astype(np.float32)
    share = inside.size / copy.size
    noise = sharpness = motion = None
    if min(inside.shape) >= LEAST_SIDE:
        sigma = _noise(inside)
        noise = sigma / 255
        edge = EDGE * _deviation(inside)
        axes = [_sharpness(inside, axis, edge, 2 * sigma * sigma) for axis in (0, 1)]
        known = [axis for axis in axes if axis is not None]
        if known:
            sharpness, motion = max(known), min(known)
    return Measures(
        width_px=width,
        height_px=height,
        aspect_ratio=width / height,
        brightness=brightness,
        contrast=contrast,
        dynamic_range=dynamic_range,
        clipping=clipping,
        content=share,
        noise=noise,
        sharpness=sharpness,
        motion=motion,
        symmetry=symmetry(small),
    )


def survey(images: Iterable[NDArray[np.uint8]]) -> dict[str, list[float]]:
    """Each measure of each image, by the measure's name: for calibrating limits."""
    table: dict[str, list[float]] = {}
    for pixels in images:
        for name, value in asdict(measure(pixels)).items():
            table.setdefault(name, []).append(float("nan") if value is None else float(value))
    return table


def _from_histogram(counts: list[int]) -> tuple[float, float, float, float]:
    """Brightness, contrast, dynamic range and clipping."""
    histogram = np.asarray(counts)
    levels = np.arange(256)
    # In whole numbers: the last digit does not depend on how a sum is split.
    pixels, total = int(histogram.sum()), int(histogram @ levels)
    squares = int(histogram @ (levels * levels))
    deviation = math.sqrt(pixels * squares - total * total) / pixels
    low, high = np.searchsorted(np.cumsum(histogram), (0.01 * pixels, 0.99 * pixels))
    clipped = int(histogram[254:].sum())
    return total / pixels / 255, deviation / 255, float(high - low) / 255, clipped / pixels


def _content(copy: NDArray[np.uint8]) -> tuple[slice, slice]:
    """Rows and columns inside uniform borders; nothing where all is uniform."""
    sides = []
    for across in (1, 0):
        varied = np.flatnonzero(copy.max(axis=across) - copy.min(axis=across) > BORDER_STEP)
        sides.append(slice(int(varied[0]), int(varied[-1]) + 1) if varied.size else slice(0, 0))
    return sides[0], sides[1]


def _deviation(x: Floats) -> float:
    """Standard deviation, in two passes of BLAS rather than numpy's five."""
    flat = x.ravel() - x.mean()
    return math.sqrt(float(flat @ flat) / flat.size)


def _noise(x: Floats) -> float:
    """Standard deviation of white noise in display levels (Immerkaer 1996).

    The mask [[1 -2 1] [-2 4 -2] [1 -2 1]] is the difference of two Laplacians: it ignores what is
    smooth. Here as two passes of [1 -2 1].
    """
    across = x[:, :-2] + x[:, 2:]
    across -= 2 * x[:, 1:-1]
    both = across[:-2] + across[2:]
    both -= 2 * across[1:-1]
    return float(np.abs(both, out=both).mean()) * math.sqrt(math.pi / 2) / 6


def _sharpness(x: Floats, axis: int, edge: float, noise_energy: float) -> float | None:
    """Sharpness along `axis` (0: rows, downwards), 0..1. Every second line is enough.

    `noise_energy` is what noise adds to every squared difference, in display levels squared.
    """
    lines = x[:, ::2].T if axis == 0 else x[::2]
    here = lines[:, :-LAG]
    far = lines[:, LAG:] - here
    near = lines[:, 1 : 1 - LAG] - here
    counted = (np.abs(far) <= edge).astype(np.float32)
    far *= counted
    near *= counted
    bands = np.linspace(0, len(lines), BANDS, endpoint=False).astype(np.intp)
    pixels = np.add.reduceat(counted.sum(axis=1), bands)
    np.maximum(pixels, 1, out=pixels)
    energy_far = np.add.reduceat(np.einsum("ij,ij->i", far, far), bands) / pixels - noise_energy
    energy_near = np.add.reduceat(np.einsum("ij,ij->i", near, near), bands) / pixels - noise_energy
    judged = energy_far > LEAST_ENERGY
    ratios = np.sort(energy_near[judged] / energy_far[judged])
    if not ratios.size:
        return None
    ratio = min(max(float(ratios[round(QUANTILE * (ratios.size - 1))]), 0.0), 1.0)
    return max((math.sqrt(ratio) - 1 / LAG) / (1 - 1 / LAG), 0.0)


@dataclass(frozen=True, slots=True)
class _Rule:
    """What is said where a measure is outside its range."""

    unit: str
    below: str
    above: str
    advice: str


_RULES = {
    "width_px": _Rule("px", "IMAGE_TOO_SMALL", "IMAGE_TOO_LARGE", "send the original, not a copy"),
    "height_px": _Rule("px", "IMAGE_TOO_SMALL", "IMAGE_TOO_LARGE", "send the original, not a copy"),
    "aspect_ratio": _Rule("", "TOO_NARROW", "TOO_WIDE", "send the whole image, not a strip"),
    "brightness": _Rule("", "LOW_BRIGHTNESS", "HIGH_BRIGHTNESS", "check exposure and window"),
    "contrast": _Rule("", "LOW_CONTRAST", "HIGH_CONTRAST", "check exposure and window"),
    "dynamic_range": _Rule(
        "", "LOW_DYNAMIC_RANGE", "HIGH_DYNAMIC_RANGE", "check exposure and window"
    ),
    "clipping": _Rule("", "UNCLIPPED", "CLIPPED", "lower the exposure or widen the window"),
    "content": _Rule("", "CROPPED", "NO_BORDER", "open the collimation or remove the border"),
    "noise": _Rule("", "LOW_NOISE", "HIGH_NOISE", "raise the exposure"),
    "sharpness": _Rule("", "LOW_SHARPNESS", "HIGH_SHARPNESS", "check focus and distance"),
    "motion": _Rule(
        "", "MOTION_ARTIFACT", "NO_MOTION", "keep the patient still, or shorten the exposure"
    ),
}


def judge(measures: Measures, limits: QualityLimits) -> tuple[list[Check], float]:
    """Hold the measures against the card's limits.

    Returns:
        A check for each measure that could be taken, in the table's order, and the validation
        score: the mean over them of how far inside its limits each is, from 0 (at a limit or
        beyond) to 1 (a quarter of the range away from it, or half the limit where one side is
        open).
    """
    checks = []
    margins = []
    for name, rule in _RULES.items():
        value: float | None = getattr(measures, name)
        if value is None:
            continue
        allowed: Range = getattr(limits, name)
        holds = allowed.holds(value)
        code = ""
        if not holds:
            low = allowed.at_least is not None and value < allowed.at_least
            code = rule.below if low else rule.above
        checks.append(
            Check(
                name=name,
                measured=round(value, 4),
                limit=str(allowed),
                passed=holds,
                code=code,
                unit=rule.unit,
                advice="" if holds else f"retake: {rule.advice}",
            )
        )
        margins.append(_margin(value, allowed))
    return checks, sum(margins) / len(margins)


def _margin(value: float, allowed: Range) -> float:
    """0 at a limit or beyond it, 1 well inside."""
    low, high = allowed.at_least, allowed.at_most
    if low is not None and high is not None:
        distance, room = min(value - low, high - value), (high - low) / 4
    elif low is not None:
        distance, room = value - low, abs(low) / 2
    else:
        assert high is not None  # a range has a side
        distance, room = high - value, abs(high) / 2
    if room == 0:
        return float(distance >= 0)
    return min(max(distance / room, 0.0), 1.0)
