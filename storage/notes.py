"""Signed notes and the checkpoints of the log that they carry. Pure; keys are handed in.

    checkpoint   origin LF size LF base64(root of the Merkle tree) LF     (c2sp.org/tlog-checkpoint)
    note         text LF, then one line a signature: — name base64(key id || signature)
                                                                          (c2sp.org/signed-note)
    key id       the first 4 bytes of SHA-256(name || LF || type || public key)
    vkey         name+hex(key id)+base64(type || public key)

A checkpoint of ours has two signature lines by one Ed25519 key: type 0x01 over the text, which says
that this is the log, and type 0x04 (c2sp.org/tlog-cosignature), which says in addition when it was.
Both are named as the log is. A text that could stand for the other's is refused: no log may be
called `cosignature/v1`.

What cannot be read raises `ValueError`, whose text never holds the input.
"""

import base64
import binascii
import contextlib
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

MAX_SIGNATURES = 64
KEY_ID_BYTES = 4
KEY_BYTES = 32
HASH_BYTES = 32
TIME_BYTES = 8
TIMED_BYTES = TIME_BYTES + 64  # the time, and an Ed25519 signature

_DASH = "\N{EM DASH} "
_COSIGNATURE = "cosignature/v1"
_ROTATION = "medaiflow/audit/key-rotation/v1"


class SignatureType(IntEnum):
    """The kinds of signature used here, by the byte that stands for them in a key."""

    ED25519 = 0x01
    COSIGNATURE = 0x04


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key and the name it signs under. `str(key)` is its vkey.

    Attributes:
        name: Without spaces, `+` and control characters.
        public: The Ed25519 public key, 32 bytes.
        kind: What its signatures are made over.
    """

    name: str
    public: bytes
    kind: SignatureType = SignatureType.ED25519

    def __post_init__(self) -> None:
        if not _is_name(self.name):
            raise ValueError("a key's name has no spaces, no + and no control characters")
        if len(self.public) != KEY_BYTES:
            raise ValueError("an Ed25519 public key has 32 bytes")

    @classmethod
    def of(cls, name: str, key: Ed25519PrivateKey) -> Self:
        """The key that verifies what `key` signs as the log `name`."""
        return cls(name, key.public_key().public_bytes_raw())

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a vkey. Raises `ValueError`, also where its key id is not that of its key."""
        parts = text.strip().split("+", 2)  # base64 may hold a +, a name may not
        material = _decoded(parts[-1])
        if len(parts) != 3 or not material:  # noqa: PLR2004  # name, id, key
            raise ValueError("a vkey is name+id+key")
        try:
            kind = SignatureType(material[0])
        except ValueError:
            raise ValueError("the key is not an Ed25519 key") from None
        key = cls(parts[0], material[1:], kind)
        if key.key_id.hex() != parts[1]:
            raise ValueError("the vkey's id is not that of its key")
        return key

    @property
    def key_id(self) -> bytes:
        """The 4 bytes that stand for this key in a signature line."""
        return hashlib.sha256(self.name.encode() + b"\n" + self._material).digest()[:KEY_ID_BYTES]

    @property
    def cosigner(self) -> Self:
        """The same key, for the signatures that carry a time."""
        return type(self)(self.name, self.public, SignatureType.COSIGNATURE)

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{_encoded(self._material)}"

    def verifies(self, text: str, signature: bytes) -> bool:
        """Whether `signature`, without its key id, is by this key over this text."""
        message = text
        if self.kind is SignatureType.COSIGNATURE:
            time, signature = signature[:TIME_BYTES], signature[TIME_BYTES:]
            message = _cosigned(text, int.from_bytes(time, "big"))
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message.encode())
        except (InvalidSignature, ValueError):
            return False
        return True

    @property
    def _material(self) -> bytes:
        return bytes([self.kind]) + self.public


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line. `value` is what follows the key id."""

    name: str
    key_id: bytes
    value: bytes

    def __str__(self) -> str:
        return f"{_DASH}{self.name} {_encoded(self.key_id + self.value)}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A text and its signatures; `str(note)` is the note. The text ends with a line feed."""

    text: str
    signatures: tuple[Signature, ...]

    def __str__(self) -> str:
        return self.text + "\n" + "".join(map(str, self.signatures))

    @classmethod
    def parse(cls, note: str) -> Self:
        """Read a note. It is not verified by this."""
        text, blank, lines = note.rpartition("\n\n")
        if not blank or not lines.endswith("\n"):
            raise ValueError("a note is a text, a blank line and signature lines")
        if any(character < " " and character != "\n" for character in note):
            raise ValueError("a note holds no control characters")
        signatures = tuple(_signature(line) for line in lines[:-1].split("\n"))
        if len(signatures) > MAX_SIGNATURES:
            raise ValueError("the note has too many signatures")
        return cls(text + "\n", signatures)

    def verify(self, keys: Iterable[VerifierKey]) -> tuple[Signature, ...]:
        """The signatures made by `keys`; those of other keys are passed over.

        Raises:
            ValueError: A signature that names one of `keys` is not by it, or none names any.
        """
        known = {(key.name, key.key_id): key for key in keys}
        found = []
        for signature in self.signatures:
            key = known.get((signature.name, signature.key_id))
            if key is None:
                continue
            if not key.verifies(self.text, signature.value):
                raise ValueError("a signature of the note is wrong")
            found.append(signature)
        if not found:
            raise ValueError("no known key has signed the note")
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A head of the log; `str(checkpoint)` is the text that is signed.

    Attributes:
        origin: The log's name.
        size: How many entries it has.
        root: The root of the Merkle tree over them (RFC 6962, section 2.1), 32 bytes.
    """

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        if not _is_name(self.origin) or self.origin == _COSIGNATURE:
            raise ValueError("this is not a name for a log")
        if self.size < 0 or len(self.root) != HASH_BYTES:
            raise ValueError("this is not the head of a log")

    def __str__(self) -> str:
        return f"{self.origin}\n{self.size}\n{_encoded(self.root)}\n"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a checkpoint. Our logs write no extension lines, so none is taken."""
        lines = text.split("\n")
        if len(lines) != 4 or lines[3]:  # noqa: PLR2004  # origin, size, root, end
            raise ValueError("a checkpoint has three lines")
        if not (lines[1].isascii() and lines[1].isdigit()) or str(int(lines[1])) != lines[1]:
            raise ValueError("the size of a checkpoint is a decimal number")
        return cls(lines[0], int(lines[1]), _decoded(lines[2]))


def sign(checkpoint: Checkpoint, key: Ed25519PrivateKey, *, at: datetime) -> Note:
    """The note of `checkpoint`, signed as the log and as of the time `at` (whole seconds)."""
    text = str(checkpoint)
    public = VerifierKey.of(checkpoint.origin, key)
    cosigner = public.cosigner
    time = int(at.timestamp())
    value = time.to_bytes(TIME_BYTES, "big") + key.sign(_cosigned(text, time).encode())
    return Note(
        text,
        (
            Signature(public.name, public.key_id, key.sign(text.encode())),
            Signature(cosigner.name, cosigner.key_id, value),
        ),
    )


def claimed_time(note: Note) -> datetime | None:
    """When a note says that it was signed; not verified by this. None where it does not say."""
    for signature in note.signatures:
        if len(signature.value) == TIMED_BYTES:
            with contextlib.suppress(OverflowError, ValueError, OSError):
                seconds = int.from_bytes(signature.value[:TIME_BYTES], "big")
                return datetime.fromtimestamp(seconds, UTC)
    return None


def open_checkpoint(note: Note, key: VerifierKey) -> tuple[Checkpoint, int | None]:
    """The checkpoint of a note that `key` has signed as the log, and when, in POSIX seconds.

    Raises:
        ValueError: `key` has not signed it, it is of another log, or it cannot be read.
    """
    signatures = note.verify((key, key.cosigner))
    if all(signature.key_id != key.key_id for signature in signatures):
        raise ValueError("no known key has signed the note as the log")
    checkpoint = Checkpoint.parse(note.text)
    if checkpoint.origin != key.name:
        raise ValueError("the checkpoint is of another log")
    times = [
        int.from_bytes(signature.value[:TIME_BYTES], "big")
        for signature in signatures
        if signature.key_id == key.cosigner.key_id
    ]
    return checkpoint, times[0] if times else None


def sign_rotation(old: Ed25519PrivateKey, new: Ed25519PrivateKey, name: str) -> Note:
    """The word of both keys that from here on `new` signs for the log of this name.

    The old key's, so that who knows it knows the new one; and the new key's, or anybody could name
    it as the successor of a key of his own, and with that sign a log that he made up.
    """
    keys = VerifierKey.of(name, old), VerifierKey.of(name, new)
    text = f"{_ROTATION}\n{keys[0]}\n{keys[1]}\n"
    signatures = (
        Signature(public.name, public.key_id, private.sign(text.encode()))
        for public, private in zip(keys, (old, new), strict=True)
    )
    return Note(text, tuple(signatures))


def open_rotation(note: Note) -> tuple[VerifierKey, VerifierKey]:
    """The old and the new key of a rotation that both have signed.

    Raises:
        ValueError: They have not, or are not of one log.
    """
    lines = note.text.split("\n")
    if len(lines) != 4 or lines[0] != _ROTATION or lines[3]:  # noqa: PLR2004  # title, two keys, end
        raise ValueError("this is not the rotation of a key")
    old, new = VerifierKey.parse(lines[1]), VerifierKey.parse(lines[2])
    if old.name != new.name or {old.kind, new.kind} != {SignatureType.ED25519}:
        raise ValueError("the rotation is not from one key of the log to another")
    signed_by = {signature.key_id for signature in note.verify((old, new))}
    if signed_by != {old.key_id, new.key_id}:
        raise ValueError("one of the two keys has not signed the rotation")
    return old, new


def _signature(line: str) -> Signature:
    name, space, value = line.removeprefix(_DASH).partition(" ")
    decoded = _decoded(value)
    if not line.startswith(_DASH) or not space or not _is_name(name):
        raise ValueError("a signature line is a dash, a name and a signature")
    if len(decoded) <= KEY_ID_BYTES:
        raise ValueError("a signature is longer than the id of its key")
    return Signature(name, decoded[:KEY_ID_BYTES], decoded[KEY_ID_BYTES:])


def _cosigned(text: str, time: int) -> str:
    return f"{_COSIGNATURE}\ntime {time}\n{text}"


def _is_name(name: str) -> bool:
    return bool(name) and "+" not in name and name.isprintable() and not any(map(str.isspace, name))


def _encoded(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _decoded(text: str) -> bytes:
    """Standard base64, and only its one spelling."""
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("this is not base64") from None
    if _encoded(value) != text:
        raise ValueError("this is not the one base64 spelling")
    return value
