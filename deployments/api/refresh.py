"""A session goes on, or ends: refresh tokens are good once.

1. look up   the token by its hash
2. decide    used before: somebody else has it. The whole session ends, with every access token
3. renew     the old one is used up and the new one stored in one statement each, in the
             transaction that records it, so that of two who come with one token one is refused

Rules this file keeps: the caller is never told why (RFC 6749 §5.2 would tell a thief that the token
was good once); a token nobody has costs a counter, not an entry, because anybody can send one.
"""

from collections.abc import Callable
from datetime import datetime

from deployments.api.denials import Denials
from deployments.api.login import LoggedIn, utc_now
from deployments.api.session_tokens import SessionTokens, secret_hash
from deployments.api.sessions import Sessions
from deployments.api.tokens import Claims, Refusal
from deployments.api.trail import Trail
from registry.contract import Principal
from registry.errors import Conflict, Unauthenticated
from registry.events import (
    ANONYMOUS,
    Actor,
    AuditAction,
    AuditOutcome,
    Change,
    FamilyRevoked,
    TokenRevoked,
)
from storage.accounts import Account, AccountRepository
from storage.database import Database, Session
from storage.sessions import RefreshState, SessionRepository


class Refresh:
    """Renews and ends sessions.

    Args:
        database: Where accounts and tokens are.
        tokens: Makes a session's tokens.
        sessions: Learns what has ended.
        trail: Records.
        denials: Counts what proves nobody's identity.
        now: The clock.
    """

    def __init__(
        self,
        database: Database,
        tokens: SessionTokens,
        sessions: Sessions,
        trail: Trail,
        denials: Denials,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database
        self._tokens = tokens
        self._sessions = sessions
        self._trail = trail
        self._denials = denials
        self._now = now

    async def __call__(self, token: str, *, request_id: str) -> LoggedIn:
        """The session's next tokens.

        Raises:
            Unauthenticated: The token is not good. Never says more.
            DatabaseUnavailable: It cannot be looked up.
            AuditUnavailable: It could not be recorded, so there are no tokens.
        """
        spent, now = secret_hash(token), self._now()
        state, account = await self._look_up(spent)
        if state is not None and state.used and not state.revoked:
            await self._reused(state, request_id)
        if state is None or account is None or not _is_good(state, account, now):
            await self._denials.token(Refusal.REFRESH, None, request_id)
            raise _refused()
        pair = self._tokens.renew(state, spent, account.username, at=now)
        try:
            await self._trail.record(
                AuditAction.REFRESHED,
                "A session was renewed.",
                Actor("user", account.user_id, account.role, pair.access.claims.token_id),
                request_id=request_id,
                changes=(pair.issued,),
            )
        except Conflict:
            state, _ = await self._look_up(spent)
            if state is not None and state.used and not state.revoked:
                await self._reused(state, request_id)
            raise _refused() from None
        return LoggedIn(pair, account.role, account.must_change_password)

    async def end(self, principal: Principal, claims: Claims, *, request_id: str) -> None:
        """Log out: revoke the access token, and the session it came from.

        Raises:
            AuditUnavailable: It could not be recorded, so nothing has ended.
        """
        ends = datetime.fromtimestamp(claims.expires_at, self._now().tzinfo)
        changes: list[Change] = [TokenRevoked(claims.token_id, claims.user_id, ends)]
        family = await self._database.read(
            lambda session: SessionRepository(session).family_of(claims.token_id)
        )
        if family is not None:
            changes.append(FamilyRevoked(family, claims.user_id))
        await self._trail.record(
            AuditAction.LOGOUT,
            "A user logged out.",
            Actor.user(principal),
            request_id=request_id,
            changes=tuple(changes),
        )
        self._sessions.revoke(claims)

    async def _look_up(self, token_hash: bytes) -> tuple[RefreshState | None, Account | None]:
        async def found(session: Session) -> tuple[RefreshState | None, Account | None]:
            state = await SessionRepository(session).refresh_token(token_hash)
            if state is None:
                return None, None
            return state, await AccountRepository(session).by_id(state.user_id)

        return await self._database.read(found)

    async def _reused(self, state: RefreshState, request_id: str) -> None:
        """End the session: either its owner or a thief has come second, and nobody knows which."""
        await self._trail.record(
            AuditAction.REFRESH_REUSED,
            "A refresh token came a second time; its session was ended.",
            ANONYMOUS,
            outcome=AuditOutcome.DENIED,
            request_id=request_id,
            context={"account": str(state.user_id), "family": str(state.family_id)},
            changes=(FamilyRevoked(state.family_id, state.user_id),),
        )
        await self._sessions.refresh()
        raise _refused()


def _is_good(state: RefreshState, account: Account, now: datetime) -> bool:
    return (
        not state.used
        and not state.revoked
        and now < min(state.expires_at, state.family_expires_at)
        and account.disabled_at is None
    )


def _refused() -> Unauthenticated:
    return Unauthenticated("the refresh token is not good: log in again")
