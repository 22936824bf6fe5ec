"""The two tokens of a session, made together.

The access token is a JWT that every gateway checks by itself; the refresh token is 256 random bits
that mean nothing, are good once, and are stored as their SHA-256 (RFC 9700 §4.14.2). SHA-256 is
enough: nobody guesses 256 bits, so there is nothing that a slow hash would protect.

A session rests at most `auth.refresh_idle_s`, and ends after `auth.refresh_absolute_s` in any case
(ASVS 5.0, 7.3.1 and 7.3.2).
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from uuid_utils.compat import uuid7

from configs.settings import AuthSettings
from deployments.api.tokens import AccessToken, AccessTokens
from registry.events import RefreshIssued
from storage.sessions import RefreshState

SECRET_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class TokenPair:
    """What a caller gets, and the change that makes it good."""

    access: AccessToken
    refresh: str
    issued: RefreshIssued

    @property
    def refresh_lifetime_s(self) -> int:
        """Seconds after which the refresh token has ended unused."""
        left = self.issued.expires_at - self.issued.proved_at
        return int(left.total_seconds())


class SessionTokens:
    """Makes pairs.

    Args:
        tokens: Makes access tokens.
        settings: Lifetimes.
    """

    def __init__(self, tokens: AccessTokens, settings: AuthSettings) -> None:
        self._tokens = tokens
        self._idle = timedelta(seconds=settings.refresh_idle_s)
        self._absolute = timedelta(seconds=settings.refresh_absolute_s)

    def issue(self, user_id: UUID, username: str, *, at: datetime) -> TokenPair:
        """The pair that begins a session. `at` is when the user's standing was read."""
        return self._pair(user_id, username, at, uuid7(), at + self._absolute)

    def renew(self, state: RefreshState, spent: bytes, username: str, *, at: datetime) -> TokenPair:
        """The pair that follows the refresh token with the hash `spent`."""
        return self._pair(
            state.user_id, username, at, state.family_id, state.family_expires_at, replaces=spent
        )

    def _pair(
        self,
        user_id: UUID,
        username: str,
        at: datetime,
        family_id: UUID,
        ends: datetime,
        *,
        replaces: bytes | None = None,
    ) -> TokenPair:
        access = self._tokens.issue(user_id, username)
        refresh = new_secret()
        issued = RefreshIssued(
            token_hash=secret_hash(refresh),
            family_id=family_id,
            user_id=user_id,
            access_token_id=access.claims.token_id,
            access_expires_at=datetime.fromtimestamp(access.claims.expires_at, UTC),
            expires_at=min(at + self._idle, ends),
            family_expires_at=ends,
            proved_at=at,
            replaces=replaces,
        )
        return TokenPair(access, refresh, issued)


def new_secret() -> str:
    """256 random bits as text."""
    return secrets.token_urlsafe(SECRET_BYTES)


def secret_hash(text: str) -> bytes:
    """What is stored of a secret."""
    return hashlib.sha256(text.encode()).digest()
