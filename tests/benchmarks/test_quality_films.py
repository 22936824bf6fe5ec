"""The figures of docs/quality.md, on the films that come with a package."""

from pathlib import Path

import pytest

pytest.importorskip("matplotlib")  # of the group bench

from benchmarks.quality_films import (
    OTHER_BAD,
    OTHER_GOOD,
    OTHER_ONE_SIDED,
    SICK,
    UNSEEN,
    draw,
    films,
    halves,
    report,
    stops,
)
from tests.inference.files import FILM, LEG
from tests.inference.ruined import GOOD, ONE_SIDED, TURNED


def test_films_of_packages_and_of_a_directory_are_found(tmp_path: Path) -> None:
    assert list(films([tmp_path])) == [FILM, LEG]


def test_no_film_is_in_both_halves_and_those_of_packages_are_held_out() -> None:
    known = dict.fromkeys([*"abcde", FILM, LEG], films([])[FILM][::8, ::8])

    first, second = halves(known)

    assert (list(first), list(second)) == (["a", "c", "e"], ["b", "d", FILM, LEG])


def test_good_variants_pass_and_other_ruined_ones_are_caught_but_for_those_the_page_tells() -> None:
    known = {FILM: films([])[FILM]}

    stopped = stops(known, {**GOOD, **TURNED, **OTHER_GOOD})
    turned = {"turned by -8 degrees", "turned by 10 degrees"}
    assert {name for name, count in stopped.items() if count} == turned
    caught = stops(known, {**OTHER_BAD, **ONE_SIDED, **OTHER_ONE_SIDED})
    missed = {"very noisy", "lower left quadrant"}
    assert {name for name, count in caught.items() if not count} == missed
    assert not stops(known, UNSEEN).total()
    assert stops(known, SICK).total()


def test_nothing_is_bilateral_about_a_leg() -> None:
    known = {LEG: films([])[LEG]}

    assert not stops(known, {"a corner": OTHER_ONE_SIDED["upper left quadrant"]}).total()


def test_the_report_counts_each_variant_of_each_film() -> None:
    known = {FILM: films([])[FILM]}

    table = report(known)

    assert f"| all | good, of the calibration | 0 (0.0%) | {len(GOOD)} |" in table
    assert "| very noisy | 0 | 1 |" in table


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    draw({FILM: films([])[FILM][::4, ::4]}, tmp_path / "quality.png")

    assert (tmp_path / "quality.png").read_bytes().startswith(b"\x89PNG")
