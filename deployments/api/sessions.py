"""Which tokens and users are good at this moment, known without asking the database each time.

A picture of the users' roles and standing and of the revoked tokens is read every
`auth.state_refresh_s`, so that a log-out, a changed role or a disabled user counts on every gateway
within that time (ASVS 7.4.1, 7.4.2, 8.3.2); on the gateway where a user logs out, at once.

Fails closed: while the picture is older than `auth.state_max_age_s`, nobody is let in.
"""

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Self

from configs.settings import AuthSettings
from deployments.api.tokens import Claims, Refusal
from deployments.telemetry.events import LogEvent
from deployments.telemetry.logs import get_logger
from registry.contract import Principal
from registry.errors import DatabaseUnavailable, MedAIError
from storage.accounts import AccountRepository, AuthState
from storage.database import Database


class Sessions:
    """The picture of one gateway.

    Args:
        read: Reads the picture. Raises `MedAIError` where it cannot.
        settings: How often, and how old it may be.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[AuthState]],
        settings: AuthSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._every_s = settings.state_refresh_s
        self._max_age_s = settings.state_max_age_s
        self._clock = clock
        self._state = AuthState({}, frozenset())
        self._read_at: float | None = None
        self._revoked_here: dict[str, int] = {}
        self._reading: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._stale = False
        self._log = get_logger()

    @classmethod
    def of(cls, database: Database, settings: AuthSettings) -> Self:
        """Sessions whose picture comes from `database`."""

        async def read() -> AuthState:
            return await database.read(
                lambda session: AccountRepository(session).auth_state(at=datetime.now(UTC))
            )

        return cls(read, settings)

    @property
    def age_s(self) -> float | None:
        """How old the picture is; None before the first."""
        return None if self._read_at is None else self._clock() - self._read_at

    async def start(self) -> None:
        """Read the picture, and go on reading it. Does not fail where the database is away."""
        await self._try_to_refresh()
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._refresh_for_ever(), context=contextvars.Context())

    async def close(self) -> None:
        """Stop reading."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def admit(self, claims: Claims) -> Principal | Refusal:
        """Whom a verified token stands for at this moment, or why for nobody.

        Raises:
            DatabaseUnavailable: The picture is too old to tell.
        """
        answer = self._look_up(claims)
        if answer is Refusal.UNKNOWN_USER:  # perhaps made since the picture was read
            await self.refresh()
            answer = self._look_up(claims)
        return answer

    def revoke(self, claims: Claims) -> None:
        """Refuse this token from now on, ahead of the next picture."""
        self._revoked_here[claims.token_id] = claims.expires_at

    async def refresh(self) -> None:
        """Read the picture now. Calls that come meanwhile share one reading.

        Raises:
            MedAIError: It could not be read.
        """
        if self._reading is None or self._reading.done():
            # Not in the caller's context: a caller who leaves must not end it for the others.
            self._reading = asyncio.get_running_loop().create_task(
                self._refresh(), context=contextvars.Context()
            )
        await asyncio.shield(self._reading)

    def _look_up(self, claims: Claims) -> Principal | Refusal:
        age_s = self.age_s
        if age_s is None or age_s > self._max_age_s:
            raise DatabaseUnavailable("users and sessions cannot be checked", retry_after_s=1)
        if claims.token_id in self._revoked_here or claims.token_id in self._state.revoked:
            return Refusal.REVOKED
        user = self._state.users.get(claims.user_id)
        if user is None:
            return Refusal.UNKNOWN_USER
        if user.disabled:
            return Refusal.DISABLED
        valid_after = user.tokens_valid_after
        if valid_after is not None and claims.issued_at < valid_after.timestamp():
            return Refusal.SUPERSEDED
        return Principal(
            user_id=claims.user_id,
            username=claims.username,
            role=user.role,
            token_id=claims.token_id,
            must_change_password=user.must_change_password,
        )

    async def _refresh(self) -> None:
        started = self._clock()
        self._state = await self._read()
        self._read_at = started  # what changed while it was read may be missing
        ended = [jti for jti in self._revoked_here if jti in self._state.revoked]
        for token_id in ended:  # known to the database by now
            del self._revoked_here[token_id]

    async def _try_to_refresh(self) -> None:
        try:
            await self.refresh()
        except MedAIError:
            self._tell(stale=True)
        except Exception:  # noqa: BLE001  # the loop must outlive every fault, and say so
            self._log.error(LogEvent.AUTH_STATE_STALE, exc_info=True)
        else:
            self._tell(stale=False)

    async def _refresh_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            await self._try_to_refresh()

    def _tell(self, *, stale: bool) -> None:
        """Say once that the picture cannot be read, and once that it can be again."""
        if stale and not self._stale:
            self._log.warning(LogEvent.AUTH_STATE_STALE, age_s=self.age_s)
        elif self._stale and not stale:
            self._log.info(LogEvent.AUTH_STATE_FRESH)
        self._stale = stale
