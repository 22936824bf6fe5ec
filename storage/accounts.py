"""Accounts as the login and the token check need them, in the caller's transaction.

Locking is soft: after five failures in a row the account waits, 1 s at first, twice as long after
each further failure, never more than 15 minutes and never for good, because a lock that lasts lets
anybody shut anybody out (NIST SP 800-63B-4, section 3.2.2; OWASP ASVS 5.0, 6.3.1). The count is
raised in the database by one statement, so that parallel guesses cannot share a try.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, case, func, literal, null, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from registry.contract import Role
from registry.errors import Conflict, NotFound
from storage.tables import RevokedToken, User, UtcDateTime

FREE_FAILURES = 4  # the next one locks
FIRST_WAIT = timedelta(seconds=1)
LONGEST_WAIT = timedelta(minutes=15)

_PERSON = (
    User.id,
    User.username,
    User.email,
    User.role,
    User.created_at,
    User.must_change_password,
    User.locked_until,
    User.disabled_at,
)


@dataclass(frozen=True, slots=True)
class Account:
    """An account at the door. `password_hash` is an Argon2id string."""

    user_id: UUID
    username: str
    role: Role
    password_hash: str
    must_change_password: bool
    failed_attempts: int
    locked_until: datetime | None
    disabled_at: datetime | None

    def is_locked(self, *, at: datetime) -> bool:
        """Whether a right password would still have to wait."""
        return self.locked_until is not None and at < self.locked_until


@dataclass(frozen=True, slots=True)
class Person:
    """An account as administrators see it."""

    user_id: UUID
    username: str
    email: str | None
    role: Role
    created_at: datetime
    must_change_password: bool
    locked_until: datetime | None
    disabled_at: datetime | None


@dataclass(frozen=True, slots=True)
class Failure:
    """What a failed login led to. `attempts` counts failures in a row."""

    attempts: int
    locked_until: datetime | None


@dataclass(frozen=True, slots=True)
class UserState:
    """What decides, beside the token itself, whether a token is good."""

    user_id: UUID
    role: Role
    disabled: bool
    must_change_password: bool
    tokens_valid_after: datetime | None


@dataclass(frozen=True, slots=True)
class AuthState:
    """The picture a token is checked against: every account, and the tokens ended early."""

    users: dict[UUID, UserState]
    revoked: frozenset[str]


class AccountRepository:
    """The accounts, in the caller's transaction."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def for_login(self, username: str) -> Account | None:
        """The account of this name (compared in lower case), or None: no error tells who exists."""
        return await self._account(User.username == username.lower())

    async def by_id(self, user_id: UUID) -> Account | None:
        """The account with this id, or None."""
        return await self._account(User.id == user_id)

    async def listed(self, *, page: int, size: int) -> tuple[int, list[Person]]:
        """How many accounts there are, and one page of them by name. Pages count from 1."""
        total = await self._session.scalar(select(func.count()).select_from(User))
        found = await self._session.execute(
            select(*_PERSON).order_by(User.username).offset((page - 1) * size).limit(size)
        )
        return total or 0, [_person(row) for row in found]

    async def person(self, user_id: UUID) -> Person:
        """One account as administrators see it. Raises `NotFound`."""
        row = (await self._session.execute(select(*_PERSON).where(User.id == user_id))).first()
        if row is None:
            raise NotFound("no such user")
        return _person(row)

    async def _account(self, which: ColumnElement[bool]) -> Account | None:
        found = await self._session.execute(
            select(
                User.id,
                User.username,
                User.role,
                User.password_hash,
                User.must_change_password,
                User.failed_login_attempts,
                User.locked_until,
                User.disabled_at,
            ).where(which)
        )
        row = found.first()
        if row is None:
            return None
        return Account(
            user_id=row.id,
            username=row.username,
            role=Role(row.role),
            password_hash=row.password_hash,
            must_change_password=row.must_change_password,
            failed_attempts=row.failed_login_attempts,
            locked_until=row.locked_until,
            disabled_at=row.disabled_at,
        )

    async def count_failure(self, user_id: UUID, *, at: datetime) -> Failure:
        """Count one more failed login and lock where it is due. Raises `NotFound`."""
        counted = await self._session.execute(
            update(User)
            .where(User.id == user_id)
            .values(
                failed_login_attempts=User.failed_login_attempts + 1,
                locked_until=case(
                    (User.failed_login_attempts < FREE_FAILURES, null()),
                    *(
                        (
                            User.failed_login_attempts == FREE_FAILURES + doubling,
                            literal(at + FIRST_WAIT * 2**doubling, UtcDateTime()),
                        )
                        for doubling in range((LONGEST_WAIT // FIRST_WAIT).bit_length())
                    ),
                    else_=literal(at + LONGEST_WAIT, UtcDateTime()),
                ),
            )
            .returning(User.failed_login_attempts, User.locked_until)
            .execution_options(synchronize_session=False)
        )
        row = counted.first()
        if row is None:
            raise NotFound("no such account")
        return Failure(row.failed_login_attempts, row.locked_until)

    async def clear_failures(self, user_id: UUID) -> None:
        """Forget the failures: the right password came."""
        await self._session.execute(
            update(User)
            .where(User.id == user_id)
            .values(failed_login_attempts=0, locked_until=None)
            .execution_options(synchronize_session=False)
        )

    async def renew_hash(self, user_id: UUID, before: str, after: str) -> None:
        """Put another hash of the same password in the place of `before`.

        Raises:
            Conflict: Another password was set meanwhile.
        """
        renewed = await self._session.execute(
            update(User)
            .where(User.id == user_id, User.password_hash == before)
            .values(password_hash=after)
            .returning(User.id)
            .execution_options(synchronize_session=False)
        )
        if renewed.first() is None:
            raise Conflict("the password has changed meanwhile")

    async def auth_state(self, *, at: datetime) -> AuthState:
        """Every account's state, and every revoked token that would still be good at `at`."""
        users = await self._session.execute(
            select(
                User.id,
                User.role,
                User.disabled_at,
                User.must_change_password,
                User.tokens_valid_after,
            )
        )
        revoked = await self._session.scalars(
            select(RevokedToken.token_id).where(RevokedToken.expires_at > at)
        )
        return AuthState(
            users={
                row.id: UserState(
                    user_id=row.id,
                    role=Role(row.role),
                    disabled=row.disabled_at is not None,
                    must_change_password=row.must_change_password,
                    tokens_valid_after=row.tokens_valid_after,
                )
                for row in users
            },
            revoked=frozenset(revoked),
        )


def _person(row: Any) -> Person:
    return Person(
        user_id=row.id,
        username=row.username,
        email=row.email,
        role=Role(row.role),
        created_at=row.created_at,
        must_change_password=row.must_change_password,
        locked_until=row.locked_until,
        disabled_at=row.disabled_at,
    )
