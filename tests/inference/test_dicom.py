"""DICOM: every file of two packages against pydicom's own reference, and what is refused."""

import warnings
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from configs.settings import LimitSettings
from deployments.inference.decoded import DecodedImage
from deployments.inference.image import read
from registry.errors import (
    ImageTooLarge,
    MedAIError,
    Rejected,
    UndecodableImage,
    UnsupportedMediaType,
    UnsupportedPixelMode,
    ValidationFailed,
)
from tests.inference.files import (
    FILM,
    HEAD_CT,
    LIMITS,
    decode,
    dicom_file,
    dicom_paths,
    file_facts,
    make_dicom,
)

SMALL = np.arange(80 * 80, dtype=np.uint16).reshape(80, 80)


def reference(body: bytes, frame: int) -> NDArray[np.uint8]:
    """The same picture by pydicom's functions, step by step, on every pixel in float64."""
    data = dcmread(BytesIO(body))
    stored, properties = get_decoder(data.file_meta.TransferSyntaxUID).as_array(
        data, index=frame - 1
    )
    photometric = str(properties["photometric_interpretation"])
    if photometric == "PALETTE COLOR":
        stored = apply_color_lut(stored, data)
        stored = (stored.astype(np.float64) / np.iinfo(stored.dtype).max * 255).round()
        return np.asarray(Image.fromarray(stored.astype(np.uint8)).convert("L"))
    bits = int(data.BitsStored)
    if not photometric.startswith("MONO"):
        scaled = (stored.astype(np.float64) / (2**bits - 1) * 255).round().astype(np.uint8)
        return np.asarray(Image.fromarray(scaled).convert("L"))
    low, high = (
        (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if data.PixelRepresentation else (0, 2**bits - 1)
    )
    values = apply_modality_lut(stored, data)
    if data.get("ModalityLUTSequence"):
        low, high = 0, 2 ** data.ModalityLUTSequence[0].LUTDescriptor[2] - 1
    elif "RescaleSlope" in data:
        low, high = (end * data.RescaleSlope + data.RescaleIntercept for end in (low, high))
    values = apply_voi_lut(values, data)
    if data.get("VOILUTSequence"):
        low, high = 0, 2 ** data.VOILUTSequence[0].LUTDescriptor[2] - 1
    shown = np.clip((values.astype(np.float64) - float(low)) / float(high - low), 0, 1)
    if photometric == "MONOCHROME1":
        shown = 1 - shown
    return np.rint(shown * 255).astype(np.uint8)


def decoded_or_refused(body: bytes, frame: int | None = None) -> DecodedImage | Rejected:
    try:
        return read(body, "application/dicom", file_facts(body), limits=LIMITS, frame=frame)
    except Rejected as refusal:
        return refusal


@pytest.mark.parametrize("name", sorted(dicom_paths()))
def test_every_file_is_decoded_like_the_reference_or_refused_by_name(name: str) -> None:
    body = dicom_file(name)
    end = decoded_or_refused(body)
    if isinstance(end, ValidationFailed):
        assert end.violations[0].rule == "frame"
        end = decoded_or_refused(body, frame=1)
    if isinstance(end, Rejected):
        assert end.violations
        return
    decoded = end
    if name.startswith(("OBXXXX1A_expb", "emri", "eCT", "JPEG-LL", "CT_small")):
        return  # where the reference falls short; each has a test of its own below
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = reference(body, decoded.facts.frame)

    apart = np.abs(decoded.pixels.astype(int) - expected)
    assert decoded.pixels.shape == expected.shape
    assert apart.max() <= 1


def test_most_files_with_an_image_are_decoded() -> None:
    decoded, refused = 0, set()
    for name in dicom_paths():
        body = dicom_file(name)
        if body[128:132] != b"DICM":
            continue
        try:
            decode(body, frame=1)
            decoded += 1
        except UnsupportedMediaType:
            pass  # no image inside, or deflated
        except MedAIError:
            refused.add(name)

    assert decoded >= 120
    assert refused == {
        "JPEG-lossy.dcm",  # pydicom's decoders refuse these, too
        "JPEG2000-embedded-sequence-delimiter.dcm",
        "MR_truncated.dcm",
        "badVR.dcm",
        "meta_missing_tsyntax.dcm",
        "nested_priv_SQ.dcm",
    }


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("RG1_J2KR.dcm", FILM),  # JPEG 2000, reversible
        ("MR_small_RLE.dcm", "MR_small.dcm"),
        ("MR_small_bigendian.dcm", "MR_small.dcm"),
        ("MR_small_implicit.dcm", "MR_small.dcm"),
        ("MR_small_jp2klossless.dcm", "MR_small.dcm"),
        ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm"),
        ("OBXXXX1A_expb.dcm", "OBXXXX1A.dcm"),  # pydicom alone shows this one black
        ("OBXXXX1A_rle.dcm", "OBXXXX1A.dcm"),
        ("gdcm-US-ALOKA-16_big.dcm", "gdcm-US-ALOKA-16.dcm"),
        ("emri_small_RLE.dcm", "emri_small.dcm"),
        ("emri_small_big_endian.dcm", "emri_small.dcm"),
        ("emri_small_jpeg_2k_lossless.dcm", "emri_small.dcm"),
        ("SC_rgb_rle_32bit.dcm", "SC_rgb_32bit.dcm"),
        ("SC_rgb_expb_16bit.dcm", "SC_rgb_16bit.dcm"),
        ("liver_expb.dcm", "liver.dcm"),
    ],
)
def test_one_picture_in_two_encodings_is_one_picture(name: str, same: str) -> None:
    one, other = (decode(dicom_file(file), frame=1).pixels for file in (name, same))

    assert one.max() > 1
    assert np.array_equal(one, other)


def test_an_enhanced_image_is_windowed_by_its_functional_groups() -> None:
    decoded = decode(dicom_file("eCT_Supplemental.dcm"), frame=2)

    data = dcmread(BytesIO(dicom_file("eCT_Supplemental.dcm")))
    hounsfield = data.pixel_array[1].astype(np.float64) - 1024
    expected = np.rint(np.clip((hounsfield - 48.5) / 101 + 0.5, 0, 1) * 255)
    assert np.abs(decoded.pixels - expected).max() <= 1
    assert decoded.facts.pixel_spacing_mm == pytest.approx(0.388672)
    assert (decoded.facts.frames, decoded.facts.frame) == (2, 2)


def test_a_frame_of_its_own_wins_over_what_all_frames_share() -> None:
    def group(center: float) -> Dataset:
        window, item = Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth = center, 100
        item.FrameVOILUTSequence = Sequence([window])
        return item

    body = make_dicom(
        np.full((160, 80), 1000, np.uint16),
        Rows=80,
        NumberOfFrames=2,
        SharedFunctionalGroupsSequence=Sequence([group(1000)]),
        PerFrameFunctionalGroupsSequence=Sequence([group(900), group(1000)]),
    )

    assert decode(body, frame=1).pixels.max() == decode(body, frame=1).pixels.min() == 255
    assert decode(body, frame=2).pixels.max() == 129


def test_without_a_window_the_declared_range_counts_and_not_the_images_own() -> None:
    dark = make_dicom(np.full((80, 80), 400, np.uint16), BitsStored=12, HighBit=11)

    assert decode(dark).pixels.max() == round(400 / 4095 * 255)


def test_signed_pixels_without_a_window_are_scaled_by_their_declared_range() -> None:
    signed = np.array([[-2048, 0, 2047]] * 3, np.int16)
    body = make_dicom(signed, BitsStored=12, HighBit=11)

    assert decode(body).pixels[0].tolist() == [0, 128, 255]


def test_overlay_bits_above_the_high_bit_are_not_part_of_the_pixel() -> None:
    with_overlay = make_dicom(SMALL % 4096 | 0x8000, BitsStored=12, HighBit=11)
    without = make_dicom(SMALL % 4096, BitsStored=12, HighBit=11)

    assert np.array_equal(decode(with_overlay).pixels, decode(without).pixels)


def test_padding_is_black_also_where_the_image_is_inverted() -> None:
    picture = np.array([[0, 1, 2000, 4095]] * 4, np.uint16)
    body = make_dicom(
        picture,
        BitsStored=12,
        HighBit=11,
        PhotometricInterpretation="MONOCHROME1",
        PixelPaddingValue=0,
        PixelPaddingRangeLimit=1,
    )

    assert decode(body).pixels[0].tolist() == [0, 0, 130, 0]


def test_thirty_two_bits_are_shown_without_a_table() -> None:
    picture = np.array([[0, 2**31, 2**32 - 1]] * 3, np.uint32)

    assert decode(make_dicom(picture)).pixels[0].tolist() == [0, 128, 255]


def test_colour_is_given_where_it_is_asked_for() -> None:
    body = dicom_file("SC_rgb_small_odd.dcm")

    assert decode(body, rgb=True).pixels.shape == (3, 3, 3)
    assert decode(body).pixels.shape == (3, 3)
    assert decode(dicom_file("MR_small.dcm"), rgb=True).pixels.shape == (64, 64, 3)


def test_several_frames_need_a_choice_and_the_count_is_told() -> None:
    with pytest.raises(ValidationFailed, match="120 frames") as refusal:
        decode(dicom_file("color3d_jpeg_baseline.dcm"))

    assert refusal.value.violations[0].limit == "1 to 120"


@pytest.mark.parametrize("frame", [0, 3, -1])
def test_a_frame_that_is_not_there_is_refused(frame: int) -> None:
    with pytest.raises(ValidationFailed, match="1 to 2"):
        decode(dicom_file("eCT_Supplemental.dcm"), frame=frame)


def test_the_only_frame_may_be_named() -> None:
    assert decode(dicom_file("MR_small.dcm"), frame=1).facts.frame == 1


@pytest.mark.parametrize(
    ("limits", "rule"), [({"max_pixels": 4000}, "pixels"), ({"max_frames": 9}, "frames")]
)
def test_what_the_header_claims_is_checked_before_a_pixel_is_decoded(
    limits: dict[str, int], rule: str
) -> None:
    with pytest.raises(ImageTooLarge) as refusal:
        decode(dicom_file("emri_small.dcm"), frame=1, limits=LimitSettings(**limits))

    assert refusal.value.violations[0].rule == rule


def test_a_deflated_data_set_is_not_unpacked() -> None:
    with pytest.raises(UnsupportedMediaType, match="Deflated Explicit VR Little Endian"):
        decode(dicom_file("image_dfl.dcm"))


def test_an_unknown_transfer_syntax_is_refused_without_quoting_it() -> None:
    body = make_dicom(SMALL).replace(b"1.2.840.10008.1.2.1\0", b"1.2.3.4.5.6.7.8.9.1\0")

    with pytest.raises(UnsupportedMediaType, match="not one of the standard"):
        decode(body)


@pytest.mark.parametrize("cut", [133, 140, 200])
def test_a_file_without_its_meta_group_is_refused(cut: int) -> None:
    with pytest.raises(UndecodableImage):
        decode(dicom_file(HEAD_CT)[:cut])


@pytest.mark.parametrize(
    ("changes", "error", "rule"),
    [
        ({"PixelData": None}, UnsupportedMediaType, "pixel_data"),
        ({"PhotometricInterpretation": "HSV"}, UnsupportedPixelMode, "photometric"),
        ({"PhotometricInterpretation": None}, UnsupportedPixelMode, "photometric"),
        ({"SamplesPerPixel": 3}, UnsupportedPixelMode, "samples_per_pixel"),
        ({"BitsStored": 17}, UnsupportedPixelMode, "bits_stored"),
        ({"HighBit": 11}, UnsupportedPixelMode, "high_bit"),
        (
            {"VOILUTFunction": "CUBIC", "WindowCenter": 9, "WindowWidth": 9},
            UnsupportedPixelMode,
            "voi_lut_function",
        ),
        ({"Rows": 0}, UndecodableImage, "pixels"),
        ({"Rows": None}, UndecodableImage, "file"),
        ({"Rows": 90}, UndecodableImage, "file"),
    ],
)
def test_a_header_that_does_not_fit_is_refused_by_its_rule(
    changes: dict[str, Any], error: type[MedAIError], rule: str
) -> None:
    body = make_dicom(SMALL, **changes) if "PixelData" not in changes else without_pixels()

    with pytest.raises(error) as refusal:
        decode(body)

    assert refusal.value.violations[0].rule == rule


def without_pixels() -> bytes:
    data = dcmread(BytesIO(make_dicom(SMALL)))
    del data.PixelData
    buffer = BytesIO()
    data.save_as(buffer)
    return buffer.getvalue()


def test_floating_point_pixels_are_refused() -> None:
    data = dcmread(BytesIO(without_pixels()))
    data.FloatPixelData = np.full((80, 80), np.nan, np.float32).tobytes()
    buffer = BytesIO()
    data.save_as(buffer)

    with pytest.raises(UnsupportedPixelMode, match="floating point"):
        decode(buffer.getvalue())


def test_signed_colour_is_refused() -> None:
    data = dcmread(BytesIO(dicom_file("SC_rgb.dcm")))
    data.PixelRepresentation = 1
    buffer = BytesIO()
    data.save_as(buffer)

    with pytest.raises(UnsupportedPixelMode, match="unsigned RGB"):
        decode(buffer.getvalue())


def test_a_codec_that_gives_more_than_the_header_declares_is_refused() -> None:
    data = dcmread(BytesIO(dicom_file("MR_small_RLE.dcm")))
    data.BitsStored, data.HighBit = 8, 7
    buffer = BytesIO()
    data.save_as(buffer)

    with pytest.raises(UndecodableImage, match="bits_stored"):
        decode(buffer.getvalue())


def test_every_allowed_syntax_has_a_decoder_here() -> None:
    from deployments.inference.dicom import TRANSFER_SYNTAXES

    assert all(get_decoder(syntax).is_available for syntax in TRANSFER_SYNTAXES)
    assert DeflatedExplicitVRLittleEndian not in TRANSFER_SYNTAXES


def test_a_compressed_copy_made_here_is_the_same_picture() -> None:
    data = dcmread(BytesIO(make_dicom(SMALL, SOPClassUID=SecondaryCaptureImageStorage)))
    data.compress(RLELossless, generate_instance_uid=False)
    buffer = BytesIO()
    data.save_as(buffer)

    assert np.array_equal(decode(buffer.getvalue()).pixels, decode(make_dicom(SMALL)).pixels)
