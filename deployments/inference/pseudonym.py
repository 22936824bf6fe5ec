"""Pseudonyms: what is stored instead of a patient's id.

    pseudonym = "p" version ":" first 32 hex digits of HMAC-SHA256(key, domain || normalised id)

The same id gives the same pseudonym at one site, so that a patient's results can be found; without
the key the id cannot be tried out, as it can with a plain hash of so small a space (HIPAA
164.514(c) calls such a code derived: the data are pseudonymised, not de-identified). A new key
takes a new version; pseudonyms of different versions never match.
"""

import hmac
from pathlib import Path

from registry.errors import InvalidConfiguration, Violation

DOMAIN = b"medaiflow/patient/v1\n"
MIN_KEY_BYTES = 32


class Pseudonyms:
    """Makes pseudonyms with one key.

    Args:
        key: The secret, 32 bytes or more.
        version: Which key this is; it is part of every pseudonym.

    Raises:
        InvalidConfiguration: The key is too short.
    """

    def __init__(self, key: bytes, *, version: int) -> None:
        if len(key) < MIN_KEY_BYTES:
            raise InvalidConfiguration(
                "the pseudonym key is too short",
                (
                    Violation(
                        "pseudonym_key_file",
                        f"{len(key)} bytes",
                        f"at least {MIN_KEY_BYTES} bytes",
                        "write 32 random bytes into the file",
                    ),
                ),
            )
        self._key = key
        self._prefix = f"p{version}:"

    @classmethod
    def from_file(cls, path: Path, *, version: int) -> "Pseudonyms":
        """Read the key. Raises `InvalidConfiguration` where it is missing or too short."""
        try:
            key = path.read_bytes()
        except OSError:
            raise InvalidConfiguration(
                "the pseudonym key cannot be read",
                (Violation("pseudonym_key_file", advice="make the file, mode 0600"),),
            ) from None
        return cls(key, version=version)

    def of(self, patient_id: str) -> str | None:
        """The pseudonym of an id as people write it: space around it and case do not matter.

        None where nothing but space is left.
        """
        normal = patient_id.strip(" \0\t\r\n").upper()
        if not normal:
            return None
        digest = hmac.digest(self._key, DOMAIN + normal.encode("utf-8", "surrogatepass"), "sha256")
        return self._prefix + digest[:16].hex()
