"""The keys that sign access tokens: Ed25519, one `<kid>.pem` each in one directory.

Rules this file keeps:

- A key file is readable by its owner only (mode 0600), or the service does not start.
- What is missing is made only where the operator lets it be (`auth.generate_keys`); production
  brings its own.
- Every key in the directory verifies; one signs: the last by name whose name does not begin with a
  date (YYYYMMDD) still to come. So a key is announced by putting it there ahead of its date, and
  retired by removing its file once the tokens it signed have ended.
"""

import fcntl
import os
import re
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from registry.errors import InvalidConfiguration, Violation

SETTING: Final = "MEDAI_AUTH__KEY_DIR (of the audit log: MEDAI_AUDIT__KEY_DIR)"
PENDING: Final = ".pending"  # the ending of a key that no entry may have named yet
KEY_MODE: Final = 0o600
DIRECTORY_MODE: Final = 0o700
_KID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DATED = re.compile(r"(\d{8})(?!\d)")
_MADE = re.compile(r"(^|-)\d{8}-[0-9a-f]{8}$")  # what is added to a name that is no date


@dataclass(frozen=True, slots=True)
class KeySet:
    """The keys of one service.

    Attributes:
        kid: The id of the key that signs.
        private: The key that signs.
        public: Every key that verifies, by id.
        created: Whether the signing key was made just now.
    """

    kid: str
    private: Ed25519PrivateKey
    public: Mapping[str, Ed25519PublicKey]
    created: bool = False


def load_keys(directory: Path, *, generate: bool, today: date | None = None) -> KeySet:
    """Read every key, or make the first.

    Args:
        directory: Where the keys are.
        generate: Whether to make a key where there is none.
        today: The date that decides which key signs; default: the present date, UTC.

    Raises:
        InvalidConfiguration: No key, a key that others may read, or a file that is no Ed25519 key.
    """
    today = today or datetime.now(UTC).date()
    files = _key_files(directory)
    created = False
    if not files:
        if not generate:
            raise _refused(
                "no signing key",
                measured="no .pem file",
                advice="make one: openssl genpkey -algorithm ed25519 -out KEY_DIR/main.pem"
                " && chmod 600 KEY_DIR/main.pem",
            )
        created = _create(directory, today)
        files = _key_files(directory)
    private = {file.stem: _read(file) for file in files}
    usable = [kid for kid in sorted(private) if not _is_to_come(kid, today)]
    if not usable:
        raise _refused(
            "every signing key's date is still to come",
            measured=min(private),
            advice="add a key that may sign today",
        )
    public = MappingProxyType({kid: key.public_key() for kid, key in private.items()})
    return KeySet(usable[-1], private[usable[-1]], public, created)


def pending_key(directory: Path, *, after: str, today: date | None = None) -> Path:
    """The file of the key that is to follow `after`; made where there is none.

    It does not count as a key of the directory before `put_in_force`, so that a rotation which is
    interrupted can be finished: nothing signs with it meanwhile, and it is not lost.

    Raises:
        InvalidConfiguration: The directory cannot be written, holds two such files, or no name
            sorts after `after`.
    """
    pending = sorted(directory.glob(f"*{PENDING}"))
    if len(pending) > 1:
        raise _refused(
            "more than one key waits to follow",
            measured=", ".join(file.name for file in pending),
            limit="one",
            advice="remove those that no key.rotated entry names",
        )
    if pending:
        return pending[0]
    kid = _following(after, today or datetime.now(UTC).date())
    file = directory / f"{kid}{PENDING}"
    try:
        _write_key(file)
    except OSError:
        raise _unwritable() from None
    return file


def read_key(file: Path) -> Ed25519PrivateKey:
    """One Ed25519 key. Raises `InvalidConfiguration` where it is none, or others may read it."""
    try:
        return _read(file)
    except OSError:
        raise _refused(
            "a key file cannot be read", measured=file.name, advice="name one that is there"
        ) from None


def put_in_force(file: Path) -> Path:
    """Give a pending key its final name: from now on it is the directory's last, and signs."""
    final = file.with_name(f"{file.name.removesuffix(PENDING)}.pem")
    try:
        file.rename(final)
        _sync(file.parent)
    except OSError:
        raise _unwritable() from None
    return final


def jwks(keys: KeySet) -> dict[str, list[dict[str, str]]]:
    """The public keys as a JSON Web Key Set (RFC 7517; RFC 8037 §2 for Ed25519)."""
    return {
        "keys": [
            {
                "kty": "OKP",
                "crv": "Ed25519",
                "use": "sig",
                "alg": "EdDSA",
                "kid": kid,
                "x": urlsafe_b64encode(key.public_bytes_raw()).rstrip(b"=").decode(),
            }
            for kid, key in keys.public.items()
        ]
    }


def _key_files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.pem")) if directory.is_dir() else []


def _following(kid: str, today: date) -> str:
    """A new key id that sorts after `kid`, because the last by name signs."""
    dated, more = f"{today:%Y%m%d}-{secrets.token_hex(4)}", secrets.token_hex(4)
    base = _MADE.sub("", kid)
    for name in (dated, f"{base}-{dated}", f"{kid}-{more}"):
        if name > kid and _KID.fullmatch(name):
            return name
    raise _refused(
        "no name is left that sorts after the present key's",
        measured=kid,
        limit="64 characters",
        advice="make a key yourself and name it",
    )


def _create(directory: Path, today: date) -> bool:
    """Make a key unless another process has just made one: replicas start at the same time."""
    try:
        directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        raise _refused(
            "the key directory cannot be made", advice="make it, or name another directory"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _key_files(directory):
            return False
        name = directory / f"{today:%Y%m%d}-{secrets.token_hex(4)}"
        _write_key(Path(f"{name}.new"))
        Path(f"{name}.new").rename(f"{name}.pem")
        os.fsync(lock)
    except OSError:
        raise _unwritable() from None
    finally:
        os.close(lock)
    return True


def _write_key(file: Path) -> None:
    """A new key in a new file, on the disk when this returns."""
    pem = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, KEY_MODE)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(pem)
        stream.flush()
        os.fsync(descriptor)
    _sync(file.parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritable() -> InvalidConfiguration:
    return _refused("the signing key cannot be written", advice="make the key directory writable")


def _read(file: Path) -> Ed25519PrivateKey:
    if not _KID.fullmatch(file.stem):
        raise _refused(
            "a key file's name is not fit for a key id",
            limit="letters, digits, - and _; at most 64",
            advice="rename it",
        )
    mode = file.stat().st_mode & 0o777
    if mode & 0o077:
        raise _refused(
            "a signing key may be read by others",
            measured=f"{file.name} has mode {mode:04o}",
            limit=f"{KEY_MODE:04o}",
            advice=f"chmod 600 {file.name}, and replace the key if others may have read it",
        )
    try:
        key = load_pem_private_key(file.read_bytes(), password=None)
    except (ValueError, TypeError, OSError):  # the text of these may quote the file
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise _refused(
            "a key file is not an unencrypted Ed25519 private key in PEM form",
            measured=file.name,
            advice="make one: openssl genpkey -algorithm ed25519",
        )
    return key


def _is_to_come(kid: str, today: date) -> bool:
    dated = _DATED.match(kid)
    return dated is not None and dated[1] > f"{today:%Y%m%d}"


def _refused(
    detail: str, *, measured: str = "", limit: str = "", advice: str
) -> InvalidConfiguration:
    return InvalidConfiguration(detail, (Violation(SETTING, measured, limit, advice),))
