"""JPEG and PNG: every mode becomes the right grey, or is refused by name."""

import struct
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from configs.settings import LimitSettings
from deployments.inference.jpeg_png import exif_orientation, to_8_bit
from registry.errors import (
    ImageTooLarge,
    MedAIError,
    UndecodableImage,
    UnsupportedMediaType,
    UnsupportedPixelMode,
)
from tests.inference.files import decode, encoded, film_jpeg, film_pixels, photograph

RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256)


def saved(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def test_luma_of_a_grey_jpeg_is_what_full_decoding_gives() -> None:
    grey_in_colour = saved(Image.fromarray(film_pixels()).convert("RGB"), "JPEG", quality=90)

    pixels = decode(grey_in_colour).pixels

    expected = np.asarray(Image.open(BytesIO(grey_in_colour)).convert("L"))
    assert np.array_equal(pixels, expected)


@pytest.mark.parametrize("name", ["retina.jpg", "rocket.jpg"])
def test_luma_of_a_colour_jpeg_differs_only_where_colour_was_clipped(name: str) -> None:
    body = photograph(name)

    pixels = decode(body).pixels

    expected = np.asarray(Image.open(BytesIO(body)).convert("L")).astype(int)
    apart = np.abs(pixels.astype(int) - expected)
    assert apart.max() <= 5
    assert (apart > 1).mean() < 0.01


def test_a_jpeg_that_stores_rgb_itself_has_the_same_luma() -> None:
    body = saved(Image.open(BytesIO(photograph("rocket.jpg"))), "JPEG", keep_rgb=True, quality=95)

    pixels = decode(body).pixels

    assert np.array_equal(pixels, np.asarray(Image.open(BytesIO(body)).convert("L")))


def test_rgb_is_given_where_it_is_asked_for() -> None:
    body = photograph("rocket.jpg")

    pixels = decode(body, rgb=True).pixels

    assert np.array_equal(pixels, np.asarray(Image.open(BytesIO(body))))


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    decoded = decode(encoded(RAMP))

    assert decoded.facts.bit_depth == 16
    assert np.array_equal(decoded.pixels, np.rint(RAMP / 257).astype(np.uint8))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_few_bits_span_the_whole_display_range(bits: int) -> None:
    levels = np.linspace(0, 255, 1 << bits).round().astype(np.uint8)
    picture = np.tile(levels, (8, 8))
    mode = Image.fromarray(picture).convert("1") if bits == 1 else Image.fromarray(picture)
    body = saved(mode, bits=bits) if bits == 1 else grey_png(picture, bits)

    decoded = decode(body)

    assert decoded.facts.bit_depth == bits
    assert np.array_equal(decoded.pixels, picture)


def grey_png(picture: NDArray[np.uint8], bits: int) -> bytes:
    """A grey PNG of `bits` bits a pixel, packed by hand: Pillow writes only 1, 8 and 16."""
    import zlib

    from tests.inference.test_signature import chunk

    codes = (picture >> (8 - bits)).astype(np.uint8)
    per_byte = 8 // bits
    rows = b""
    for row in codes:
        packed = bytes(
            sum(int(row[i + j]) << (8 - bits * (j + 1)) for j in range(per_byte))
            for i in range(0, len(row), per_byte)
        )
        rows += b"\0" + packed
    height, width = picture.shape
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND")
    )


@pytest.mark.parametrize("rgb", [False, True])
def test_a_palette_is_looked_up(*, rgb: bool) -> None:
    picture = Image.open(BytesIO(photograph("color.png"))).convert("RGB").quantize(32)

    pixels = decode(saved(picture), rgb=rgb).pixels

    wanted = picture.convert("RGB")
    assert np.array_equal(pixels, np.asarray(wanted if rgb else wanted.convert("L")))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_an_opaque_alpha_channel_is_dropped(mode: str) -> None:
    grey = Image.fromarray(film_pixels())

    decoded = decode(saved(grey.convert(mode)))

    assert np.array_equal(decoded.pixels, film_pixels())


def half_clear(mode: str) -> bytes:
    picture = Image.fromarray(film_pixels()).convert(mode)
    picture.putalpha(Image.fromarray(np.full(film_pixels().shape, 254, np.uint8)))
    return saved(picture)


@pytest.mark.parametrize(
    "body",
    [
        half_clear("L"),
        half_clear("RGB"),
        saved(Image.fromarray(film_pixels()), transparency=int(film_pixels()[0, 0])),
        saved(Image.fromarray(film_pixels()).convert("P"), transparency=int(film_pixels()[0, 0])),
        saved(Image.fromarray(RAMP), transparency=9),
    ],
    ids=["LA", "RGBA", "one clear grey", "one clear palette entry", "one clear 16-bit grey"],
)
def test_transparency_is_refused_and_not_flattened_in_silence(body: bytes) -> None:
    with pytest.raises(UnsupportedPixelMode, match="transparent"):
        decode(body)


def test_a_cmyk_jpeg_is_refused_by_its_mode() -> None:
    body = saved(Image.new("CMYK", (80, 80)), "JPEG")

    with pytest.raises(UnsupportedPixelMode, match="pixel_mode is CMYK"):
        decode(body)


def test_an_animated_png_is_refused() -> None:
    frames = [Image.new("L", (80, 80), shade) for shade in (0, 200)]
    body = saved(frames[0], save_all=True, append_images=frames[1:])

    with pytest.raises(UnsupportedPixelMode, match="animated"):
        decode(body)


def test_an_mpo_that_poses_as_jpeg_is_refused() -> None:
    pictures = [Image.new("L", (80, 80), shade) for shade in (0, 200)]
    body = saved(pictures[0], "MPO", save_all=True, append_images=pictures[1:])

    with pytest.raises(UnsupportedMediaType, match="MPO"):
        decode(body)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once_and_recorded(orientation: int) -> None:
    upright = Image.fromarray(film_pixels()[:300, :200])
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose that the camera did
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation

    decoded = decode(saved(stored, exif=exif))

    assert decoded.facts.orientation == orientation
    assert (decoded.facts.width, decoded.facts.height) == (200, 300)
    assert np.array_equal(decoded.pixels, np.asarray(upright))


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"Exif\0\0",
        b"XX*\0" + bytes(20),
        b"II*\0\x08\0\0\0\x09\0",
        b"II*\0" + struct.pack("<I", 2**32 - 1),
        b"II*\0\x08\0\0\0" + struct.pack("<HHHIHH", 1, 0x0112, 3, 1, 9, 0),
        b"II*\0\x08\0\0\0" + struct.pack("<HHHIHH", 1, 0x0112, 2, 1, 6, 0),
        b"II*\0\x08\0\0\0" + struct.pack("<HHHIHH", 1, 0x0100, 3, 1, 6, 0),
    ],
)
def test_a_broken_orientation_is_none(exif: bytes) -> None:
    assert exif_orientation(exif) == 1


def test_big_endian_exif_is_read() -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">HHHIHH", 1, 0x0112, 3, 1, 6, 0)

    assert exif_orientation(exif) == 6


def test_a_jpeg_may_be_decoded_smaller_but_tells_its_own_size() -> None:
    decoded = decode(film_jpeg(900), at_least=(224, 224))

    assert decoded.pixels.shape == (225, 225)
    assert (decoded.facts.width, decoded.facts.height) == (900, 900)


def test_too_many_pixels_are_refused_before_decoding() -> None:
    with pytest.raises(ImageTooLarge, match="224 x 224"):
        decode(film_jpeg(), limits=LimitSettings(max_pixels=50_000))


def test_a_second_header_cannot_enlarge_a_jpeg() -> None:
    small = film_jpeg()
    start = small.index(b"\xff\xc0")
    frame = bytearray(
        small[start : start + 2 + int.from_bytes(small[start + 2 : start + 4], "big")]
    )
    frame[5:9] = struct.pack(">HH", 60_000, 60_000)

    with pytest.raises(MedAIError) as refusal:
        decode(small[: start + len(frame)] + bytes(frame) + small[start + len(frame) :])

    assert isinstance(refusal.value, (ImageTooLarge, UndecodableImage))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_file_cut_short_is_not_completed(kind: str, share: float) -> None:
    body = encoded(film_pixels(), kind)

    with pytest.raises(UndecodableImage):
        decode(body[: int(len(body) * share)])


@pytest.mark.parametrize("bits", [1, 4, 8, 12, 16, 32])
def test_scaling_to_eight_bits_rounds_at_every_depth(bits: int) -> None:
    highest = (1 << bits) - 1
    samples = np.unique(np.linspace(0, highest, 1000).astype(np.uint32))

    scaled = to_8_bit(samples, bits)

    assert np.array_equal(scaled, np.rint(samples / highest * 255).astype(np.uint8))
