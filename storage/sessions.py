"""Refresh tokens and rights to set a password, as they are looked up: by the hash of the token.

Nothing here says whether a token is good: that is decided in the transaction that uses it up
(`storage.account_changes`). What is read here only tells what the caller came with.
"""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from storage.tables import PasswordReset, RefreshToken


@dataclass(frozen=True, slots=True)
class RefreshState:
    """A refresh token as it stands. See `registry.events.RefreshIssued`."""

    family_id: UUID
    user_id: UUID
    issued_at: datetime
    expires_at: datetime
    family_expires_at: datetime
    used: bool
    revoked: bool


class SessionRepository:
    """Sessions, in the caller's transaction."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def refresh_token(self, token_hash: bytes) -> RefreshState | None:
        """The token with this SHA-256, or None."""
        row = (
            await self._session.execute(
                select(
                    RefreshToken.family_id,
                    RefreshToken.user_id,
                    RefreshToken.issued_at,
                    RefreshToken.expires_at,
                    RefreshToken.family_expires_at,
                    RefreshToken.used_at,
                    RefreshToken.revoked_at,
                ).where(RefreshToken.token_hash == token_hash)
            )
        ).first()
        if row is None:
            return None
        return RefreshState(
            family_id=row.family_id,
            user_id=row.user_id,
            issued_at=row.issued_at,
            expires_at=row.expires_at,
            family_expires_at=row.family_expires_at,
            used=row.used_at is not None,
            revoked=row.revoked_at is not None,
        )

    async def family_of(self, access_token_id: str) -> UUID | None:
        """The family of the access token with this jti, or None."""
        return await self._session.scalar(
            select(RefreshToken.family_id).where(RefreshToken.access_token_id == access_token_id)
        )

    async def reset_of(self, token_hash: bytes, *, at: datetime) -> UUID | None:
        """Whose password the token with this SHA-256 may set at `at`, or None."""
        return await self._session.scalar(
            select(PasswordReset.user_id).where(
                PasswordReset.token_hash == token_hash, PasswordReset.expires_at > at
            )
        )
