"""Files that harm a careless decoder, built here: each is small, and means to be large."""

import struct
import zlib
from io import BytesIO

import numpy as np
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless

from tests.inference.files import film_jpeg, make_dicom
from tests.inference.test_signature import chunk, png

PIXELS = np.zeros((16, 16), np.uint16)
BLOCK_BYTES = 1 << 24
ADLER_BASE = 65521


def deflated_zeros(size: int) -> bytes:
    """So many zeros as raw deflate (RFC 1951). One block serves again and again: soon built."""
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(bytes(BLOCK_BYTES)) + packer.flush(zlib.Z_FULL_FLUSH)
    count, rest = divmod(size, BLOCK_BYTES)
    return block * count + packer.compress(bytes(rest)) + packer.flush()


def packed_zeros(size: int) -> bytes:
    """The same in zlib's frame (RFC 1950), with the check sum that so many zeros have."""
    check = (size % ADLER_BASE) << 16 | 1
    return b"\x78\xda" + deflated_zeros(size) + struct.pack(">I", check)


def pixel_flood(side: int) -> bytes:
    """A one-bit PNG of `side` x `side` zeros: 50,000 a side are 304 KB, and 2.3 GB of bytes."""
    packed = packed_zeros(side * (1 + (side + 7) // 8))
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND")


def text_flood() -> bytes:
    """A PNG whose comments unpack to 100 MB."""
    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1_000_000)))
    return png(60, 60, *[text] * 100, chunk(b"IDAT", zlib.compress(bytes(61 * 60))), chunk(b"IEND"))


def scan_flood(scans: int) -> bytes:
    """A progressive JPEG with so many empty scans, each a pass over every block."""
    from PIL import Image

    buffer = BytesIO()
    Image.new("L", (1400, 1400), 128).save(buffer, "JPEG", progressive=True)
    body = buffer.getvalue()
    start = body.index(b"\xff\xda")
    end = body.index(b"\xff\xda", start + 2)
    scan = body[start:end]
    return body[:start] + scan * scans + body[start:]


def segment_flood() -> bytes:
    """A JPEG with two million comments before its picture."""
    return b"\xff\xd8" + b"\xff\xfe\0\2" * 2_000_000 + film_jpeg()[2:]


def deflate_bomb() -> bytes:
    """A deflated DICOM data set: 1 MB that unpacks to 1 GiB of one element's zeros."""
    meta = make_dicom(PIXELS)
    syntax = b"1.2.840.10008.1.2.1.99"
    start = meta.index(b"\2\0\x10\0UI")
    length = int.from_bytes(meta[start + 6 : start + 8], "little")
    head = meta[:start] + b"\2\0\x10\0UI" + struct.pack("<H", 22) + syntax
    group_length_at = head.index(b"\2\0\0\0UL") + 8
    rest = meta[start + 8 + length :]
    after = rest[: _end_of_meta(rest)]
    size = len(head) + len(after) - group_length_at - 4
    head = head[:group_length_at] + struct.pack("<I", size) + head[group_length_at + 4 :]
    packer = zlib.compressobj(9, wbits=-15)
    element = struct.pack("<HH2sHI", 0x0009, 0x1010, b"OB", 0, 1 << 30)
    packed = packer.compress(element) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + after + packed + deflated_zeros(1 << 30)


def _end_of_meta(rest: bytes) -> int:
    position = 0
    while rest[position : position + 2] == b"\2\0":
        position += 8 + int.from_bytes(rest[position + 6 : position + 8], "little")
    return position


def nested_sequences(depth: int) -> bytes:
    """Sequences within sequences."""
    opened = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF)
    opened += struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    closed = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    return _inserted(opened * depth + closed * depth)


def element_flood(count: int) -> bytes:
    """Private elements, two bytes each."""
    return _inserted(
        b"".join(
            struct.pack("<HH2sH", 0x0009 + 2 * (i // 60_000), 0x1000 + i % 60_000, b"LO", 2) + b"ab"
            for i in range(count)
        )
    )


def _inserted(elements: bytes) -> bytes:
    """Elements put before the image pixel module of a small file."""
    body = make_dicom(PIXELS)
    start = body.index(b"\x28\0\2\0US")
    return body[:start] + elements + body[start:]


def rle(segments: bytes, rows: int, columns: int) -> bytes:
    """A DICOM file whose two RLE segments are what is given."""
    data = dcmread(BytesIO(make_dicom(PIXELS)))
    data.file_meta.TransferSyntaxUID = RLELossless
    data.Rows, data.Columns = rows, columns
    header = struct.pack("<16I", 2, 64, 64 + len(segments), *[0] * 13)
    data.PixelData = encapsulate([header + segments * 2])
    data["PixelData"].is_undefined_length = True
    buffer = BytesIO()
    data.save_as(buffer)
    return buffer.getvalue()


def rle_panic() -> bytes:
    """One run too long: pylibjpeg-rle panics with a BaseException."""
    return rle(b"\x81\0" * 3, 16, 16)


def rle_lie() -> bytes:
    """592 bytes that claim 65,535 x 65,535 pixels."""
    return rle(b"\x81\0" * 2, 65_535, 65_535)


def size_lie() -> bytes:
    """65,535 x 65,535 pixels in 1000 frames, with the bytes of none."""
    return make_dicom(PIXELS, Rows=65_535, Columns=65_535, NumberOfFrames=1000)
