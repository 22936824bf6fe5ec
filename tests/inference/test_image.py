"""The one door: the bytes decide, and nothing of a decoder gets out."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.inference import image
from deployments.inference.image import read
from registry.errors import (
    ImageTooLarge,
    MedAIError,
    UndecodableImage,
    UnsupportedMediaType,
    ValidationFailed,
)
from tests.inference.files import (
    HEAD_CT,
    LIMITS,
    decode,
    dicom_file,
    encoded,
    file_facts,
    film_jpeg,
    make_dicom,
    photograph,
)
from tests.inference.test_signature import chunk, png


@pytest.mark.parametrize("declared", ["image/png", "application/dicom", "image/gif", ""])
def test_bytes_that_are_not_what_was_declared_are_refused(declared: str) -> None:
    body = film_jpeg()

    with pytest.raises(UnsupportedMediaType, match="media_type is image/jpeg"):
        read(body, declared, file_facts(body), limits=LIMITS)


@pytest.mark.parametrize("body", [b"", b"GIF89a", b"%PDF-1.7", bytes(1000)])
def test_another_format_is_refused(body: bytes) -> None:
    with pytest.raises(UnsupportedMediaType, match="media_type is unknown"):
        read(body, "image/png", file_facts(body), limits=LIMITS)


def test_a_frame_of_a_still_image_is_refused_unless_it_is_the_first() -> None:
    with pytest.raises(ValidationFailed):
        decode(film_jpeg(), frame=2)

    assert decode(film_jpeg(), frame=1).facts.frame == 1


def test_a_file_with_something_behind_it_is_only_its_picture() -> None:
    plain, polyglot = (decode(film_jpeg() + tail) for tail in (b"", b"PK\3\4<script>" * 100))

    assert np.array_equal(plain.pixels, polyglot.pixels)


def test_a_preamble_does_not_matter() -> None:
    polyglot = b"\x89PNG" + dicom_file(HEAD_CT)[4:]

    assert decode(polyglot).facts.format == "DICOM"


def test_a_bomb_of_text_is_refused() -> None:
    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(5_000_000)))
    body = png(60, 60, text, chunk(b"IDAT", zlib.compress(bytes(61 * 60))), chunk(b"IEND"))

    with pytest.raises(UndecodableImage):
        decode(body)


def test_a_broken_png_header_is_undecodable() -> None:
    body = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60, 60, 3, 7, 9, 9, 9))

    with pytest.raises(UndecodableImage):
        decode(body + chunk(b"IDAT") + chunk(b"IEND"))


def test_no_text_of_a_decoder_is_in_the_refusal() -> None:
    honest = make_dicom(np.zeros((8, 8), np.uint8), NumberOfFrames="777777")
    secret = honest.replace(b"777777", b"7^DOE ")

    with pytest.raises(UndecodableImage) as refusal:
        decode(secret)

    assert "DOE" not in str(refusal.value)
    assert refusal.value.__suppress_context__


class _Panic(BaseException):
    """What a Rust codec raises; not an Exception."""


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (MemoryError(), ImageTooLarge),
        (_Panic(), UndecodableImage),
        (RecursionError(), UndecodableImage),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_whatever_a_decoder_raises_becomes_one_of_ours(
    monkeypatch: pytest.MonkeyPatch, raised: BaseException, expected: type[BaseException]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(image, "read_dicom", broken)

    with pytest.raises(expected):
        decode(dicom_file(HEAD_CT))


def damaged(body: bytes, damage: list[tuple[int, int]]) -> bytes:
    copy = bytearray(body)
    for place, value in damage:
        copy[place % len(copy)] = value
    return bytes(copy)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=20))
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_damaged_file_is_decoded_or_refused(kind: str, damage: list[tuple[int, int]]) -> None:
    body = damaged(encoded(np.asarray(decode(photograph("coins.png")).pixels), kind), damage)

    try:
        decoded = decode(body)
    except MedAIError:
        return
    assert decoded.pixels.dtype == np.uint8
