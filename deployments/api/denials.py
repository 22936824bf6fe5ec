"""What was denied, in the audit log, capped.

A caller who is refused a thousand times a minute would else fill a log that is kept for years. Each
user's first denials of a window have an entry each, the rest of them are one entry at the window's
end; tokens that prove nobody's identity are only counted, one entry a window.
"""

import asyncio
import contextvars
from collections import Counter
from typing import Final
from uuid import UUID

from deployments.api.permissions import Permission
from deployments.api.tokens import Claims, Refusal
from deployments.api.trail import Trail
from registry.contract import Principal
from registry.events import ANONYMOUS, Actor, AuditAction, ContextValue

WINDOW_S: Final = 60.0
SINGLY: Final = 20  # denials of one user in one window that have an entry each

# The token was ours and unspoilt: the caller is known, though not let in.
_IDENTIFIED: Final = frozenset({Refusal.REVOKED, Refusal.SUPERSEDED, Refusal.DISABLED})


class Denials:
    """Counts and records denials. One a gateway.

    Args:
        trail: Where entries go.
        window_s: How long is counted before what exceeded the cap is recorded.
    """

    def __init__(self, trail: Trail, *, window_s: float = WINDOW_S) -> None:
        self._trail = trail
        self._window_s = window_s
        self._anonymous: Counter[Refusal] = Counter()
        self._users: Counter[UUID] = Counter()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Record what exceeded the cap at the end of each window, from now on."""
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._summarise_for_ever(), context=contextvars.Context())

    async def close(self) -> None:
        """Record what is still counted, and stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.summarise()

    async def token(self, refusal: Refusal, claims: Claims | None, request_id: str) -> None:
        """A token was not accepted."""
        if claims is None or refusal not in _IDENTIFIED:
            self._anonymous[refusal] += 1
            return
        if self._is_single(claims.user_id):
            await self._trail.attempt(
                AuditAction.TOKEN_REJECTED,
                "An access token of a known user was refused.",
                Actor("user", claims.user_id, token_id=claims.token_id),
                request_id=request_id,
                context={"reason": refusal.value},
            )

    async def forbidden(
        self, principal: Principal, permission: Permission | None, request_id: str
    ) -> None:
        """A user asked for what the role does not hold."""
        await self._of_user(principal, request_id, {"permission": str(permission)})

    async def hidden(self, principal: Principal, kind: str, id_: UUID, request_id: str) -> None:
        """A user asked for somebody else's thing, and was told that there is none."""
        await self._of_user(principal, request_id, {"kind": kind, "id": str(id_)})

    async def summarise(self) -> None:
        """Record what exceeded the cap, and begin a new window."""
        anonymous, self._anonymous = self._anonymous, Counter()
        users, self._users = self._users, Counter()
        if anonymous:
            await self._trail.attempt(
                AuditAction.TOKEN_REJECTED,
                "Access tokens that prove nobody's identity were refused.",
                ANONYMOUS,
                context={
                    "count": anonymous.total(),
                    "reasons": {str(why): n for why, n in sorted(anonymous.items())},
                },
            )
        for user_id, count in users.items():
            if count > SINGLY:
                await self._trail.attempt(
                    AuditAction.ACCESS_DENIED,
                    "Further requests of a user were denied.",
                    Actor("user", user_id),
                    context={"count": count - SINGLY},
                )

    async def _of_user(
        self, principal: Principal, request_id: str, context: dict[str, ContextValue]
    ) -> None:
        if self._is_single(principal.user_id):
            await self._trail.attempt(
                AuditAction.ACCESS_DENIED,
                "A user asked for what is not permitted.",
                Actor.user(principal),
                request_id=request_id,
                context=context,
            )

    def _is_single(self, user_id: UUID) -> bool:
        self._users[user_id] += 1
        return self._users[user_id] <= SINGLY

    async def _summarise_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._window_s)
            await self.summarise()
