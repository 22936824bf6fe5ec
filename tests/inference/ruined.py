"""Films as a clinic sends them, good and ruined. Each takes uint8 grey pixels and gives such."""

from collections.abc import Callable
from io import BytesIO
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Pixels: TypeAlias = NDArray[np.uint8]
Change: TypeAlias = Callable[[Pixels], Pixels]

NOISE = np.random.default_rng(1)


def _rounded(values: NDArray[Any]) -> Pixels:
    rounded: Pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return rounded


def _scale(pixels: Pixels) -> int:
    """How many pixels of the image are one of the small copy that is measured."""
    return -(-max(map(int, pixels.shape)) // 256)


def brighter(levels: float) -> Change:
    return lambda pixels: _rounded(pixels + float(levels))


def contrast(factor: float, center: float = 128) -> Change:
    return lambda pixels: _rounded((pixels - 128.0) * factor + center)


def exposed(factor: float) -> Change:
    return lambda pixels: _rounded(pixels * float(factor))


def gamma(power: float) -> Change:
    return lambda pixels: _rounded(255 * (pixels / 255) ** power)


def defocused(sigma: float) -> Change:
    """Gaussian blur; `sigma` in pixels of the small copy."""

    def change(pixels: Pixels) -> Pixels:
        blur = ImageFilter.GaussianBlur(sigma * _scale(pixels))
        return np.asarray(Image.fromarray(pixels).filter(blur))

    return change


def moved(length: float, axis: int) -> Change:
    """Blur along one axis; `length` in pixels of the small copy."""

    def change(pixels: Pixels) -> Pixels:
        size = max(1, round(length * _scale(pixels)))
        around = [(0, 0), (0, 0)]
        around[axis] = (size // 2 + 1, size - size // 2 - 1)
        sums = np.cumsum(np.pad(pixels.astype(float), around, mode="edge"), axis=axis)
        along = np.moveaxis(sums, axis, 0)
        return _rounded(np.moveaxis(along[size:] - along[:-size], 0, axis) / size)

    return change


def noisy(sigma: float) -> Change:
    return lambda pixels: _rounded(pixels + NOISE.normal(0, sigma, pixels.shape))


def bordered(share: float, level: int = 0) -> Change:
    """A uniform border that takes `share` of each side."""

    def change(pixels: Pixels) -> Pixels:
        rows, columns = (round(side * share) for side in pixels.shape)
        framed = np.full_like(pixels, level)
        framed[rows:-rows, columns:-columns] = pixels[rows:-rows, columns:-columns]
        return framed

    return change


def cropped(rows: slice, columns: slice) -> Change:
    """Slices in percent."""

    def change(pixels: Pixels) -> Pixels:
        height, width = pixels.shape
        return np.ascontiguousarray(
            pixels[
                height * rows.start // 100 : height * rows.stop // 100,
                width * columns.start // 100 : width * columns.stop // 100,
            ]
        )

    return change


def covered(share: float) -> Change:
    def change(pixels: Pixels) -> Pixels:
        half = pixels.copy()
        half[:, : int(pixels.shape[1] * share)] = 0
        return half

    return change


def marked(pixels: Pixels) -> Pixels:
    """A white L in the corner, sharp as a burned-in marker is."""
    scale = _scale(pixels)
    copy = pixels.copy()
    copy[5 * scale : 29 * scale, 5 * scale : 8 * scale] = 255
    copy[26 * scale : 29 * scale, 5 * scale : 17 * scale] = 255
    return copy


def compressed(quality: int) -> Change:
    def change(pixels: Pixels) -> Pixels:
        buffer = BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
        return np.asarray(Image.open(buffer))

    return change


def after(*changes: Change) -> Change:
    def change(pixels: Pixels) -> Pixels:
        for one in changes:
            pixels = one(pixels)
        return pixels

    return change


def upsampled(factor: int) -> Change:
    """A thumbnail blown up; `factor` from the small copy's size."""

    def change(pixels: Pixels) -> Pixels:
        picture = Image.fromarray(pixels)
        width, height = picture.size
        less = factor * _scale(pixels)
        small = picture.resize((width // less, height // less), Image.Resampling.BOX)
        return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))

    return change


def rotated(degrees: float) -> Change:
    return lambda pixels: np.asarray(
        Image.fromarray(pixels).rotate(degrees, Image.Resampling.BILINEAR)
    )


GOOD: dict[str, Change] = {
    "as it is": lambda pixels: pixels,
    "gamma 0.7": gamma(0.7),
    "gamma 1.5": gamma(1.5),
    "brighter": brighter(25),
    "darker": brighter(-25),
    "less contrast": contrast(0.7),
    "more contrast": contrast(1.3),
    "less exposure": exposed(0.8),
    "JPEG at 40": compressed(40),
    "some noise": noisy(5),
    "inverted": lambda pixels: 255 - pixels,
    "rotated": rotated(5),
    "black border": bordered(0.1),
    "white border": bordered(0.08, 255),
    "marker": marked,
    "trimmed": cropped(slice(5, 95), slice(5, 95)),
}

BAD: dict[str, Change] = {
    "defocused": defocused(2),
    "strongly defocused": defocused(4),
    "defocused, with noise": after(defocused(3), noisy(2)),
    "defocused, with a marker": after(defocused(3), marked),
    "defocused, with a border": after(defocused(3), bordered(0.1)),
    "moved across": moved(9, 1),
    "moved along": moved(9, 0),
    "moved far": moved(21, 1),
    "moved, with a marker": after(moved(9, 0), marked),
    "too few pixels": upsampled(4),
    "washed out": contrast(0.25),
    "washed out, bright": contrast(0.15, 200),
    "black": exposed(0.1),
    "all black": exposed(0),
    "white": contrast(0.1, 240),
    "overexposed": exposed(4),
    "underexposed": brighter(-170),
    "a strip": cropped(slice(0, 100), slice(35, 65)),
    "a flat strip": cropped(slice(35, 65), slice(0, 100)),
    "collimated too far": bordered(0.2),
    "half covered": covered(0.65),
}

# Of a bilateral image, for the limit of symmetry (docs/quality.md).
TURNED: dict[str, Change] = {
    "turned by 8 degrees": rotated(8),
    "turned by -8 degrees": rotated(-8),
    "trimmed on the left": cropped(slice(0, 100), slice(10, 100)),
    "trimmed on the right": cropped(slice(0, 100), slice(0, 90)),
    "trimmed above and below": cropped(slice(8, 92), slice(0, 100)),
}
ONE_SIDED: dict[str, Change] = {
    "upper left corner": cropped(slice(0, 55), slice(0, 55)),
    "upper right corner": cropped(slice(0, 55), slice(45, 100)),
    "lower left corner": cropped(slice(45, 100), slice(0, 55)),
    "lower right corner": cropped(slice(45, 100), slice(45, 100)),
    "small upper left corner": cropped(slice(0, 40), slice(0, 40)),
    "small lower right corner": cropped(slice(60, 100), slice(60, 100)),
    "left half": cropped(slice(0, 100), slice(0, 50)),
    "right half": cropped(slice(0, 100), slice(50, 100)),
}
