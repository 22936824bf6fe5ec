"""What administrators do to accounts, each act with an audit entry of its own name.

Rules this file keeps: nobody changes the own account here, and one enabled administrator always
remains (`storage.account_changes` sees to it); no password passes through an administrator's hands,
only a reset token, shown once.
"""

from uuid import UUID

from uuid_utils.compat import uuid7

from deployments.api.password_changes import PasswordChanges, ResetToken
from deployments.api.passwords import Passwords
from deployments.api.sessions import Sessions
from deployments.api.trail import Trail
from registry.contract import Principal, Role
from registry.errors import Conflict, Violation
from registry.events import (
    Actor,
    AuditAction,
    Change,
    NewUser,
    UserDisabled,
    UserEnabled,
    UserRoleChanged,
    UserUnlocked,
)
from storage.accounts import AccountRepository, Person
from storage.database import Database


class UserAdministration:
    """Lists, adds and changes accounts.

    Args:
        database: Where the accounts are.
        passwords: Makes the hash of an account that has no password yet.
        changes: Gives the right to set a password.
        sessions: Learns what has ended.
        trail: Records.

    Every act raises `AuditUnavailable` where it cannot be recorded; then nothing has changed.
    """

    def __init__(
        self,
        database: Database,
        passwords: Passwords,
        changes: PasswordChanges,
        sessions: Sessions,
        trail: Trail,
    ) -> None:
        self._database = database
        self._passwords = passwords
        self._changes = changes
        self._sessions = sessions
        self._trail = trail

    async def listed(
        self, by: Principal, *, page: int, size: int, request_id: str
    ) -> tuple[int, list[Person]]:
        """How many accounts there are, and one page of them by name; recorded who looked."""
        total, people = await self._database.read(
            lambda session: AccountRepository(session).listed(page=page, size=size)
        )
        await self._trail.record(
            AuditAction.USERS_LISTED,
            "An administrator listed the accounts.",
            Actor.user(by),
            request_id=request_id,
            context={"page": page, "size": size, "count": len(people)},
        )
        return total, people

    async def add(
        self, by: Principal, username: str, role: Role, email: str | None, *, request_id: str
    ) -> tuple[Person, ResetToken]:
        """Add an account that has no password until its owner sets one by the reset token.

        Raises:
            Conflict: The user name or e-mail address is taken.
            Overloaded: Too many hashes wait already.
        """
        # The hash of no password costs what any costs: how long a log-in takes must not tell
        # that the account was never used.
        user = NewUser(
            user_id=uuid7(),
            username=username.lower(),
            role=role,
            password_hash=await self._passwords.unusable(),
            email=email,
        )
        right = self._changes.right(user.user_id)
        said = "An administrator created an account."
        await self._record(AuditAction.USER_CREATED, said, by, request_id, user, right.issued)
        return await self._person(user.user_id), right

    async def set_role(
        self, by: Principal, user_id: UUID, role: Role, *, request_id: str
    ) -> Person:
        """Give another role. Raises as `set_disabled` does."""
        change = UserRoleChanged(user_id, role)
        return await self._change(by, AuditAction.USER_ROLE_CHANGED, change, request_id)

    async def set_disabled(
        self, by: Principal, user_id: UUID, *, disabled: bool, request_id: str
    ) -> Person:
        """Close or open an account.

        Raises:
            Conflict: It is the caller's own, or no enabled administrator would be left.
            NotFound: No such user.
        """
        if disabled:
            change = UserDisabled(user_id)
            return await self._change(by, AuditAction.USER_DISABLED, change, request_id)
        return await self._change(by, AuditAction.USER_ENABLED, UserEnabled(user_id), request_id)

    async def unlock(self, by: Principal, user_id: UUID, *, request_id: str) -> Person:
        """Forget the failed log-ins. Raises as `set_disabled` does."""
        change = UserUnlocked(user_id)
        return await self._change(by, AuditAction.LOGIN_UNLOCKED, change, request_id)

    async def reset(self, by: Principal, user_id: UUID, *, request_id: str) -> ResetToken:
        """Give the right to set the password once. The present one stays good until then.

        Raises:
            Conflict: It is the caller's own, who must know the old password.
            NotFound: No such user.
        """
        _refuse_oneself(by, user_id)
        right = self._changes.right(user_id)
        said = "An administrator gave the right to set a password."
        await self._record(AuditAction.RESET_ISSUED, said, by, request_id, right.issued)
        return right

    async def _change(
        self,
        by: Principal,
        action: AuditAction,
        change: UserRoleChanged | UserDisabled | UserEnabled | UserUnlocked,
        request_id: str,
    ) -> Person:
        _refuse_oneself(by, change.user_id)
        said = "An administrator changed an account."
        await self._record(action, said, by, request_id, change)
        await self._sessions.refresh()
        return await self._person(change.user_id)

    async def _record(
        self, action: AuditAction, said: str, by: Principal, request_id: str, *changes: Change
    ) -> None:
        actor = Actor.user(by)
        await self._trail.record(action, said, actor, request_id=request_id, changes=changes)

    async def _person(self, user_id: UUID) -> Person:
        return await self._database.read(lambda session: AccountRepository(session).person(user_id))


def _refuse_oneself(by: Principal, user_id: UUID) -> None:
    if by.user_id == user_id:
        violation = Violation("user_id", advice="ask another administrator")
        raise Conflict("nobody changes the own account", (violation,))
