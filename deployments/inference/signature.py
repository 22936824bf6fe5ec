"""What a file's first bytes say of it, read without a decoder.

A decoder trusts the file; this walk does not. It is bounded, allocates nothing by the file's word,
and answers before any decoder runs: which type the bytes are, how many pixels they claim, and
whether the file is heavy. Heavy files go to the guarded process, and to calls of their own, so that
nobody waits behind them; everything else is decoded in a few milliseconds.

Sources: ITU-T T.81 annex B (JPEG markers), PNG 3rd edition §5 and §11, DICOM PS3.10 §7.1.
"""

import struct
from dataclasses import dataclass

JPEG = "image/jpeg"
PNG = "image/png"
DICOM = "application/dicom"

HEAVY_BYTES = 1 << 20
HEAVY_PIXELS = 2_000_000  # about 10 ms to decode
MAX_SEGMENTS = 256  # before the image data; more is no ordinary file
HEAVY_SCANS = 16  # a progressive JPEG of a few bytes a scan makes the decoder pass over all blocks

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start of frame, all processes
_SOS = 0xDA
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
    """

    media_type: str
    width: int = 0
    height: int = 0
    bit_depth: int = 0
    heavy: bool = True


def signature(body: bytes) -> Signature:
    """Read the signature. Never raises; what cannot be read is 0, and heavy."""
    if body.startswith(b"\xff\xd8\xff"):
        return _jpeg(body)
    if body.startswith(_PNG_MAGIC):
        return _png(body)
    if body[128:132] == b"DICM":
        return Signature(DICOM)
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
            many_scans = body.count(b"\xff\xda") > HEAVY_SCANS
            heavy = many_scans or _is_heavy(body, width, height)
            return Signature(JPEG, width, height, depth, heavy)
        else:
            position += 2 + int.from_bytes(body[position + 2 : position + 4], "big")
    return Signature(JPEG)


def _png(body: bytes) -> Signature:
    if len(body) < 33 or body[12:16] != b"IHDR":  # noqa: PLR2004  # magic, length, type, 13 bytes, CRC
        return Signature(PNG)
    width, height, depth = struct.unpack_from(">IIB", body, 16)
    position = 33
    for _ in range(MAX_SEGMENTS):
        if body[position + 4 : position + 8] == b"IDAT":
            return Signature(PNG, width, height, depth, _is_heavy(body, width, height))
        position += 12 + int.from_bytes(body[position : position + 4], "big")
        if position >= len(body):
            break
    return Signature(PNG, width, height, depth)


def _is_heavy(body: bytes, width: int, height: int) -> bool:
    return len(body) > HEAVY_BYTES or width * height > HEAVY_PIXELS
