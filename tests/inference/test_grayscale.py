"""The DICOM grayscale pipeline, step by step, against the formulas of PS3.3."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from deployments.inference.grayscale import stored_range, to_display
from registry.errors import UnsupportedPixelMode

VALUES = np.array([0, 100, 500, 1000, 4095], np.uint16)


def header(**changes: object) -> Dataset:
    data = Dataset()
    for keyword, value in {
        "BitsStored": 12,
        "PixelRepresentation": 0,
        "PhotometricInterpretation": "MONOCHROME2",
        **changes,
    }.items():
        setattr(data, keyword, value)
    return data


def transform(**attributes: object) -> Dataset:
    data = Dataset()
    for keyword, value in attributes.items():
        setattr(data, keyword, value)
    return data


def shown(stored: NDArray[np.uint16] = VALUES, **attributes: Any) -> list[int]:
    return [int(value) for value in to_display(stored, header(), transform(**attributes))]


def table(descriptor: list[int], data: object) -> Sequence:
    item = Dataset()
    item.LUTDescriptor, item.LUTData = descriptor, data
    item["LUTDescriptor"].VR = "US"
    if isinstance(data, bytes):
        item["LUTData"].VR = "OW"
    return Sequence([item])


def test_the_declared_range_is_the_display_range() -> None:
    assert shown() == [0, 6, 31, 62, 255]


def test_monochrome1_is_inverted() -> None:
    inverted = to_display(VALUES, header(PhotometricInterpretation="MONOCHROME1"), transform())

    assert inverted.tolist() == [255, 249, 224, 193, 0]


def test_rescale_moves_the_declared_range_along() -> None:
    assert shown(RescaleSlope=2, RescaleIntercept=-1000) == shown()
    assert shown(RescaleSlope=-1, RescaleIntercept=0) == [255, 249, 224, 193, 0]


def test_half_a_rescale_is_none() -> None:
    assert shown(RescaleSlope=2) == shown()


def test_a_linear_window_follows_its_formula() -> None:
    window = shown(WindowCenter=500, WindowWidth=801)

    expected = np.clip((VALUES - 499.5) / 800 + 0.5, 0, 1) * 255
    assert window == np.rint(expected).astype(int).tolist()


def test_an_exact_window_follows_its_formula() -> None:
    window = shown(WindowCenter=500, WindowWidth=800, VOILUTFunction="LINEAR_EXACT")

    expected = np.clip((VALUES - 500.0) / 800 + 0.5, 0, 1) * 255
    assert window == np.rint(expected).astype(int).tolist()


def test_a_sigmoid_window_follows_its_formula_and_never_overflows() -> None:
    window = shown(WindowCenter=500, WindowWidth=0.1, VOILUTFunction="SIGMOID")

    assert window == [0, 0, 128, 255, 255]


def test_a_window_one_wide_is_a_step() -> None:
    assert shown(WindowCenter=500.5, WindowWidth=1) == [0, 0, 0, 255, 255]


def test_of_several_windows_the_first_is_taken() -> None:
    several = shown(WindowCenter=[500, 9], WindowWidth=[801, 9])

    assert several == shown(WindowCenter=500, WindowWidth=801)


@pytest.mark.parametrize(
    "window",
    [
        {"WindowCenter": 500, "WindowWidth": 0},
        {"WindowCenter": 500, "WindowWidth": 0, "VOILUTFunction": "LINEAR_EXACT"},
        {"WindowCenter": 500},
        {"WindowCenter": [], "WindowWidth": []},
        {"WindowCenter": "", "WindowWidth": ""},
    ],
)
def test_a_window_that_shows_nothing_is_no_window(window: dict[str, Any]) -> None:
    assert shown(**window) == shown()


def test_a_modality_table_declares_its_own_range() -> None:
    modality = table([4, 100, 8], [0, 85, 170, 255])

    assert shown(np.array([0, 100, 101, 102, 999], np.uint16), ModalityLUTSequence=modality) == [
        0, 0, 85, 170, 255,
    ]  # fmt: skip


def test_a_voi_table_wins_over_a_window() -> None:
    voi = table([2, 500, 16], [0, 65535])

    assert shown(VOILUTSequence=voi, WindowCenter=1, WindowWidth=2) == [0, 0, 0, 255, 255]


def test_a_table_of_words_and_one_of_packed_bytes_are_read() -> None:
    words = table([4, 0, 16], np.array([0, 21845, 43690, 65535], "<u2").tobytes())
    packed = table([4, 0, 8], bytes([0, 85, 170, 255]))
    stored = np.arange(4, dtype=np.uint16)

    assert shown(stored, VOILUTSequence=words) == [0, 85, 170, 255]
    assert shown(stored, VOILUTSequence=packed) == [0, 85, 170, 255]


def test_zero_entries_means_two_to_the_sixteen() -> None:
    full = table([0, 0, 16], list(range(65536)))

    assert shown(np.array([0, 65535], np.uint16), VOILUTSequence=full) == [0, 16]  # 12 bits stored


@pytest.mark.parametrize("lut", [table([4, 0, 16], [1, 2]), table([2, 0, 24], [1, 2])])
def test_a_table_that_is_not_whole_is_refused(lut: Sequence) -> None:
    with pytest.raises(UnsupportedPixelMode, match="lookup table"):
        shown(VOILUTSequence=lut)


def test_an_unknown_voi_function_is_refused() -> None:
    with pytest.raises(UnsupportedPixelMode, match="voi_lut_function"):
        shown(WindowCenter=500, WindowWidth=800, VOILUTFunction="CUBIC")


def test_the_sign_is_that_of_the_value_and_not_of_the_cell() -> None:
    signed = header(PixelRepresentation=1)
    unextended = np.array([0x0800, 0x0FFF, 0x0000, 0x07FF], np.int16)  # -2048, -1, 0, 2047

    assert stored_range(signed) == (-2048, 2047)
    assert to_display(unextended, signed, transform()).tolist() == [0, 127, 128, 255]


def test_a_table_and_arithmetic_give_the_same() -> None:
    stored = np.arange(4096, dtype=np.uint16)
    window = transform(WindowCenter=700, WindowWidth=900, RescaleSlope=1.5, RescaleIntercept=-7)

    by_table = to_display(stored, header(), window)
    by_arithmetic = to_display(stored.astype(np.uint32), header(), window)

    assert np.array_equal(by_table, by_arithmetic)


def test_a_modality_that_maps_all_to_one_value_is_black() -> None:
    assert shown(RescaleSlope=0, RescaleIntercept=5) == [0, 0, 0, 0, 0]
