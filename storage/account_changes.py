"""What an event changes in accounts and sessions, in the transaction that records it.

Rules this file keeps:

- Events that change something are recorded one group at a time, with the log's tip locked, so what
  is read here stays true until the commit: there is no last administrator to race for.
- Every access token has a row with its refresh token. What ends a user's sessions therefore lists
  each of their living access tokens as revoked, beside moving `tokens_valid_after`, and does not
  depend on how far apart the gateways' clocks are.
- A secret is here as its SHA-256 or its Argon2id string, and neither reaches the audit log.
"""

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from registry.contract import Role
from registry.errors import Conflict, NotFound, Violation
from registry.events import (
    AccountChange,
    FamilyRevoked,
    NewUser,
    PasswordSet,
    RefreshIssued,
    ResetIssued,
    TokenRevoked,
    UserDisabled,
    UserEnabled,
    UserRoleChanged,
    UserUnlocked,
)
from storage.hashchain import Json
from storage.records import rfc3339
from storage.tables import PasswordReset, RefreshToken, RevokedToken, User
from storage.upsert import insert_if_absent

_CLOCKS_APART: Final = timedelta(hours=1)  # how long what has ended stays listed, for slow clocks


async def apply_to_accounts(
    session: AsyncSession, change: AccountChange, *, at: datetime
) -> dict[str, Json]:
    """Do `change` and say what it did, as a part of the audit payload.

    Raises:
        Conflict: The present state stands in the way.
        NotFound: No such user.
    """
    match change:
        case NewUser():
            said = await _new_user(session, change, at)
        case TokenRevoked():
            said = await _token_revoked(session, change, at)
        case RefreshIssued():
            said = await _refresh_issued(session, change, at)
        case FamilyRevoked():
            said = await _family_revoked(session, change, at)
        case ResetIssued():
            said = await _reset_issued(session, change, at)
        case PasswordSet():
            said = await _password_set(session, change, at)
        case _:
            said = await _administered(session, change, at)
    return said


async def _new_user(session: AsyncSession, change: NewUser, at: datetime) -> dict[str, Json]:
    await session.execute(
        insert(User).values(
            id=change.user_id,
            created_at=at,
            username=change.username.lower(),
            email=change.email,
            password_hash=change.password_hash,
            role=change.role,
            must_change_password=change.must_change_password,
        )
    )
    return {
        "kind": "new_user",
        "user_id": str(change.user_id),
        "username": change.username.lower(),
        "role": str(change.role),
        "must_change_password": change.must_change_password,
    }


async def _token_revoked(
    session: AsyncSession, change: TokenRevoked, at: datetime
) -> dict[str, Json]:
    """Revoking twice is no error (RFC 7009, section 2.2). What has ended anyway is cleared away."""
    await session.execute(delete(RevokedToken).where(RevokedToken.expires_at < at - _CLOCKS_APART))
    await _revoke(session, change.token_id, change.user_id, change.expires_at)
    return {
        "kind": "token_revoked",
        "token_id": change.token_id,
        "user_id": str(change.user_id),
        "expires_at": rfc3339(change.expires_at),
    }


async def _refresh_issued(
    session: AsyncSession, change: RefreshIssued, at: datetime
) -> dict[str, Json]:
    user = await _user(session, change.user_id)
    ended_at = user.tokens_valid_after
    if user.disabled_at is not None or (ended_at is not None and ended_at > change.proved_at):
        raise Conflict("the user's sessions have been ended meanwhile")
    if change.replaces is None:
        await session.execute(
            delete(RefreshToken).where(RefreshToken.family_expires_at < at - _CLOCKS_APART)
        )
    else:
        await _spend(session, change.replaces, change.family_id, at)
    await session.execute(
        insert(RefreshToken).values(
            token_hash=change.token_hash,
            family_id=change.family_id,
            user_id=change.user_id,
            issued_at=at,
            expires_at=change.expires_at,
            family_expires_at=change.family_expires_at,
            access_token_id=change.access_token_id,
            access_expires_at=change.access_expires_at,
        )
    )
    return {
        "kind": "refresh_issued",
        "family_id": str(change.family_id),
        "user_id": str(change.user_id),
        "token_id": change.access_token_id,
        "expires_at": rfc3339(change.expires_at),
        "family_expires_at": rfc3339(change.family_expires_at),
    }


async def _spend(session: AsyncSession, token: bytes, family_id: UUID, at: datetime) -> None:
    """Use a token up, in one statement: of two who come with it, one is refused."""
    spent = await session.execute(
        update(RefreshToken)
        .where(
            RefreshToken.token_hash == token,
            RefreshToken.family_id == family_id,
            RefreshToken.used_at.is_(None),
            RefreshToken.revoked_at.is_(None),
        )
        .values(used_at=at)
        .returning(RefreshToken.family_id)
        .execution_options(synchronize_session=False)
    )
    if spent.first() is None:
        raise Conflict("the refresh token is not good any longer")


async def _family_revoked(
    session: AsyncSession, change: FamilyRevoked, at: datetime
) -> dict[str, Json]:
    ended = await _end(session, RefreshToken.family_id == change.family_id, at)
    return {
        "kind": "family_revoked",
        "family_id": str(change.family_id),
        "user_id": str(change.user_id),
        "token_ids": ended,
    }


async def _administered(
    session: AsyncSession,
    change: UserRoleChanged | UserDisabled | UserEnabled | UserUnlocked,
    at: datetime,
) -> dict[str, Json]:
    """What an administrator does to an account."""
    before = await _user(session, change.user_id)
    said: dict[str, Json] = {"user_id": str(change.user_id)}
    match change:
        case UserRoleChanged():
            said |= {"kind": "user_role_changed", "before": before.role, "after": str(change.role)}
            if before.role != change.role:
                await _set(session, change.user_id, role=change.role, tokens_valid_after=at)
                said["token_ids"] = await _end(session, RefreshToken.user_id == before.id, at)
        case UserDisabled():
            said |= {"kind": "user_disabled"}
            if before.disabled_at is None:
                await _set(session, change.user_id, disabled_at=at, tokens_valid_after=at)
                said["token_ids"] = await _end(session, RefreshToken.user_id == before.id, at)
        case UserEnabled():
            said |= {"kind": "user_enabled"}
            await _set(session, change.user_id, disabled_at=None)
        case UserUnlocked():
            said |= {"kind": "user_unlocked", "failures": before.failed_login_attempts}
            await _set(session, change.user_id, failed_login_attempts=0, locked_until=None)
    if isinstance(change, UserRoleChanged | UserDisabled):
        await _keep_an_administrator(session)
    return said


async def _keep_an_administrator(session: AsyncSession) -> None:
    """Raises `Conflict` where the change, undone by it, leaves no enabled administrator."""
    left = await session.scalar(
        select(func.count())
        .select_from(User)
        .where(User.role == Role.ADMIN, User.disabled_at.is_(None))
    )
    if not left:
        raise Conflict(
            "no enabled administrator would be left",
            (Violation("administrators", "0", "at least 1", "make another administrator first"),),
        )


async def _reset_issued(
    session: AsyncSession, change: ResetIssued, at: datetime
) -> dict[str, Json]:
    await _user(session, change.user_id)
    await session.execute(delete(PasswordReset).where(PasswordReset.user_id == change.user_id))
    await session.execute(
        insert(PasswordReset).values(
            user_id=change.user_id,
            token_hash=change.token_hash,
            issued_at=at,
            expires_at=change.expires_at,
        )
    )
    return {
        "kind": "reset_issued",
        "user_id": str(change.user_id),
        "expires_at": rfc3339(change.expires_at),
    }


async def _password_set(
    session: AsyncSession, change: PasswordSet, at: datetime
) -> dict[str, Json]:
    before = await _user(session, change.user_id)
    if change.reset_hash is None and change.replaces != before.password_hash:
        raise Conflict("the password has changed meanwhile")
    ended = await session.execute(  # also where it is not used: the password is known again
        delete(PasswordReset)
        .where(PasswordReset.user_id == change.user_id)
        .returning(PasswordReset.token_hash, PasswordReset.expires_at)
    )
    if change.reset_hash is not None:
        row = ended.first()
        if row is None or row.token_hash != change.reset_hash or row.expires_at <= at:
            raise Conflict("the reset token is not good any longer")
    await _set(
        session,
        change.user_id,
        password_hash=change.password_hash,
        must_change_password=False,
        failed_login_attempts=0,
        locked_until=None,
        tokens_valid_after=change.valid_after,
    )
    return {
        "kind": "password_set",
        "user_id": str(change.user_id),
        "by_reset": change.reset_hash is not None,
        "token_ids": await _end(session, RefreshToken.user_id == change.user_id, at),
    }


async def _end(session: AsyncSession, which: ColumnElement[bool], at: datetime) -> list[Json]:
    """End these refresh tokens and the living access tokens beside them; gives the latter's ids."""
    await session.execute(
        update(RefreshToken)
        .where(which, RefreshToken.revoked_at.is_(None))
        .values(revoked_at=at)
        .execution_options(synchronize_session=False)
    )
    living = await session.execute(
        select(
            RefreshToken.access_token_id, RefreshToken.user_id, RefreshToken.access_expires_at
        ).where(which, RefreshToken.access_expires_at > at - _CLOCKS_APART)
    )
    ended: list[Json] = []
    for token_id, user_id, expires_at in living.all():
        await _revoke(session, token_id, user_id, expires_at)
        ended.append(token_id)
    return ended


async def _revoke(
    session: AsyncSession, token_id: str, user_id: UUID, expires_at: datetime
) -> None:
    await insert_if_absent(
        session, RevokedToken, token_id=token_id, user_id=user_id, expires_at=expires_at
    )


async def _user(session: AsyncSession, user_id: UUID) -> User:
    """The user's row as it stands now. Raises `NotFound`."""
    found = await session.execute(
        select(User).where(User.id == user_id).execution_options(populate_existing=True)
    )
    user = found.scalar_one_or_none()
    if user is None:
        raise NotFound("no such user")
    return user


async def _set(session: AsyncSession, user_id: UUID, **values: object) -> None:
    await session.execute(
        update(User)
        .where(User.id == user_id)
        .values(**values)
        .execution_options(synchronize_session=False)
    )
