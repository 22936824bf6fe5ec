"""The figures of docs/quality.md, on the films that come with a package."""

from pathlib import Path

import pytest

pytest.importorskip("matplotlib")  # of the group bench

from benchmarks.quality_films import OTHER_BAD, OTHER_GOOD, draw, films, refused, report
from tests.inference.files import FILM
from tests.inference.ruined import GOOD


def test_films_of_packages_and_of_a_directory_are_found(tmp_path: Path) -> None:
    assert list(films([tmp_path])) == [FILM, "RG3_UNCR.dcm"]


def test_good_variants_pass_and_other_ruined_ones_are_caught_but_for_those_the_page_tells() -> None:
    known = {FILM: films([])[FILM]}

    assert refused(known, {**GOOD, **OTHER_GOOD}).total() == 0
    caught = refused(known, OTHER_BAD)
    assert {name for name in OTHER_BAD if not caught[name]} == {"one quadrant", "very noisy"}


def test_the_report_counts_each_variant_of_each_film() -> None:
    known = {FILM: films([])[FILM]}

    assert f"| good, of the calibration | 0 (0.0%) | {len(GOOD)} |" in report(known)


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    draw({FILM: films([])[FILM][::4, ::4]}, tmp_path / "quality.png")

    assert (tmp_path / "quality.png").read_bytes().startswith(b"\x89PNG")
