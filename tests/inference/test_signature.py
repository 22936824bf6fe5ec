"""Signatures: what first bytes say, and that no file makes the walk long."""

import struct
import time
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.inference.signature import (
    HEAVY_BYTES,
    HEAVY_SCANS,
    SLOW_BYTES,
    Signature,
    signature,
)
from tests.inference.files import HEAD_CT, dicom_file, encoded, film_jpeg, photograph

UNREAD_JPEG = Signature("image/jpeg", slow=True)


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    crc = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks)


def test_a_jpeg_tells_its_size_and_is_light() -> None:
    assert signature(film_jpeg()) == Signature("image/jpeg", 224, 224, 8, heavy=False)


def test_a_png_tells_its_size_and_depth() -> None:
    sixteen = encoded(np.zeros((30, 40), np.uint16))

    assert signature(sixteen) == Signature("image/png", 40, 30, 16, heavy=False)


def test_dicom_is_always_heavy() -> None:
    assert signature(dicom_file(HEAD_CT)) == Signature("application/dicom")


@pytest.mark.parametrize(
    ("name", "slow"),
    [
        ("MR_small.dcm", False),
        ("RG1_UNCR.dcm", False),  # 7 MB as they are: 40 ms
        ("US1_UNCI.dcm", False),  # big endian, or implicit
        ("693_J2KI.dcm", False),  # 4 kB of JPEG 2000
        ("RG1_J2KI.dcm", True),
        ("RG3_J2KI.dcm", True),
        ("JPGLosslessP14SV1_1s_1f_8b.dcm", True),
    ],
)
def test_slow_dicom_is_foretold_by_its_size_and_transfer_syntax(name: str, slow: bool) -> None:
    assert signature(dicom_file(name)).slow is slow


def test_a_large_coded_picture_in_a_small_dicom_file_is_slow() -> None:
    body = dicom_file("693_J2KI.dcm")
    rows = body.index(b"\x28\0\x10\0US\2\0") + 8
    large = body[:rows] + struct.pack("<H", 4000) + body[rows + 2 :]

    assert signature(large).slow
    assert signature(dicom_file("MR_small.dcm") + bytes(SLOW_BYTES)).slow
    assert not signature(body[:140]).slow


def test_large_pictures_and_many_scans_are_slow_and_heavy_ones_need_not_be() -> None:
    heavy = signature(png(1500, 1500, chunk(b"IDAT")))

    assert (heavy.heavy, heavy.slow) == (True, False)
    assert signature(png(3000, 3000, chunk(b"IDAT"))).slow
    assert signature(encoded(np.zeros((2100, 2100), np.uint8), "JPEG")).slow
    assert signature(film_jpeg() + b"\xff\xda" * 20).slow


@pytest.mark.parametrize("body", [b"", b"GIF89a" + bytes(200), b"PK\3\4", b"II*\0" + bytes(200)])
def test_anything_else_has_no_type_and_costs_nothing(body: bytes) -> None:
    assert signature(body) == Signature("", heavy=False)


def test_a_large_picture_in_a_small_file_is_heavy() -> None:
    assert signature(png(6000, 6000, chunk(b"IDAT"))).heavy
    assert not signature(png(600, 600, chunk(b"IDAT"))).heavy
    assert signature(encoded(np.zeros((1500, 1500), np.uint8), "JPEG")).heavy


def test_a_large_file_is_heavy() -> None:
    assert signature(png(60, 60, chunk(b"IDAT", bytes(HEAVY_BYTES)))).heavy


def test_many_scans_make_a_jpeg_heavy() -> None:
    ordinary = encoded(np.zeros((64, 64), np.uint8), "JPEG", progressive=True)

    assert not signature(ordinary).heavy
    assert signature(ordinary + b"\xff\xda" * 20).heavy


@pytest.mark.parametrize("before", [b"", b"\0"])
@pytest.mark.parametrize("between", [b"", b"\0"])
def test_every_scan_counts_wherever_in_the_file_it_is(before: bytes, between: bytes) -> None:
    picture = film_jpeg() + before
    allowed = HEAVY_SCANS - picture.count(b"\xff\xda")

    assert not signature(picture + (between + b"\xff\xda") * allowed).heavy
    assert signature(picture + (between + b"\xff\xda") * (allowed + 1)).heavy


def test_metadata_before_the_picture_is_stepped_over() -> None:
    text = chunk(b"tEXt", b"k\0" + bytes(500))
    fill = b"\xff\xd8" + b"\xff\xe0\0\4ab" + b"\xff" * 3 + b"\xd0" + film_jpeg()[2:]

    assert signature(png(60, 50, text, chunk(b"IDAT"))).width == 60
    assert signature(fill).width == 224


def test_a_picture_that_never_starts_is_heavy() -> None:
    assert signature(png(60, 50, chunk(b"tEXt"))) == Signature("image/png", 60, 50, 8, slow=True)
    assert signature(film_jpeg()[:30]) == UNREAD_JPEG
    assert signature(b"\xff\xd8\xff\xda" + bytes(100)) == UNREAD_JPEG
    assert signature(b"\x89PNG\r\n\x1a\n" + bytes(40)) == Signature("image/png", slow=True)


def test_a_flood_of_segments_ends_the_walk() -> None:
    flood = b"\xff\xd8" + b"\xff\xfe\0\2" * 2_000_000

    started = time.perf_counter()
    found = signature(flood)

    assert found == UNREAD_JPEG
    assert signature(png(9, 9, *[chunk(b"tEXt")] * 300, chunk(b"IDAT"))).heavy
    assert time.perf_counter() - started < 1


def test_photographs_agree_with_their_decoder() -> None:
    assert signature(photograph("rocket.jpg")).width == 640
    assert signature(photograph("chessboard_GRAY.png")).width == 200


@given(st.binary(max_size=64), st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b""]))
def test_no_bytes_make_it_fail(tail: bytes, head: bytes) -> None:
    assert signature(head + tail).media_type in ("image/jpeg", "image/png", "")
