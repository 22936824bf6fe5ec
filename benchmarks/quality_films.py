"""The quality measures on films, good and ruined: the figures and the picture of docs/quality.md.

By hand: `python -m benchmarks.quality_films docs/quality.png DIRECTORY...`

The directories hold chest films (JPEG, PNG or DICOM); two films of pydicom-data come along. Each is
measured in the variants of `tests/inference/ruined.py`, which the limits were calibrated on, and in
the ones below, which they were not.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")  # no display is needed

from matplotlib import pyplot as plt  # only after the backend is chosen
from matplotlib.axes import Axes

from deployments.inference.quality import judge, measure, survey
from registry.card import QualityLimits, Range
from tests.inference.files import FILM, LEG, decode, dicom_file
from tests.inference.ruined import (
    BAD,
    GOOD,
    Change,
    Pixels,
    after,
    brighter,
    compressed,
    contrast,
    cropped,
    defocused,
    exposed,
    gamma,
    moved,
    noisy,
    rotated,
)

LIMITS = QualityLimits()
SHOWN = (
    *("brightness", "contrast", "dynamic_range", "clipping", "content"),
    *("noise", "sharpness", "motion", "aspect_ratio"),
)
GOOD_INK, BAD_INK, LIMIT_INK = "#1f4e79", "#d98b3a", "#a11d21"
BINS = 40

# Not looked at while the limits were chosen.
OTHER_GOOD: dict[str, Change] = {
    "mirrored": lambda pixels: np.ascontiguousarray(pixels[:, ::-1]),
    "turned by 10 degrees": rotated(10),
    "JPEG at 25": compressed(25),
    "gamma 0.85, some noise": after(gamma(0.85), noisy(3)),
    "brighter, less contrast": after(contrast(0.85), brighter(15)),
    "trimmed on one side": cropped(slice(0, 100), slice(0, 88)),
}
OTHER_BAD: dict[str, Change] = {
    "moved aslant": after(moved(7, 0), moved(7, 1)),
    "defocused and moved": after(defocused(1.5), moved(5, 0)),
    "defocused, JPEG at 30": after(defocused(3), compressed(30)),
    "moved, some noise": after(moved(11, 1), noisy(4)),
    "fogged": contrast(0.2, 150),
    "far too dark": exposed(0.15),
    "burnt out": exposed(3),
    "a narrow strip": cropped(slice(0, 100), slice(10, 35)),
    "one quadrant": cropped(slice(0, 50), slice(0, 50)),
    "very noisy": noisy(30),
}


def films(directories: Iterable[Path]) -> dict[str, Pixels]:
    """Every film once: of one that is there in several encodings, the JPEG."""
    paths = (path for place in directories for path in sorted(place.glob("*.jp*g")))
    found = {path.stem: decode(path.read_bytes()).pixels for path in paths}
    return {**found, **{name: decode(dicom_file(name)).pixels for name in (FILM, LEG)}}


def variants(known: Mapping[str, Pixels], changes: Mapping[str, Change]) -> Iterator[Pixels]:
    """Each film in each variant, one at a time: a film may have 3 million pixels."""
    for pixels in known.values():
        for change in changes.values():
            yield change(pixels)


def refused(known: Mapping[str, Pixels], changes: Mapping[str, Change]) -> Counter[str]:
    """How many films break a limit, by variant."""
    counts: Counter[str] = Counter()
    for name, change in changes.items():
        for pixels in known.values():
            checks, _ = judge(measure(change(pixels)), LIMITS)
            counts[name] += not all(check.passed for check in checks)
    return counts


def draw(known: Mapping[str, Pixels], file: Path) -> None:
    """Each measure's distribution, good above ruined, with the limit."""
    good, bad = survey(variants(known, GOOD)), survey(variants(known, BAD))
    figure, grid = plt.subplots(3, 3, figsize=(12, 8), layout="constrained")
    for axes, name in zip(grid.flat, SHOWN, strict=True):
        _panel(axes, name, good[name], bad[name])
    grid[0][0].legend(frameon=False, fontsize=8, loc="upper center")
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _panel(axes: Axes, name: str, good: list[float], bad: list[float]) -> None:
    values = [np.asarray(each)[~np.isnan(each)] for each in (good, bad)]
    allowed: Range = getattr(LIMITS, name)
    limits = [limit for limit in (allowed.at_least, allowed.at_most) if limit is not None]
    low, high = (end(*map(end, values), *limits) for end in (min, max))
    for each, colour, label in zip(values, (GOOD_INK, BAD_INK), ("good", "ruined"), strict=True):
        bins = np.linspace(low, high, BINS + 1)
        share = np.full(each.size, 1 / each.size)
        axes.hist(each, bins, weights=share, color=colour, alpha=0.6, label=label)
    for limit in limits:
        axes.axvline(limit, color=LIMIT_INK, linestyle="--", linewidth=1)
    axes.set_title(f"{name} ({allowed})", loc="left", fontsize=10)
    axes.tick_params(labelsize=8)
    axes.locator_params(axis="x", nbins=6)
    axes.spines[["top", "right"]].set_visible(False)


def report(known: Mapping[str, Pixels]) -> str:
    """The figures, as Markdown."""
    rows = ["| variants | refused | of |", "| --- | ---: | ---: |"]
    missed = []
    for name, changes, bad in (
        ("good, of the calibration", GOOD, False),
        ("ruined, of the calibration", BAD, True),
        ("good, of another kind", OTHER_GOOD, False),
        ("ruined, of another kind", OTHER_BAD, True),
    ):
        counts = refused(known, changes)
        total = len(known) * len(changes)
        rows.append(f"| {name} | {counts.total()} ({counts.total() / total:.1%}) | {total} |")
        right = len(known) if bad else 0
        missed += [
            f"{kind}: {counts[kind]} of {len(known)}" for kind in changes if counts[kind] != right
        ]
    return "\n".join([*rows, "", *missed])


if __name__ == "__main__":
    picture, *places = map(Path, sys.argv[1:])
    loaded = films(places)
    print(f"{len(loaded)} films\n\n{report(loaded)}")
    draw(loaded, picture)
