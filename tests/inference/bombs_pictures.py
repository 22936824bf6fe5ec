"""Hostile pictures, and files that are two things at once. Built here, each from a harmless one."""

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from tests.inference.bombs import PIXELS, packed_zeros, rle
from tests.inference.files import dicom_file, encoded, film_jpeg, film_pixels, make_dicom
from tests.inference.test_signature import chunk, png


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def mpo() -> bytes:
    """Two pictures that pose as one JPEG (Pillow opens it as MPO)."""
    pictures = [Image.fromarray(film_pixels()[:200, :200]) for _ in range(2)]
    return saved(pictures[0], "MPO", save_all=True, append_images=pictures[1:])


def animated_png() -> bytes:
    frames = [Image.new("L", (64, 64), level) for level in (10, 200)]
    return saved(frames[0], "PNG", save_all=True, append_images=frames[1:])


def broken_animation() -> bytes:
    """An animation whose control chunks are out of order: Pillow raises SyntaxError."""
    control = chunk(b"acTL", struct.pack(">II", 2, 0))
    frame = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 7, 60, 60, 0, 0, 1, 10, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(61 * 60)))
    return png(60, 60, control, frame, body, frame, chunk(b"fdAT", bytes(9)), chunk(b"IEND"))


def exif_bomb() -> bytes:
    """An EXIF directory that says it has 65,535 entries of 4 GB each, and points to itself."""
    entry = struct.pack("<HHII", 0x0112, 5, 0xFFFFFFFF, 8)
    directory = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 0xFFFF) + entry * 5000
    segment = b"Exif\0\0" + directory
    body = film_jpeg()
    return body[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + body[2:]


def profile_bomb() -> bytes:
    """A colour profile of 300 MB in 300 KB."""
    profile = chunk(b"iCCP", b"p\0\0" + packed_zeros(300_000_000))
    return png(60, 60, profile, chunk(b"IDAT", zlib.compress(bytes(61 * 60))), chunk(b"IEND"))


def jpeg_with_two_headers() -> bytes:
    """A second frame header, larger than the one that was checked."""
    body = film_jpeg()
    start = body.index(b"\xff\xc0")
    length = int.from_bytes(body[start + 2 : start + 4], "big")
    header = bytearray(body[start : start + 2 + length])
    header[5:9] = struct.pack(">HH", 60_000, 60_000)
    end = start + 2 + length
    return body[:end] + bytes(header) + body[end:]


def cmyk() -> bytes:
    return saved(Image.new("CMYK", (64, 64)), "JPEG")


def transparent() -> bytes:
    half = np.zeros((64, 64, 4), np.uint8)
    half[:32, :, 3] = 255
    return encoded(half)


def other_format(kind: str) -> bytes:
    return saved(Image.fromarray(film_pixels()), kind)


def cut(body: bytes) -> bytes:
    return body[: len(body) * 6 // 10]


def polyglot() -> bytes:
    """A JPEG with a ZIP archive's head and a script behind it."""
    return film_jpeg() + b"PK\3\4" + b"<script>alert(1)</script>" * 100


def dicom_with_a_picture_before_it() -> bytes:
    """A DICOM file whose preamble starts as a PNG."""
    return b"\x89PNG\r\n\x1a\n" + dicom_file("MR_small.dcm")[8:]


def rle_flood() -> bytes:
    """Segments of 6 MB that unpack to 384 MB: 192 times what the header tells."""
    return rle(b"\x81\0" * 3_000_000, 1000, 1000)


def no_image() -> bytes:
    """A report: DICOM without pixels."""
    data = make_dicom(PIXELS)
    return data[: data.index(b"\xe0\x7f\x10\0")]


def sixteen_bits() -> bytes:
    """Every value of 16 bits: what clips at 255 shows it white."""
    return encoded(np.arange(65536, dtype=np.uint16).reshape(256, 256))
