"""Image quality as numbers. Deterministic; the limits are in the model card.

Everything is measured on a small copy (longest side at most 256 pixels, box average): blur and
noise finer than that do not reach a model that sees 224 pixels, and the whole set costs 0.25 ms.
`brightness` to `clipping` come from the copy's histogram. All sums are of whole numbers: a measure
is the same on every machine, in whatever order it adds.

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
from functools import cache
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deployments.inference.per_card import PerCard
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

Levels = NDArray[np.int16]
_MOMENTS = np.arange(256) ** np.arange(3)[:, None]  # 1, level, level squared
_FOLDS = 16  # values of the noise mask, at most 2040 each, whose sum 16 bits hold


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


def measure(
    pixels: NDArray[np.uint8],
    *,
    width: int = 0,
    height: int = 0,
    picture: Image.Image | None = None,
) -> Measures:
    """Measure one image.

    Args:
        pixels: uint8 on the display scale, shape (rows, columns) or (rows, columns, 3).
        width: The image's own width, where `pixels` were decoded at a smaller scale.
        height: The image's own height, likewise.
        picture: The same pixels as Pillow's image, where the caller has made it already.
    """
    rows, columns = pixels.shape[:2]
    width, height = width or columns, height or rows
    image = Image.fromarray(pixels) if picture is None else picture
    if image.mode != "L":
        image = image.convert("L")
    factor = -(-max(rows, columns) // SMALL_SIDE)
    small = image.reduce(factor) if factor > 1 else image
    histogram = _Histogram.of(small)
    is_small = pixels.shape == (small.height, small.width)
    copy = pixels if is_small else np.asarray(small)
    content = _content(copy)
    inside = copy[content]
    noise = sharpness = motion = None
    if min(inside.shape) >= LEAST_SIDE:
        whole = inside.shape == copy.shape
        of_inside = histogram if whole else _Histogram.of(Image.fromarray(inside))
        noise, sharpness, motion = _fine(inside, EDGE * of_inside.deviation)
    return Measures(
        width_px=width,
        height_px=height,
        aspect_ratio=width / height,
        brightness=histogram.mean / 255,
        contrast=histogram.deviation / 255,
        dynamic_range=histogram.spread / 255,
        clipping=histogram.clipped,
        content=inside.size / copy.size,
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


class _Histogram(NamedTuple):
    """What the histogram of a grey image tells, in display levels; `clipped` is a share."""

    mean: float
    deviation: float
    spread: float  # from the 1st to the 99th percentile
    clipped: float

    @classmethod
    def of(cls, image: Image.Image) -> Self:
        """In whole numbers: the last digit does not depend on how a sum is split."""
        counts = np.array(image.histogram(), np.int64)
        pixels, total, squares = (_MOMENTS @ counts).tolist()
        low, high = counts.cumsum().searchsorted((0.01 * pixels, 0.99 * pixels)).tolist()
        return cls(
            mean=total / pixels,
            deviation=math.sqrt(pixels * squares - total * total) / pixels,
            spread=float(high - low),
            clipped=int(counts[254] + counts[255]) / pixels,
        )


def _content(copy: NDArray[np.uint8]) -> tuple[slice, slice]:
    """Rows and columns inside uniform borders; nothing where all is uniform."""
    rows, columns = map(_varied, (copy, copy.T))
    return rows, columns


def _varied(lines: NDArray[np.uint8]) -> slice:
    """From the first to the last line that is no border."""
    outermost = lines[:: max(len(lines) - 1, 1)].copy()
    if (_range(outermost) > BORDER_STEP).all():  # as in most images, at a third of the cost
        return slice(0, len(lines))
    varied = np.flatnonzero(_range(lines) > BORDER_STEP)
    return slice(int(varied[0]), int(varied[-1]) + 1) if varied.size else slice(0, 0)


def _range(lines: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """From the least to the greatest of each line."""
    found: NDArray[np.uint8] = lines.max(axis=1) - lines.min(axis=1)
    return found


def _fine(inside: NDArray[np.uint8], edge: float) -> tuple[float, float | None, float | None]:
    """Noise, sharpness and motion; `edge` as in `_sharpness`."""
    levels = inside.astype(np.int16)
    sigma = _noise(levels)
    axes = [
        _sharpness(np.ascontiguousarray(lines[::2]), edge, 2 * sigma * sigma)  # half is enough
        for lines in (levels.T, levels)
    ]
    known = [axis for axis in axes if axis is not None]
    return sigma / 255, max(known, default=None), min(known, default=None)


def _noise(x: Levels) -> float:
    """Standard deviation of white noise in display levels (Immerkaer 1996).

    The mask [[1 -2 1] [-2 4 -2] [1 -2 1]] is the difference of two Laplacians: it ignores what is
    smooth. Here as two passes of [1 -2 1], each of which is a difference of differences.
    """
    rows, columns = x.shape
    down = x[1:] - x[:-1]
    down = down[1:] - down[:-1]
    # Along the rows as if they were one: three times as fast, and wrong only where one row ends.
    across = down.ravel()
    across = across[1:] - across[:-1]
    mask = np.zeros(-(-down.size // _FOLDS) * _FOLDS, np.int16)
    np.subtract(across[1:], across[:-1], out=mask[: down.size - 2])
    mask[: down.size].reshape(down.shape)[:, -2:] = 0
    np.abs(mask, out=mask)
    folded = np.add.reduce(mask.reshape(_FOLDS, -1), axis=0, dtype=np.int16)
    mean = int(folded.sum()) / ((rows - 2) * (columns - 2))
    sigma: float = mean * math.sqrt(math.pi / 2) / 6
    return sigma


def _sharpness(lines: Levels, edge: float, noise_energy: float) -> float | None:
    """Sharpness along each line, 0..1.

    Args:
        lines: Display levels, at most `SMALL_SIDE` a line.
        edge: Steps above are not counted, in display levels.
        noise_energy: What noise adds to every squared difference, in display levels squared.
    """
    levels = lines.ravel()  # all lines as if they were one, as for noise
    here = levels[:-LAG]
    planes = np.empty((3, *lines.shape), np.int16)
    counted, far, near = planes.reshape(3, -1)[:, :-LAG]
    np.subtract(levels[LAG:], here, out=far)
    np.subtract(levels[1 : 1 - LAG], here, out=near)
    counted[:] = np.abs(far) <= int(edge)  # of whole numbers, it is the same
    far *= counted
    near *= counted
    planes[:, :, -LAG:] = 0
    numbers = planes.astype(np.float32)
    squares = np.vecdot(numbers, numbers)  # of whole numbers, and below 2^24: exact in any order
    sums = np.add.reduceat(squares, _bands(len(lines)), axis=1, dtype=np.float64)
    ratios = []
    for pixels, squares_far, squares_near in sums.T.tolist():
        energy_far = squares_far / max(pixels, 1) - noise_energy
        if energy_far > LEAST_ENERGY:
            ratios.append((squares_near / pixels - noise_energy) / energy_far)
    if not ratios:
        return None
    ratios.sort()
    ratio = min(max(ratios[round(QUANTILE * (len(ratios) - 1))], 0.0), 1.0)
    return max((math.sqrt(ratio) - 1 / LAG) / (1 - 1 / LAG), 0.0)


@cache
def _bands(lines: int) -> NDArray[np.intp]:
    """Where each band begins."""
    return np.linspace(0, lines, BANDS, endpoint=False).astype(np.intp)


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


class _Limit(NamedTuple):
    """A range of the card, ready to be held against many images. An open side is infinite."""

    name: str
    low: float
    high: float
    room: float  # how far inside counts as well inside
    text: str
    rule: _Rule

    @classmethod
    def of(cls, name: str, allowed: Range) -> Self:
        low, high = allowed.at_least, allowed.at_most
        if low is not None and high is not None:
            room = (high - low) / 4
        else:
            (side,) = (side for side in (low, high) if side is not None)
            room = abs(side) / 2
        return cls(
            name,
            -math.inf if low is None else low,
            math.inf if high is None else high,
            room,
            str(allowed),
            _RULES[name],
        )

    def check(self, value: float) -> Check:
        measured = round(value, 4)
        if self.low <= value <= self.high:
            return Check(self.name, measured, self.text, passed=True, unit=self.rule.unit)
        return Check(
            self.name,
            measured,
            self.text,
            passed=False,
            code=self.rule.below if value < self.low else self.rule.above,
            unit=self.rule.unit,
            advice=f"retake: {self.rule.advice}",
        )

    def margin(self, value: float) -> float:
        """0 at a limit or beyond it, 1 well inside."""
        distance = min(value - self.low, self.high - value)
        if self.room == 0:
            return float(distance >= 0)
        return min(max(distance / self.room, 0.0), 1.0)


@PerCard
def _limits(limits: QualityLimits) -> tuple[_Limit, ...]:
    """One for each measure, in the table's order."""
    return tuple(_Limit.of(name, getattr(limits, name)) for name in _RULES)


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
    for limit in _limits(limits):
        value: float | None = getattr(measures, limit.name)
        if value is not None:
            checks.append(limit.check(value))
            margins.append(limit.margin(value))
    return checks, sum(margins) / len(margins)
