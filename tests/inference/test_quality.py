"""Quality: each measure against what it says it is, and the default limits on real films."""

import math
import time
from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from deployments.inference.quality import Measures, judge, measure, survey
from registry.card import QualityLimits, Range
from tests.inference.files import (
    FILM,
    HEAD_CT,
    LEG,
    decode,
    dicom_file,
    film_pixels,
    photograph,
)
from tests.inference.ruined import BAD, GOOD, bordered, marked, moved, noisy

FLAT = np.full((224, 224), 100, np.uint8)
LIMITS = QualityLimits()


@pytest.fixture(scope="module", params=[FILM, LEG])
def film(request: pytest.FixtureRequest) -> NDArray[np.uint8]:
    """Two real films at full size."""
    return decode(dicom_file(request.param)).pixels


def codes(pixels: NDArray[np.uint8], limits: QualityLimits = LIMITS) -> list[str]:
    checks, _ = judge(measure(pixels), limits)
    return [check.code for check in checks if not check.passed]


def test_histogram_measures_are_what_they_say() -> None:
    halves = np.concatenate([np.full((100, 200), 51, np.uint8), np.full((100, 200), 255, np.uint8)])

    found = measure(halves)

    assert found.brightness == pytest.approx(0.6)
    assert found.contrast == pytest.approx(0.4)
    assert found.dynamic_range == pytest.approx(0.8)
    assert found.clipping == pytest.approx(0.5)
    assert (found.width_px, found.height_px, found.aspect_ratio) == (200, 200, 1.0)


def test_measures_of_a_film_are_those_of_numpy() -> None:
    film = film_pixels() / 255

    found = measure(film_pixels())

    low, high = np.quantile(film, (0.01, 0.99))
    assert found.brightness == pytest.approx(film.mean(), abs=1e-3)
    assert found.contrast == pytest.approx(film.std(), abs=2e-3)
    assert found.dynamic_range == pytest.approx(high - low, abs=0.01)


def test_sharpness_of_a_film_is_pinned() -> None:
    found = measure(decode(dicom_file(FILM)).pixels)

    assert found.sharpness == pytest.approx(0.2206, abs=1e-3)
    assert found.motion == pytest.approx(0.1802, abs=1e-3)


DOWN = np.linspace(0, 20, 200)[:, None]  # so that no column counts as border


def test_a_ramp_has_no_sharpness() -> None:
    ramp = np.rint(np.arange(200)[None] + DOWN).astype(np.uint8)

    assert measure(ramp).sharpness == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("wavelength", [12, 16, 32])
def test_sharpness_of_a_wave_follows_its_formula(wavelength: int) -> None:
    wave = 110 + 80 * np.sin(2 * np.pi * np.arange(200) / wavelength + 0.3)
    picture = np.rint(wave[None] + DOWN).astype(np.uint8)

    found = measure(picture)

    x = picture.astype(float)
    near, far = x[:, 1:-3] - x[:, :-4], x[:, 4:] - x[:, :-4]
    counted = np.abs(far) <= 0.75 * x.std()
    ratio = np.sqrt((near[counted] ** 2).sum() / (far[counted] ** 2).sum())
    assert found.sharpness == pytest.approx((min(ratio, 1) - 0.25) / 0.75, abs=0.02)


def test_content_is_what_is_inside_uniform_borders() -> None:
    framed = bordered(0.25)(np.random.default_rng(1).integers(50, 200, (200, 200), np.uint8))

    assert measure(framed).content == pytest.approx(0.25, abs=0.01)
    assert measure(FLAT).content == 0


@pytest.mark.parametrize("sigma", [4, 8, 16])
def test_noise_is_estimated_to_a_tenth(sigma: int) -> None:
    grainy = noisy(sigma)(FLAT)

    assert measure(grainy).noise == pytest.approx(sigma / 255, rel=0.1)


SHAPES = [(24, 24), (25, 31), (24, 256), (255, 33), (99, 100)]


def textured(rows: int, columns: int) -> NDArray[np.uint8]:
    """Waves with noise: no row or column of it is border."""
    down, across = np.mgrid[:rows, :columns]
    waves = 128 + 50 * np.sin(across / 7) + 40 * np.cos(down / 11)
    grain = np.random.default_rng(3).normal(0, 3, (rows, columns))
    picture: NDArray[np.uint8] = np.rint(waves + grain).astype(np.uint8)
    return picture


@pytest.mark.parametrize("shape", SHAPES)
def test_noise_is_immerkaers_at_every_size(shape: tuple[int, int]) -> None:
    picture = textured(*shape)

    windows = np.lib.stride_tricks.sliding_window_view(picture.astype(int), (3, 3))
    laplacians = np.einsum("ijkl,kl->ij", windows, [[1, -2, 1], [-2, 4, -2], [1, -2, 1]])
    expected = np.abs(laplacians).mean() * math.sqrt(math.pi / 2) / 6
    assert measure(picture).noise == pytest.approx(expected / 255, rel=1e-12)


def sharpness_by_definition(lines: NDArray[np.uint8], sigma: float) -> float:
    """As the module tells it, line by line and in double precision."""
    ratios = []
    edge, x = 0.75 * lines.std(), lines[::2].astype(float)
    starts = [math.floor(len(x) * band / 10) for band in range(10)]
    for start, stop in zip(starts, [*starts[1:], len(x)], strict=True):
        near, far = (x[start:stop, lag : lag - 4 or None] - x[start:stop, :-4] for lag in (1, 4))
        counted = np.abs(far) <= edge
        g_near, g_far = ((step[counted] ** 2).mean() - 2 * sigma**2 for step in (near, far))
        ratios.append(g_near / g_far)
    return max((math.sqrt(min(max(sorted(ratios)[6], 0), 1)) - 0.25) / 0.75, 0)


@pytest.mark.parametrize("shape", SHAPES)
def test_sharpness_and_motion_are_the_modules_formula_at_every_size(shape: tuple[int, int]) -> None:
    picture = textured(*shape)

    found = measure(picture)

    assert found.noise is not None
    both = [sharpness_by_definition(lines, 255 * found.noise) for lines in (picture, picture.T)]
    assert max(both) > 0
    assert (found.motion, found.sharpness) == pytest.approx(sorted(both), rel=1e-9)


def test_measures_do_not_depend_on_how_the_pixels_lie_in_memory() -> None:
    picture = textured(99, 200)
    spread = np.zeros((99, 400), np.uint8)
    spread[:, ::2] = picture

    assert measure(np.asfortranarray(picture)) == measure(picture)
    assert measure(spread[:, ::2]) == measure(picture)


def test_a_border_is_measured_apart_from_what_is_inside() -> None:
    inside = textured(120, 150)
    framed = np.pad(inside, ((8, 0), (0, 20)), constant_values=255)

    alone, found = measure(inside), measure(framed)

    assert found.content == inside.size / framed.size
    assert (found.noise, found.sharpness) == (alone.noise, alone.sharpness)


def test_noise_alone_is_not_sharpness(film: NDArray[np.uint8]) -> None:
    blurred = moved(9, 1)(film)

    grainy = measure(noisy(3)(blurred))

    assert grainy.motion is not None
    assert grainy.motion < 0.05


@pytest.mark.parametrize("axis", [0, 1])
def test_motion_falls_monotonically_as_a_film_is_blurred_along_one_axis(axis: int) -> None:
    film = decode(dicom_file(FILM)).pixels

    falling = [measure(moved(length, axis)(film)).motion or 0 for length in (1, 2, 3, 5, 7, 9, 13)]

    assert falling == sorted(falling, reverse=True)
    assert falling[0] > 2 * falling[3] > 4 * falling[-1]


def test_motion_along_one_axis_leaves_the_other_sharp() -> None:
    still, blurred = (measure(moved(length, 1)(film_pixels())) for length in (1, 13))

    assert still.motion is not None
    assert blurred.motion is not None
    assert blurred.sharpness is not None
    assert blurred.motion < still.motion / 3
    assert blurred.sharpness > 2 * blurred.motion


def test_sharpness_does_not_depend_on_contrast_or_brightness() -> None:
    film = film_pixels()
    flat = (film * 0.4 + 60).astype(np.uint8)

    assert measure(flat).sharpness == pytest.approx(measure(film).sharpness or 0, rel=0.1)


def test_markers_and_borders_do_not_sharpen_a_blurred_film(film: NDArray[np.uint8]) -> None:
    blurred = moved(11, 1)(film)

    for dressed in (marked(blurred), bordered(0.08)(blurred), bordered(0.08, 255)(blurred)):
        assert (measure(dressed).motion or 0) < 0.065


def test_where_there_is_nothing_to_see_nothing_is_judged() -> None:
    assert measure(FLAT).noise is None
    assert measure(FLAT).sharpness is None
    steps = np.repeat(np.arange(0, 240, 10, dtype=np.uint8)[None], 100, axis=0).repeat(5, axis=1)
    across_only = measure(np.ascontiguousarray(steps))
    assert across_only.sharpness == across_only.motion


def test_colour_is_measured_by_its_luma() -> None:
    picture = np.asarray(Image.open(BytesIO(photograph("astronaut.png"))))

    assert measure(picture) == measure(np.asarray(Image.fromarray(picture).convert("L")))


def test_a_scaled_decode_keeps_the_files_own_size() -> None:
    assert measure(FLAT, width=1000, height=2000).aspect_ratio == 0.5
    assert measure(FLAT, width=1000, height=2000).height_px == 2000


@pytest.mark.parametrize("name", sorted(GOOD))
def test_good_films_pass(name: str) -> None:
    assert codes(GOOD[name](decode(dicom_file(FILM)).pixels)) == []


def test_the_leg_passes_too() -> None:
    assert codes(decode(dicom_file(LEG)).pixels) == []


@pytest.mark.parametrize("name", sorted(BAD))
def test_ruined_films_are_caught(name: str, film: NDArray[np.uint8]) -> None:
    if name == "underexposed" and film.shape == (1760, 1760):
        pytest.skip("the leg's white surround keeps it in range; it is the one that is missed")

    assert codes(BAD[name](film))


def test_a_head_ct_is_good_enough_to_be_told_from_a_chest_film() -> None:
    assert codes(decode(dicom_file(HEAD_CT)).pixels) == []


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("moved across", "MOTION_ARTIFACT"),
        ("strongly defocused", "LOW_SHARPNESS"),
        ("washed out", "LOW_CONTRAST"),
        ("all black", "LOW_BRIGHTNESS"),
        ("white", "HIGH_BRIGHTNESS"),
        ("overexposed", "CLIPPED"),
        ("a strip", "TOO_NARROW"),
        ("a flat strip", "TOO_WIDE"),
        ("half covered", "CROPPED"),
    ],
)
def test_the_code_tells_what_is_wrong(name: str, code: str) -> None:
    assert code in codes(BAD[name](decode(dicom_file(FILM)).pixels))


def test_noise_and_size_have_codes_of_their_own() -> None:
    small = film_pixels()[::16, ::16]

    assert "HIGH_NOISE" in codes(noisy(40)(film_pixels()[::2, ::2]))
    assert codes(np.ascontiguousarray(small)).count("IMAGE_TOO_SMALL") == 2


def test_every_check_tells_measure_limit_and_advice() -> None:
    checks, _ = judge(measure(moved(13, 1)(film_pixels())), LIMITS)

    (motion,) = (check for check in checks if check.name == "motion")
    assert isinstance(motion.measured, float)
    assert motion.measured < 0.065
    assert motion.limit == "at least 0.065"
    assert motion.advice == "retake: keep the patient still, or shorten the exposure"
    assert next(check for check in checks if check.name == "width_px").unit == "px"
    assert all(check.advice == check.code == "" for check in checks if check.passed)


def measures(**changes: float | None) -> Measures:
    middle: dict[str, float | None] = {
        "width_px": 500,
        "height_px": 500,
        "aspect_ratio": 1.45,
        "brightness": 0.5,
        "contrast": 0.3,
        "dynamic_range": 0.9,
        "clipping": 0.0,
        "content": 1.0,
        "noise": 0.0,
        "sharpness": 0.3,
        "motion": 0.3,
        "symmetry": 0.9,
    }
    return Measures(**{**middle, **changes})  # type: ignore[arg-type]  # by name, of many types


def test_the_score_is_one_where_all_is_well_inside_and_falls_towards_a_limit() -> None:
    assert judge(measures(), LIMITS)[1] == 1
    at_limit = judge(measures(brightness=0.08), LIMITS)[1]
    halfway = judge(measures(brightness=0.08 + 0.84 / 8), LIMITS)[1]
    assert at_limit == pytest.approx(10 / 11)
    assert halfway == pytest.approx(10.5 / 11)
    assert judge(measures(brightness=0.0), LIMITS)[1] == at_limit
    one_sided = LIMITS.contrast.at_least
    assert one_sided is not None
    assert judge(measures(contrast=1.25 * one_sided), LIMITS)[1] == pytest.approx(10.5 / 11)


def test_a_measure_that_could_not_be_taken_is_left_out() -> None:
    checks, score = judge(measures(noise=None, sharpness=None, motion=None), LIMITS)

    assert len(checks) == 8
    assert score == 1


def test_a_limit_of_zero_is_kept_or_broken() -> None:
    anything = LIMITS.model_copy(update={"motion": Range(at_least=0), "noise": Range(at_most=0)})

    assert judge(measures(noise=0.1), anything)[1] == pytest.approx(10 / 11)
    assert judge(measures(noise=0.0), anything)[1] == 1


def test_not_a_number_breaks_a_limit() -> None:
    checks, _ = judge(measures(brightness=math.nan), LIMITS)

    assert [check.code for check in checks if not check.passed] == ["HIGH_BRIGHTNESS"]


def test_a_survey_lists_each_measure_of_each_image() -> None:
    table = survey([FLAT, film_pixels()])

    assert set(table) == {*QualityLimits.model_fields, "symmetry"}
    assert all(len(values) == 2 for values in table.values())
    assert math.isnan(table["sharpness"][0])


def test_measuring_is_deterministic() -> None:
    assert measure(film_pixels()) == measure(film_pixels().copy())


def test_measuring_costs_little() -> None:
    small = np.asarray(Image.fromarray(film_pixels()).resize((224, 224)))
    spent = []
    for _ in range(20):
        started = time.thread_time()
        measure(small)
        spent.append(time.thread_time() - started)

    assert min(spent) < 0.003  # ten times what it takes on a machine at rest
