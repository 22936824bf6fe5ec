"""The quality measures on films, good and ruined: the figures and the picture of docs/quality.md.

By hand: `python -m benchmarks.quality_films docs/quality.png DIRECTORY...`

The directories hold chest films (JPEG); two films of pydicom-data come along. One half of the films
is what the limit of symmetry was chosen on, in the variants of `tests/inference/ruined.py`; the
figures that count are of the other half, in the variants below, which have other parameters. Chest
films are held against the card of cxr-pneumonia, the leg against the default limits.
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
from registry.card import QualityLimits, Range, SymmetryRule
from tests.inference.files import FILM, LEG, decode, dicom_file
from tests.inference.models import bundled
from tests.inference.ruined import (
    BAD,
    GOOD,
    ONE_SIDED,
    TURNED,
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
SYMMETRY = bundled("cxr-pneumonia").card.constraints.symmetry
SHOWN = (
    *("brightness", "contrast", "dynamic_range", "clipping", "content"),
    *("noise", "sharpness", "motion", "symmetry"),
)
GOOD_INK, BAD_INK, LIMIT_INK = "#1f4e79", "#d98b3a", "#a11d21"
BINS = 40

# Not looked at while the limits were chosen.
OTHER_GOOD: dict[str, Change] = {
    "mirrored": lambda pixels: np.ascontiguousarray(pixels[:, ::-1]),
    "turned by 10 degrees": rotated(10),
    "turned by -6 degrees": rotated(-6),
    "JPEG at 25": compressed(25),
    "gamma 0.85, some noise": after(gamma(0.85), noisy(3)),
    "brighter, less contrast": after(contrast(0.85), brighter(15)),
    "trimmed on one side": cropped(slice(0, 100), slice(0, 88)),
    "trimmed on the other side": cropped(slice(0, 100), slice(12, 100)),
    "trimmed all around": cropped(slice(7, 93), slice(7, 93)),
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
    "very noisy": noisy(30),
}
# Of chest films only: nothing is bilateral about a leg.
OTHER_ONE_SIDED: dict[str, Change] = {
    "upper left quadrant": cropped(slice(0, 50), slice(0, 50)),
    "upper right quadrant": cropped(slice(0, 50), slice(50, 100)),
    "lower left quadrant": cropped(slice(50, 100), slice(0, 50)),
    "lower right quadrant": cropped(slice(50, 100), slice(50, 100)),
    "left 60 %": cropped(slice(0, 100), slice(0, 60)),
    "right 60 %": cropped(slice(0, 100), slice(40, 100)),
}
# As symmetric as the whole: what the measure cannot see.
UNSEEN: dict[str, Change] = {
    "upper half": cropped(slice(0, 50), slice(0, 100)),
    "lower half": cropped(slice(50, 100), slice(0, 100)),
    "middle": cropped(slice(20, 80), slice(20, 80)),
}


def one_lung_white(pixels: Pixels) -> Pixels:
    """What is dark in one half becomes as bright as the film's brightest fifth."""
    sick = pixels.copy()
    half = sick[:, : pixels.shape[1] // 2]
    np.maximum(half, np.quantile(pixels, 0.8).astype(np.uint8), out=half)
    return sick


# Good films of very sick people: no label, but never a refusal.
SICK: dict[str, Change] = {"one lung white": one_lung_white}


def films(directories: Iterable[Path]) -> dict[str, Pixels]:
    """Every film once: of one that is there in several encodings, the JPEG."""
    paths = (path for place in directories for path in sorted(place.glob("*.jp*g")))
    found = {path.stem: decode(path.read_bytes()).pixels for path in paths}
    return {**found, **{name: decode(dicom_file(name)).pixels for name in (FILM, LEG)}}


def halves(known: Mapping[str, Pixels]) -> tuple[dict[str, Pixels], dict[str, Pixels]]:
    """Those the limit of symmetry was chosen on, every second one, and the others."""
    names = [name for name in known if name not in (FILM, LEG)]
    chosen = {name: known[name] for name in names[::2]}
    return chosen, {name: known[name] for name in known if name not in chosen}


def chests(known: Mapping[str, Pixels]) -> dict[str, Pixels]:
    """The films of chests among them."""
    return {name: pixels for name, pixels in known.items() if name != LEG}


def variants(known: Mapping[str, Pixels], changes: Mapping[str, Change]) -> Iterator[Pixels]:
    """Each film in each variant, one at a time: a film may have 3 million pixels."""
    for pixels in known.values():
        for change in changes.values():
            yield change(pixels)


def stopped(pixels: Pixels, *, chest: bool) -> bool:
    """Whether the image gets no label: a limit of quality is broken, or the card's symmetry."""
    measures = measure(pixels)
    checks, _ = judge(measures, LIMITS)
    if not all(check.passed for check in checks):
        return True
    return chest and measures.symmetry is not None and not _rule().allowed.holds(measures.symmetry)


def stops(known: Mapping[str, Pixels], changes: Mapping[str, Change]) -> Counter[str]:
    """How many films get no label, by variant."""
    counts: Counter[str] = Counter()
    for name, change in changes.items():
        for film, pixels in known.items():
            counts[name] += stopped(change(pixels), chest=film != LEG)
    return counts


def draw(known: Mapping[str, Pixels], file: Path) -> None:
    """Each measure's distribution, good above ruined, with the limit."""
    good = survey(variants(known, GOOD))
    bad = survey(variants(known, BAD))
    # Symmetry: of chests, in the variants of the half that its limit was not chosen on.
    held_out = chests(halves(known)[1])
    good["symmetry"] = survey(variants(held_out, {**GOOD, **OTHER_GOOD}))["symmetry"]
    bad["symmetry"] = survey(variants(held_out, OTHER_ONE_SIDED))["symmetry"]
    figure, grid = plt.subplots(3, 3, figsize=(12, 8), layout="constrained")
    for axes, name in zip(grid.flat, SHOWN, strict=True):
        _panel(axes, name, good[name], bad[name])
    grid[0][0].legend(frameon=False, fontsize=8, loc="upper center")
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _panel(axes: Axes, name: str, good: list[float], bad: list[float]) -> None:
    values = [np.asarray(each)[~np.isnan(each)] for each in (good, bad)]
    allowed: Range = _rule().allowed if name == "symmetry" else getattr(LIMITS, name)
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


def _rule() -> SymmetryRule:
    assert SYMMETRY is not None  # the card has one
    return SYMMETRY


def report(known: Mapping[str, Pixels]) -> str:
    """The figures, as Markdown: the totals, then each kind of the films held out."""
    first, second = halves(known)
    rows = ["| films | variants | no label | of |", "| --- | --- | ---: | ---: |"]
    details = ["| variant | no label | of |", "| --- | ---: | ---: |"]
    for which, name, some, changes in (
        ("all", "good, of the calibration", known, GOOD),
        ("all", "ruined, of the calibration", known, BAD),
        ("first half", "good", chests(first), {**GOOD, **TURNED}),
        ("first half", "one-sided", chests(first), ONE_SIDED),
        ("second half", "good", second, OTHER_GOOD),
        ("second half", "ruined", second, OTHER_BAD),
        ("second half", "one-sided", chests(second), OTHER_ONE_SIDED),
        ("second half", "cut off above or below", chests(second), UNSEEN),
        ("second half", "sick", chests(second), SICK),
    ):
        counts, total = stops(some, changes), len(some) * len(changes)
        if not total:
            continue
        share = f"{counts.total()} ({counts.total() / total:.1%})"
        rows.append(f"| {which} | {name} | {share} | {total} |")
        if some is not known and which == "second half":
            details += [f"| {kind} | {counts[kind]} | {len(some)} |" for kind in changes]
    return "\n".join([*rows, "", *details])


if __name__ == "__main__":
    picture, *places = map(Path, sys.argv[1:])
    loaded = films(places)
    print(f"{len(loaded)} films\n\n{report(loaded)}")
    draw(loaded, picture)
