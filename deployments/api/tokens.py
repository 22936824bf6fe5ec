"""Access tokens: JWTs signed with Ed25519, checked by RFC 8725 and RFC 9068.

Rules this file keeps:

- One algorithm, EdDSA. The token's own header chooses a key of ours by `kid`, and nothing else.
- `typ` must be `at+jwt`, every claim below must be there, and a token has at most 4 KB.
- A token says who, never what for: role and standing come from `api.sessions` on every request.
- The cache of verified tokens spares the signature check only: expiry is checked each time.
"""

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import jwt

from configs.settings import AuthSettings
from storage.signing_keys import KeySet

ALGORITHM: Final = "EdDSA"
TYPE: Final = "at+jwt"  # RFC 9068 §2.1
MAX_TOKEN_BYTES: Final = 4096
USERNAME: Final = "preferred_username"  # OpenID Connect Core §5.1; for showing only
CLAIMS: Final = ("exp", "iat", "nbf", "sub", "jti", "iss", "aud", USERNAME)
MAX_CACHED: Final = 4096


class Refusal(StrEnum):
    """Why a token is not accepted. For the audit log only: the caller is never told."""

    ABSENT = "absent"
    MALFORMED = "malformed"
    SIGNATURE = "signature"
    CLAIMS = "claims"
    EXPIRED = "expired"
    REVOKED = "revoked"
    SUPERSEDED = "superseded"  # issued before the user's tokens were all ended
    DISABLED = "disabled"
    UNKNOWN_USER = "unknown-user"
    REFRESH = "refresh"  # a refresh token nobody has, or that has ended
    RESET = "reset"  # a reset token nobody has, or that has ended


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified token says. Times in seconds since the epoch.

    `issued_at` keeps microseconds: a user's tokens may all be ended, and new ones issued, within
    one second.
    """

    user_id: UUID
    username: str
    token_id: str
    issued_at: float
    expires_at: int


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token as it is given out."""

    text: str
    claims: Claims
    lifetime_s: int


class AccessTokens:
    """Issues and verifies access tokens.

    Args:
        keys: See `signing_keys.load_keys`.
        settings: Issuer, audience, lifetime and the clock's leeway.
        clock: Seconds since the epoch.
    """

    def __init__(
        self, keys: KeySet, settings: AuthSettings, clock: Callable[[], float] = time.time
    ) -> None:
        self._keys = keys
        self._issuer = settings.issuer
        self._audience = settings.audience
        self._lifetime_s = int(settings.access_token_s)
        self._leeway_s = settings.clock_leeway_s
        self._clock = clock
        self._verified: dict[bytes, Claims] = {}

    @property
    def keys(self) -> KeySet:
        """The keys that sign and verify."""
        return self._keys

    def issue(self, user_id: UUID, username: str) -> AccessToken:
        """A new token for a user who has just proved who they are."""
        now = round(self._clock(), 6)
        token_id = secrets.token_urlsafe(16)
        claims = Claims(user_id, username, token_id, now, int(now) + self._lifetime_s)
        text = jwt.encode(
            {
                "iss": self._issuer,
                "aud": self._audience,
                "sub": str(user_id),
                USERNAME: username,
                "jti": token_id,
                "iat": claims.issued_at,
                "nbf": int(now),
                "exp": claims.expires_at,
            },
            self._keys.private,
            algorithm=ALGORITHM,
            headers={"kid": self._keys.kid, "typ": TYPE},
        )
        return AccessToken(text, claims, self._lifetime_s)

    def verify(self, token: bytes) -> Claims | Refusal:
        """What the token says, or why it is not accepted. The user's standing is not looked at."""
        if len(token) > MAX_TOKEN_BYTES:
            return Refusal.MALFORMED
        digest = hashlib.sha256(token).digest()
        claims = self._verified.get(digest)
        if claims is None:
            checked = self._check(token)
            if isinstance(checked, Refusal):
                return checked
            claims = checked
            while len(self._verified) >= MAX_CACHED:  # the oldest first
                del self._verified[next(iter(self._verified))]
            self._verified[digest] = claims
        if self._clock() >= claims.expires_at + self._leeway_s:
            self._verified.pop(digest, None)
            return Refusal.EXPIRED
        return claims

    def _check(self, token: bytes) -> Claims | Refusal:
        try:
            header = jwt.get_unverified_header(token)
            key = self._keys.public.get(str(header.get("kid")))
            if key is None:
                return Refusal.SIGNATURE
            payload = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=self._audience,
                issuer=self._issuer,
                # Times are checked below, against one clock; PyJWT has its own.
                options={
                    "require": list(CLAIMS),
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except jwt.InvalidSignatureError:
            return Refusal.SIGNATURE
        except (jwt.MissingRequiredClaimError, jwt.InvalidIssuerError, jwt.InvalidAudienceError):
            return Refusal.CLAIMS
        except jwt.PyJWTError:
            return Refusal.MALFORMED
        # RFC 7515 §4.1.9: the media type may be written out.
        if str(header.get("typ")).lower().removeprefix("application/") != TYPE:
            return Refusal.CLAIMS
        return self._claims(payload)

    def _claims(self, payload: dict[str, Any]) -> Claims | Refusal:
        """The claims by their types, and valid from now on. Expiry is the caller's."""
        try:
            issued_at, not_before = float(payload["iat"]), float(payload["nbf"])
            expires_at = int(payload["exp"])
            user_id, token_id = UUID(payload["sub"]), str(payload["jti"])
        except (TypeError, ValueError, AttributeError, OverflowError):
            return Refusal.CLAIMS
        latest = self._clock() + self._leeway_s
        if not (issued_at <= latest and not_before <= latest):  # NaN is neither
            return Refusal.CLAIMS
        return Claims(user_id, str(payload[USERNAME]), token_id, issued_at, expires_at)
