"""Writes the OpenAPI document to the standard output, without a service running.

    python -m deployments.api.openapi > docs/openapi.json

The application is the real one, on parts that refuse every request: a description made from
anything else could differ from what is served.
"""

import json
import sys
from pathlib import Path
from typing import Any, NoReturn

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from configs.settings import (
    AuthSettings,
    DatabaseSettings,
    LimitSettings,
    ModelSettings,
    RateLimitSettings,
)
from deployments.api.app import Services, create_app
from deployments.api.health import HealthChecks
from deployments.api.passwords import Passwords
from deployments.api.rate_limits import RateLimits
from deployments.api.sessions import Sessions
from deployments.api.tokens import AccessTokens
from deployments.inference.pseudonym import Pseudonyms
from deployments.inference.service import InferenceService
from registry.catalogue import Catalogue
from registry.errors import Internal
from storage.database import Database
from storage.signing_keys import KeySet

KEY_BYTES = 32


class Nobody:
    """The other deployments, where there are none."""

    async def screen(self, upload: object) -> NoReturn:
        """Raises `Internal`."""
        del upload
        raise _nothing_runs()

    async def record(self, event: object) -> NoReturn:
        """Raises `Internal`."""
        del event
        raise _nothing_runs()

    async def record_all(self, events: object) -> NoReturn:
        """Raises `Internal`."""
        del events
        raise _nothing_runs()


def document() -> dict[str, Any]:
    """The OpenAPI document."""
    auth, limits, nobody = AuthSettings(), LimitSettings(), Nobody()
    database = Database(DatabaseSettings(), "sqlite+aiosqlite:///none.db")  # never connected
    private = Ed25519PrivateKey.generate()
    keys = KeySet("none", private, {"none": private.public_key()})
    passwords = Passwords(auth, memory_kib=KEY_BYTES)
    services = Services(
        inference=InferenceService(nobody, nobody, lambda: Catalogue(()), limits),
        audit=nobody,
        database=database,
        tokens=AccessTokens(keys, auth),
        sessions=Sessions.of(database, auth),
        passwords=passwords,
        pseudonyms=Pseudonyms(bytes(KEY_BYTES), version=1),
        health=HealthChecks({}),
        limits=limits,
        auth=auth,
        models=ModelSettings(),
        model_dir=Path("models"),
        rate_limits=RateLimits(RateLimitSettings()),
    )
    described: dict[str, Any] = create_app(services).openapi()
    passwords.close()
    return described


def text() -> str:
    """The document as it is kept in the repository."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


def _nothing_runs() -> Internal:
    return Internal("this application only describes itself")


if __name__ == "__main__":
    sys.stdout.write(text())
