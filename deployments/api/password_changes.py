"""Setting a password: by its owner who knows the old one, or by who holds a reset token.

Rules this file keeps: every session of the user ends with the old password, and the owner goes on
with new tokens; a wrong old password counts as a failed log-in, so that a stolen access token is no
way to guess it; an administrator can give the right to set a password, never set one (21 CFR
11.200(a)(3)); a reset token is good once, for `auth.reset_token_s`, and stored as its SHA-256.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from configs.settings import AuthSettings
from deployments.api.denials import Denials
from deployments.api.login import LoggedIn, utc_now
from deployments.api.passwords import Passwords
from deployments.api.session_tokens import SessionTokens, new_secret, secret_hash
from deployments.api.sessions import Sessions
from deployments.api.tokens import Refusal
from deployments.api.trail import Trail
from registry.contract import Principal
from registry.errors import Conflict, Unauthenticated, ValidationFailed, Violation
from registry.events import Actor, AuditAction, AuditOutcome, PasswordSet, ResetIssued
from storage.accounts import Account, AccountRepository
from storage.database import Database, Session
from storage.sessions import SessionRepository


@dataclass(frozen=True, slots=True)
class ResetToken:
    """A right to set a password once, as it is given out, and the change that makes it good."""

    text: str
    issued: ResetIssued


class PasswordChanges:
    """Sets passwords.

    Args:
        database: Where the accounts are.
        passwords: Verifies and hashes.
        tokens: Makes a session's tokens.
        sessions: Learns what has ended.
        trail: Records.
        denials: Counts what proves nobody's identity.
        settings: How long a reset token is good.
        now: The clock.
    """

    def __init__(
        self,
        database: Database,
        passwords: Passwords,
        tokens: SessionTokens,
        sessions: Sessions,
        trail: Trail,
        denials: Denials,
        settings: AuthSettings,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database
        self._passwords = passwords
        self._tokens = tokens
        self._sessions = sessions
        self._trail = trail
        self._denials = denials
        self._reset_lifetime = timedelta(seconds=settings.reset_token_s)
        self._now = now

    async def change(
        self, principal: Principal, old: str, new: str, *, request_id: str
    ) -> LoggedIn:
        """Set one's own password; gives the tokens of a new session, the only one there is then.

        Raises:
            ValidationFailed: The old password is wrong (or the account is locked, which is not
                told apart), or the new one breaks the policy.
            Overloaded: Too many hashes wait already.
            Unauthenticated: The session has been ended meanwhile.
            AuditUnavailable: It could not be recorded, so nothing has changed.
        """
        account = await self._account(principal.user_id)
        verified = await self._passwords.verify(account.password_hash, old)
        if not verified.right or account.is_locked(at=self._now()):
            await self._refuse(principal, account, request_id)
        if old == new:
            violation = Violation("new_password", advice="choose another than the present one")
            raise ValidationFailed("the password is not accepted", (violation,))
        hashed = await self._passwords.hash(new, username=account.username)
        now = self._now()
        pair = self._tokens.issue(account.user_id, account.username, at=now)
        change = PasswordSet(account.user_id, hashed, now, replaces=account.password_hash)
        try:
            await self._trail.record(
                AuditAction.PASSWORD_CHANGED,
                "A user changed the password.",
                Actor.user(principal),
                request_id=request_id,
                changes=(change, pair.issued),
            )
        except Conflict:
            raise Unauthenticated("the session has been ended meanwhile") from None
        await self._sessions.refresh()
        return LoggedIn(pair, account.role, must_change_password=False)

    async def reset(self, token: str, new: str, *, request_id: str) -> None:
        """Set a password by a reset token.

        Raises:
            Unauthenticated: The token is not good. Never says more.
            ValidationFailed: The password breaks the policy; the token stays good.
            Overloaded: Too many hashes wait already.
            AuditUnavailable: It could not be recorded, so nothing has changed.
        """
        token_hash, now = secret_hash(token), self._now()

        async def whose(session: Session) -> Account | None:
            user_id = await SessionRepository(session).reset_of(token_hash, at=now)
            return None if user_id is None else await AccountRepository(session).by_id(user_id)

        account = await self._database.read(whose)
        if account is None or account.disabled_at is not None:
            await self._denials.token(Refusal.RESET, None, request_id)
            raise _not_good()
        hashed = await self._passwords.hash(new, username=account.username)
        try:
            await self._trail.record(
                AuditAction.PASSWORD_CHANGED,
                "A user set the password by a reset token.",
                Actor("user", account.user_id, account.role),
                request_id=request_id,
                changes=(PasswordSet(account.user_id, hashed, self._now(), reset_hash=token_hash),),
            )
        except Conflict:
            raise _not_good() from None
        await self._sessions.refresh()

    def right(self, user_id: UUID) -> ResetToken:
        """A right for the user to set the password once."""
        text = new_secret()
        issued = ResetIssued(secret_hash(text), user_id, self._now() + self._reset_lifetime)
        return ResetToken(text, issued)

    async def _account(self, user_id: UUID) -> Account:
        account = await self._database.read(
            lambda session: AccountRepository(session).by_id(user_id)
        )
        if account is None or account.disabled_at is not None:
            raise Unauthenticated("the session has been ended meanwhile")
        return account

    async def _refuse(self, principal: Principal, account: Account, request_id: str) -> None:
        """Count the failure and say no. A locked account is not locked for longer."""
        if not account.is_locked(at=self._now()):
            async with self._database.transaction() as session:
                await AccountRepository(session).count_failure(account.user_id, at=self._now())
        await self._trail.record(
            AuditAction.PASSWORD_REFUSED,
            "A user could not say the old password.",
            Actor.user(principal),
            outcome=AuditOutcome.DENIED,
            request_id=request_id,
        )
        violation = Violation("old_password", advice="send the present one, or wait a while")
        raise ValidationFailed("the old password is not right", (violation,))


def _not_good() -> Unauthenticated:
    return Unauthenticated("the reset token is not good: ask an administrator for another")
