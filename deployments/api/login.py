"""The log-in, told to be the same whatever was wrong.

1. look up   the account, or none
2. verify    the password, against a hash nobody knows where there is no account
3. decide    unknown, disabled, locked and wrong are one answer
4. count     the failure, atomically; a failure that does not count costs the same statement
5. record    the audit entry; no token exists before it is committed
6. renew     a hash that costs an attacker less than today's; where that fails, the next log-in does

Rules this file keeps: nothing about the account is looked at before the hash was verified, so that
the time tells nothing; what was typed as a user name is never recorded, because people type their
password there; a caller who leaves early does not keep a failure from being counted.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final
from uuid import uuid4

from deployments.api.passwords import Passwords
from deployments.api.session_tokens import SessionTokens, TokenPair
from deployments.api.trail import Trail
from deployments.telemetry.events import LogEvent
from deployments.telemetry.logs import get_logger
from registry.contract import Role
from registry.errors import Conflict, MedAIError, NotFound, Unauthenticated
from registry.events import ANONYMOUS, Actor, AuditAction, AuditOutcome
from storage.accounts import Account, AccountRepository
from storage.database import Database

RENEWAL_S: Final = 1.0  # of a hash; whoever logs in waits no longer for it


class LoginRefusal(StrEnum):
    """Why a log-in failed. For the audit log only."""

    UNKNOWN = "unknown"
    WRONG = "wrong"
    LOCKED = "locked"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """A successful log-in."""

    tokens: TokenPair
    role: Role
    must_change_password: bool


def utc_now() -> datetime:
    """The system's clock."""
    return datetime.now(UTC)


class Login:
    """Checks passwords and gives tokens.

    Args:
        database: Where the accounts are.
        passwords: Verifies.
        tokens: Makes a session's tokens.
        trail: Records.
        now: The clock.
    """

    def __init__(
        self,
        database: Database,
        passwords: Passwords,
        tokens: SessionTokens,
        trail: Trail,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database
        self._passwords = passwords
        self._tokens = tokens
        self._trail = trail
        self._now = now
        self._log = get_logger()

    async def __call__(self, username: str, password: str, *, request_id: str) -> LoggedIn:
        """Log in.

        Raises:
            Unauthenticated: User and password do not open an account. Never says more.
            Overloaded: Too many log-ins at once.
            DatabaseUnavailable: The accounts cannot be read.
            AuditUnavailable: It could not be recorded, so there is no token.
        """
        started = self._now()
        account = await self._database.read(
            lambda session: AccountRepository(session).for_login(username)
        )
        stored = None if account is None else account.password_hash
        verified = await self._passwords.verify(stored, password)
        refusal = self._refusal(account, right=verified.right)
        if refusal is not None or account is None:
            locks = await self._count(account if refusal is LoginRefusal.WRONG else None)
            await self._record_failure(account, refusal, request_id, locks=locks)
            raise _refused()
        if account.failed_attempts:
            async with self._database.transaction() as session:
                await AccountRepository(session).clear_failures(account.user_id)
        pair = self._tokens.issue(account.user_id, account.username, at=started)
        try:
            await self._trail.record(
                AuditAction.LOGIN_OK,
                "A user logged in.",
                Actor("user", account.user_id, account.role, pair.access.claims.token_id),
                request_id=request_id,
                changes=(pair.issued,),
            )
        except Conflict:  # disabled, or given another password, while the hash was verified
            raise _refused() from None
        reason = await self._renew(account, password) if verified.outdated else None
        self._log.info(LogEvent.LOGIN, user_id=account.user_id, reason=reason)
        return LoggedIn(pair, account.role, account.must_change_password)

    def _refusal(self, account: Account | None, *, right: bool) -> LoginRefusal | None:
        if account is None:
            return LoginRefusal.UNKNOWN
        if account.disabled_at is not None:
            return LoginRefusal.DISABLED
        if account.is_locked(at=self._now()):
            return LoginRefusal.LOCKED
        return None if right else LoginRefusal.WRONG

    async def _renew(self, account: Account, password: str) -> str:
        """Store the password's hash at today's cost, and say whether that was done.

        It is the same password, so no session ends and no entry is made.
        """
        try:
            async with asyncio.timeout(RENEWAL_S):
                renewed = await self._passwords.renewed(password)
                async with self._database.transaction() as session:
                    await AccountRepository(session).renew_hash(
                        account.user_id, account.password_hash, renewed
                    )
        except (MedAIError, TimeoutError):
            return "hash-outdated"
        return "hash-renewed"

    async def _count(self, account: Account | None) -> bool:
        """Count a failure of `account`, or do as much for nobody. Whether it locks the account."""
        try:
            async with self._database.transaction() as session:
                failure = await AccountRepository(session).count_failure(
                    uuid4() if account is None else account.user_id, at=self._now()
                )
        except NotFound:  # nobody has this id
            return False
        return failure.locked_until is not None

    async def _record_failure(
        self, account: Account | None, refusal: LoginRefusal | None, request_id: str, *, locks: bool
    ) -> None:
        await self._trail.record(
            AuditAction.LOGIN_LOCKED if locks else AuditAction.LOGIN_FAILED,
            "A log-in failed and locks the account." if locks else "A log-in failed.",
            ANONYMOUS,
            outcome=AuditOutcome.DENIED,
            request_id=request_id,
            context={
                "reason": str(refusal),
                "account": None if account is None else str(account.user_id),
            },
        )


def _refused() -> Unauthenticated:
    return Unauthenticated("user name or password is wrong, or the account may not log in")
