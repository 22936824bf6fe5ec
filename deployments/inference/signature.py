"""What a file's first bytes say of it, read without a decoder.

A decoder trusts the file; this walk does not. It is bounded, allocates nothing by the file's word,
and answers before any decoder runs: which type the bytes are, how many pixels they claim, and what
decoding may cost. Heavy files go to the guarded process, and to calls of their own, so that nobody
waits behind them; everything else is decoded in a few milliseconds. Of the heavy ones, those that
are foretold to be slow queue by themselves. A file may lie: the guard has a clock.

Sources: ITU-T T.81 annex B (JPEG markers), PNG 3rd edition §5 and §11, DICOM PS3.10 §7.1 and PS3.6
(transfer syntaxes, Rows and Columns). What is slow was measured with the 160 DICOM files of pydicom
and pydicom-data: pixels as they are take 6 ms a megabyte, compressed ones up to 500 ms.
"""

import struct
from dataclasses import dataclass

import numpy as np

JPEG = "image/jpeg"
PNG = "image/png"
DICOM = "application/dicom"

HEAVY_BYTES = 1 << 20
HEAVY_PIXELS = 2_000_000  # about 10 ms to decode
MAX_SEGMENTS = 256  # before the image data; more is no ordinary file
HEAVY_SCANS = 16  # a progressive JPEG of a few bytes a scan makes the decoder pass over all blocks

SLOW_PIXELS = 4_000_000  # of a JPEG or PNG
SLOW_BYTES = 8 << 20  # of a picture, or of a DICOM file whose pixels are not compressed
SLOW_CODED_BYTES = 128 << 10  # of a DICOM file whose pixels are: about 50 ms of JPEG 2000
SLOW_CODED_PIXELS = 1_000_000

_SYNTAX = b"\2\0\x10\0UI"  # (0002,0010), always explicit little endian
_ROWS, _COLUMNS = b"\x28\0\x10\0US\2\0", b"\x28\0\x11\0US\2\0"  # so in every coded file
_META_BYTES = 1 << 10  # in which the transfer syntax is looked for
_HEADER_BYTES = 1 << 16  # in which the size is
_NOT_CODED = frozenset({b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.2"})
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start of frame, all processes
_SOS = 0xDA
_SCAN = np.uint16(0xDAFF)  # FF DA, as two bytes of a little-endian number
_FILL = 0xFF  # starts a marker, and may be repeated before it
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length


@dataclass(frozen=True, slots=True)
class Signature:
    """What the bytes claim.

    Attributes:
        media_type: `image/jpeg`, `image/png`, `application/dicom`, or "" for anything else.
        width: Pixels a row, 0 where the first bytes do not say.
        height: Rows, 0 where the first bytes do not say.
        bit_depth: Bits a sample, 0 where the first bytes do not say.
        heavy: Whether decoding may take more than a few milliseconds.
        slow: Whether it is likely to take more than about 50 ms.
    """

    media_type: str
    width: int = 0
    height: int = 0
    bit_depth: int = 0
    heavy: bool = True
    slow: bool = False


def signature(body: bytes) -> Signature:
    """Read the signature. Never raises; what cannot be read is 0, and heavy."""
    if body.startswith(b"\xff\xd8\xff"):
        return _jpeg(body)
    if body.startswith(_PNG_MAGIC):
        return _png(body)
    if body[128:132] == b"DICM":
        return Signature(DICOM, slow=_dicom_is_slow(body))
    return Signature("", heavy=False)


def _jpeg(body: bytes) -> Signature:
    position, end = 2, len(body) - 9
    for _ in range(MAX_SEGMENTS):
        if position > end or body[position] != _FILL:
            break
        marker = body[position + 1]
        if marker == _FILL:
            position += 1
        elif marker in _STANDALONE:
            position += 2
        elif marker == _SOS:
            break
        elif marker in _SOF:
            depth, height, width = struct.unpack_from(">BHH", body, position + 4)
            slow = _is_slow(body, width, height) or _scans(body) > HEAVY_SCANS
            heavy = slow or _is_heavy(body, width, height)
            return Signature(JPEG, width, height, depth, heavy, slow)
        else:
            position += 2 + int.from_bytes(body[position + 2 : position + 4], "big")
    return Signature(JPEG, slow=True)


def _scans(body: bytes) -> int:
    """How often the marker of a scan is in the file: `body.count`, at a tenth of its cost."""
    pairs = (np.frombuffer(body, "<u2", (len(body) - first) // 2, first) for first in (0, 1))
    return sum(int(np.count_nonzero(pair == _SCAN)) for pair in pairs)


def _png(body: bytes) -> Signature:
    if len(body) < 33 or body[12:16] != b"IHDR":  # noqa: PLR2004  # magic, length, type, 13 bytes, CRC
        return Signature(PNG, slow=True)
    width, height, depth = struct.unpack_from(">IIB", body, 16)
    position = 33
    for _ in range(MAX_SEGMENTS):
        if body[position + 4 : position + 8] == b"IDAT":
            heavy, slow = _is_heavy(body, width, height), _is_slow(body, width, height)
            return Signature(PNG, width, height, depth, heavy, slow)
        position += 12 + int.from_bytes(body[position : position + 4], "big")
        if position >= len(body):
            break
    return Signature(PNG, width, height, depth, slow=True)


def _is_heavy(body: bytes, width: int, height: int) -> bool:
    return len(body) > HEAVY_BYTES or width * height > HEAVY_PIXELS


def _is_slow(body: bytes, width: int, height: int) -> bool:
    return len(body) > SLOW_BYTES or width * height > SLOW_PIXELS


def _dicom_is_slow(body: bytes) -> bool:
    """By size and transfer syntax; no element is followed, so there is nothing to get lost in."""
    at = body.find(_SYNTAX, 132, _META_BYTES)
    length = int.from_bytes(body[at + 6 : at + 8], "little")
    syntax = body[at + 8 : at + 8 + length].rstrip(b" \0") if at >= 0 else b""
    if syntax in _NOT_CODED:
        return len(body) > SLOW_BYTES
    if len(body) > SLOW_CODED_BYTES:
        return True
    return _claimed(body, _ROWS) * _claimed(body, _COLUMNS) > SLOW_CODED_PIXELS


def _claimed(body: bytes, element: bytes) -> int:
    """The value of a two-byte element near the file's beginning; 0 where there is none."""
    at = body.find(element, 132, _HEADER_BYTES)
    return int.from_bytes(body[at + 8 : at + 10], "little") if at >= 0 else 0
