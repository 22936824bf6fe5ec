"""What lies in the home directory and beside it: keys, records, anchors, model files."""

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from configs.settings import Settings
from deployments.doctor.finding import Finding, Installation, State, refusals
from deployments.inference.pseudonym import Pseudonyms
from registry.errors import InvalidConfiguration
from storage.signing_keys import load_keys

OTHERS = 0o077
WORLD = 0o007
WRITE_BY_OTHERS = 0o022
SQLITE = "sqlite+aiosqlite:///"


def signing_keys(installation: Installation) -> Iterator[Finding]:
    """The keys of the tokens and of the audit log: there, readable by nobody else, of the kind."""
    settings = installation.settings
    for name, directory in (
        ("token keys", settings.key_dir),
        ("audit log key", settings.log_key_dir),
    ):
        yield from _keys(name, directory, settings)


def _keys(name: str, directory: Path, settings: Settings) -> Iterator[Finding]:
    if not any(directory.glob("*.pem")) and settings.auth.generate_keys:
        yield Finding(name, State.WARN, "none yet; made at the first start", "run `medai init`")
        return
    try:
        keys = load_keys(directory, generate=False)
    except InvalidConfiguration as error:
        yield from refusals(name, error)
        return
    found = f"{keys.kid} signs, of {len(keys.public)}"
    yield _private(name, directory, OTHERS, found) or Finding(name, State.OK, found)


def pseudonym_key(installation: Installation) -> Iterator[Finding]:
    """The key of the patients' pseudonyms."""
    settings, name = installation.settings, "pseudonym key"
    path = settings.pseudonym_key_file
    if not path.exists() and settings.auth.generate_keys:
        yield Finding(name, State.WARN, "none yet; made by `medai init`", "run `medai init`")
        return
    version = settings.privacy.pseudonym_key_version
    Pseudonyms.from_file(path, version=version)  # raises what is wrong with it
    found = f"{path.stat().st_size} bytes, version {version}"
    yield _private(name, path, OTHERS, found) or Finding(name, State.OK, found)


def records(installation: Installation) -> Iterator[Finding]:
    """Who may read the files that hold records, and whether they are ours."""
    settings, name = installation.settings, "file modes"
    candidates = [(settings.home_dir, WRITE_BY_OTHERS), (settings.anchor_file, WORLD)]
    if settings.database_url.startswith(SQLITE):
        candidates.append((Path(settings.database_url.removeprefix(SQLITE)), OTHERS))
    looked_at = [(path, forbidden) for path, forbidden in candidates if path.exists()]
    faults = [
        fault for path, forbidden in looked_at if (fault := _private(name, path, forbidden, ""))
    ]
    yield from faults
    if not faults:
        yield Finding(name, State.OK, f"{len(looked_at)} looked at, none open to others")


def _private(name: str, path: Path, forbidden: int, found: str) -> Finding | None:
    """A finding where a file or directory grants what it must not, or is somebody else's."""
    status = path.stat()
    mode = stat.S_IMODE(status.st_mode)
    before = f"{found}; " if found else ""
    if mode & forbidden:
        allowed = mode & ~forbidden
        return Finding(
            name,
            State.FAIL,
            f"{before}{path.name} has mode {mode:04o}, allowed is {allowed:04o}",
            f"chmod {allowed:03o} {path}, and see who may have read it",
        )
    if status.st_uid not in {os.getuid(), 0}:
        return Finding(
            name,
            State.WARN,
            f"{before}{path.name} belongs to user {status.st_uid}, this is user {os.getuid()}",
            "run `medai doctor` as the user that serves",
        )
    return None


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
