"""Symmetry: the measure against its definition, and what a card makes of it."""

import time
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from deployments.inference.constraints import check_constraints, refuses
from deployments.inference.decoded import PatientFacts
from deployments.inference.quality import measure
from deployments.inference.symmetry import REACH, SIDE, symmetry
from registry.card import Action, Constraints, Range, SymmetryRule
from registry.contract import ImageFacts, Reason
from tests.inference.files import FILM, decode, dicom_file, film_pixels
from tests.inference.models import bundled
from tests.inference.ruined import ONE_SIDED, TURNED

RULE = SymmetryRule(allowed=Range(at_least=0.35), violated=Action.ABSTAIN, absent=Action.REVIEW)
FRONTAL = ImageFacts("0" * 64, 1, view="AP")
PATIENT = PatientFacts()
CARD = bundled("cxr-pneumonia").card


def of(pixels: NDArray[np.uint8]) -> float:
    found = symmetry(Image.fromarray(pixels))
    assert found is not None
    return found


def by_definition(grid: NDArray[np.uint8]) -> float:
    """The best correlation about any midline, row by row, pixel by pixel."""
    best = -1.0
    for last in range(SIDE - 1 - REACH, SIDE + REACH):
        columns = [column for column in range(SIDE) if 0 <= last - column < SIDE]
        here = grid[:, columns].astype(float)
        mirrored = grid[:, [last - column for column in columns]].astype(float)
        here -= here.mean(axis=1, keepdims=True)
        mirrored -= mirrored.mean(axis=1, keepdims=True)
        best = max(best, float((here * mirrored).sum() / (here * here).sum()))
    return best


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_best_correlation_with_the_mirror_image(seed: int) -> None:
    grid = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE), np.uint8)

    assert of(grid) == pytest.approx(by_definition(grid), abs=1e-12)


@pytest.mark.parametrize("shift", [-1, 0, 1])
def test_an_image_that_mirrors_itself_has_one_wherever_its_midline_is_near(shift: int) -> None:
    half = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE), np.uint8)
    whole = np.concatenate([half, half[:, ::-1]], axis=1)
    start = SIDE // 2 + shift

    assert of(np.ascontiguousarray(whole[:, start : start + SIDE])) == pytest.approx(1)


def test_a_ramp_is_the_opposite_of_symmetric() -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8), (256, 1))

    assert of(ramp) == pytest.approx(-1)


def test_of_a_film_it_is_pinned_and_the_same_at_every_size() -> None:
    film = decode(dicom_file(FILM)).pixels

    assert measure(film).symmetry == pytest.approx(0.885, abs=2e-3)
    assert of(film_pixels()) == pytest.approx(0.885, abs=0.02)


def test_it_depends_on_neither_exposure_nor_contrast_nor_inversion_nor_side() -> None:
    film = film_pixels()
    found = of(film)

    for same in (255 - film, (film * 0.4 + 60).astype(np.uint8), film[:, ::-1]):
        assert of(np.ascontiguousarray(same)) == pytest.approx(found, abs=0.02)


@pytest.mark.parametrize("name", sorted(ONE_SIDED))
def test_a_film_with_a_side_cut_off_is_below_the_cards_limit(name: str) -> None:
    rule = CARD.constraints.symmetry
    assert rule is not None

    assert not rule.allowed.holds(of(ONE_SIDED[name](film_pixels())))


@pytest.mark.parametrize("name", [name for name in TURNED if name.startswith("trimmed")])
def test_a_film_that_is_trimmed_a_little_is_above_it(name: str) -> None:
    rule = CARD.constraints.symmetry
    assert rule is not None

    assert rule.allowed.holds(of(TURNED[name](film_pixels())))


def test_where_there_is_nothing_to_compare_there_is_no_symmetry() -> None:
    rows_differ = np.repeat(np.arange(200, dtype=np.uint8)[:, None], 200, axis=1)

    assert symmetry(Image.fromarray(np.full((64, 64), 100, np.uint8))) is None
    assert symmetry(Image.fromarray(rows_differ)) is None
    assert symmetry(Image.fromarray(film_pixels()[:15])) is None


def found(measured: float | None, facts: ImageFacts = FRONTAL) -> list[object]:
    findings = check_constraints(Constraints(symmetry=RULE), facts, PATIENT, symmetry=measured)
    return [(one.check.code, one.check.passed, one.action, one.reason) for one in findings]


def test_what_follows_depends_on_whether_the_view_is_known() -> None:
    unknown = replace(FRONTAL, view="")

    assert found(0.36) == found(0.36, unknown) == [("", True, Action.IGNORE, Reason.ASYMMETRIC)]
    assert found(0.34) == [("ASYMMETRIC", False, Action.ABSTAIN, Reason.ASYMMETRIC)]
    assert found(0.34, unknown) == [
        ("ASYMMETRIC_VIEW_UNKNOWN", False, Action.REVIEW, Reason.ASYMMETRIC)
    ]


@pytest.mark.parametrize("view", ["LL", "RL", "LLO"])
def test_a_lateral_film_is_not_held_against_it(view: str) -> None:
    assert found(-0.5, replace(FRONTAL, view=view)) == []


def test_a_card_without_the_rule_asks_nothing_and_neither_does_an_image_without_contrast() -> None:
    assert check_constraints(Constraints(), FRONTAL, PATIENT, symmetry=-1.0) == []
    assert found(None) == []


def test_a_repeated_request_is_refused_where_the_first_was() -> None:
    refusing = SymmetryRule(allowed=Range(at_least=0.35), absent=Action.ABSTAIN)
    rules = Constraints(symmetry=refusing)
    for facts, refused in ((FRONTAL, True), (replace(FRONTAL, view=""), False)):
        (finding,) = check_constraints(rules, facts, PATIENT, symmetry=0.1)

        assert refuses(rules, finding.check) is refused is (finding.action is Action.REFUSE)


def test_it_is_measured_in_a_small_part_of_what_measuring_takes() -> None:
    small = Image.fromarray(film_pixels()).reduce(2)
    pixels = np.asarray(small)
    alone, all_of_it = [], []
    for _ in range(50):
        started = time.thread_time()
        symmetry(small)
        alone.append(time.thread_time() - started)
        started = time.thread_time()
        measure(pixels)
        all_of_it.append(time.thread_time() - started)

    assert min(alone) < min(all_of_it) / 4  # a tenth, on a machine at rest
