"""Who is let in at this moment: revocation, roles, standing, and an old picture."""

import asyncio
import contextvars
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from configs.settings import AuthSettings
from deployments.api.sessions import Sessions
from deployments.api.tokens import Claims, Refusal
from registry.contract import Principal, Role
from registry.errors import DatabaseUnavailable
from registry.events import AuditAction, TokenRevoked
from storage.accounts import AuthState, UserState
from tests.api.house import House, disable, end_tokens, in_sql

USER = uuid4()
CLAIMS = Claims(USER, "clara", "token-1", 1_800_000_000.5, 1_800_000_900)
Lines = Callable[[], list[dict[str, Any]]]


class Source:
    """A database whose answer a test sets, with a clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.reads = 0
        self.fault: Exception | None = None
        self.users = {USER: UserState(USER, Role.CLINICIAN, False, False, None)}
        self.revoked: frozenset[str] = frozenset()
        self.gate: asyncio.Event | None = None
        self.begun = asyncio.Event()

    def clock(self) -> float:
        return self.now

    async def read(self) -> AuthState:
        self.reads += 1
        self.begun.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        return AuthState(dict(self.users), self.revoked)


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def sessions(source: Source) -> Sessions:
    return Sessions(source.read, AuthSettings(), source.clock)


async def test_a_good_token_stands_for_its_user_with_the_role_of_this_moment(
    source: Source, sessions: Sessions
) -> None:
    await sessions.refresh()

    assert await sessions.admit(CLAIMS) == Principal(USER, "clara", Role.CLINICIAN, "token-1")
    source.users[USER] = UserState(USER, Role.VIEWER, False, False, None)
    await sessions.refresh()
    assert await sessions.admit(CLAIMS) == Principal(USER, "clara", Role.VIEWER, "token-1")


async def test_nobody_is_let_in_before_the_first_picture(sessions: Sessions) -> None:
    assert sessions.age_s is None

    with pytest.raises(DatabaseUnavailable) as caught:
        await sessions.admit(CLAIMS)

    assert caught.value.retry_after_s == 1


async def test_nobody_is_let_in_by_an_old_picture(source: Source, sessions: Sessions) -> None:
    await sessions.refresh()
    source.now = 5.0
    assert isinstance(await sessions.admit(CLAIMS), Principal)

    source.now = 5.001

    with pytest.raises(DatabaseUnavailable):
        await sessions.admit(CLAIMS)


async def test_the_age_counts_from_when_the_reading_began(
    source: Source, sessions: Sessions
) -> None:
    source.gate = asyncio.Event()
    reading = asyncio.ensure_future(sessions.refresh())
    await source.begun.wait()
    source.now = 3.0
    source.gate.set()
    await reading

    assert sessions.age_s == 3.0


@pytest.mark.parametrize(
    ("user", "refusal"),
    [
        (UserState(USER, Role.ADMIN, True, False, None), Refusal.DISABLED),
        (
            UserState(USER, Role.ADMIN, False, False, datetime.fromtimestamp(1_800_000_000.6, UTC)),
            Refusal.SUPERSEDED,
        ),
    ],
)
async def test_a_users_standing_counts(
    source: Source, sessions: Sessions, user: UserState, refusal: Refusal
) -> None:
    source.users[USER] = user
    await sessions.refresh()

    assert await sessions.admit(CLAIMS) is refusal


async def test_a_token_issued_just_after_all_were_ended_is_good(
    source: Source, sessions: Sessions
) -> None:
    ended = datetime.fromtimestamp(CLAIMS.issued_at, UTC)
    source.users[USER] = UserState(USER, Role.ADMIN, False, False, ended)
    await sessions.refresh()

    assert isinstance(await sessions.admit(CLAIMS), Principal)


async def test_a_revoked_token_is_refused_here_at_once_and_by_the_picture_later(
    source: Source, sessions: Sessions
) -> None:
    await sessions.refresh()

    sessions.revoke(CLAIMS)

    assert await sessions.admit(CLAIMS) is Refusal.REVOKED
    await sessions.refresh()  # a picture read before the revocation was committed
    assert await sessions.admit(CLAIMS) is Refusal.REVOKED
    source.revoked = frozenset({CLAIMS.token_id})
    await sessions.refresh()
    assert await sessions.admit(CLAIMS) is Refusal.REVOKED
    assert sessions._revoked_here == {}


async def test_a_user_made_since_the_picture_is_looked_for_once(
    source: Source, sessions: Sessions
) -> None:
    await sessions.refresh()
    new = uuid4()
    source.users[new] = UserState(new, Role.VIEWER, False, False, None)

    admitted = await sessions.admit(replace(CLAIMS, user_id=new))

    assert isinstance(admitted, Principal)
    assert await sessions.admit(replace(CLAIMS, user_id=uuid4())) is Refusal.UNKNOWN_USER
    assert source.reads == 3


async def test_readings_that_are_asked_for_at_once_are_one(
    source: Source, sessions: Sessions
) -> None:
    await asyncio.gather(*(sessions.refresh() for _ in range(50)))

    assert source.reads == 1


async def test_a_reading_does_not_end_with_whoever_asked_for_it(
    source: Source, sessions: Sessions
) -> None:
    source.gate = asyncio.Event()
    first = asyncio.ensure_future(sessions.refresh())
    second = asyncio.ensure_future(sessions.refresh())
    await source.begun.wait()

    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    source.gate.set()
    await second

    assert sessions.age_s is not None


async def test_a_reading_is_outside_of_the_requests_context(
    source: Source, sessions: Sessions
) -> None:
    mark = contextvars.ContextVar("mark", default="empty")
    seen = []

    async def read() -> AuthState:
        seen.append(mark.get())
        return await source.read()

    mark.set("request")
    await Sessions(read, AuthSettings()).refresh()

    assert seen == ["empty"]


async def test_the_picture_is_refreshed_by_itself(source: Source) -> None:
    sessions = Sessions(source.read, AuthSettings(state_refresh_s=0.01))
    await sessions.start()
    enough = asyncio.Event()

    async def read() -> AuthState:
        if source.reads > 3:
            enough.set()
        return await source.read()

    sessions._read = read

    async with asyncio.timeout(5):
        await enough.wait()

    await sessions.close()
    await sessions.close()


async def test_an_outage_is_told_once_and_its_end_once(
    source: Source, sessions: Sessions, lines: Lines
) -> None:
    source.fault = DatabaseUnavailable("away")
    for _ in range(3):
        await sessions._try_to_refresh()
    source.fault = None
    for _ in range(3):
        await sessions._try_to_refresh()

    assert [line["event"] for line in lines()] == ["auth_state_stale", "auth_state_fresh"]


async def test_an_unforeseen_fault_does_not_end_the_refreshing(
    source: Source, sessions: Sessions, lines: Lines
) -> None:
    source.fault = ValueError("DOE^JOHN")

    await sessions.start()
    source.fault = None
    await sessions._try_to_refresh()

    assert isinstance(await sessions.admit(CLAIMS), Principal)
    (line,) = lines()
    assert line["error"] == "ValueError"
    assert "DOE" not in str(line)
    await sessions.close()


async def test_closing_before_the_start_is_no_error(sessions: Sessions) -> None:
    await sessions.close()


# Through the whole house, on the real database.


async def test_a_disabled_user_is_out_with_the_next_picture(house: House) -> None:
    client = house.client("clara")
    assert (await client.get("/auth/me")).status_code == 200

    await disable(house, "clara")
    await house.services.sessions.refresh()

    assert (await client.get("/auth/me")).status_code == 401


async def test_a_changed_role_counts_with_the_next_picture(house: House) -> None:
    client = house.client("ada")
    assert (await client.get("/admin/secure")).status_code == 200

    await in_sql(house, "UPDATE users SET role = 'viewer' WHERE id = :id AND :now = :now", "ada")
    await house.services.sessions.refresh()

    assert (await client.get("/admin/secure")).status_code == 403


async def test_ending_a_users_tokens_spares_the_next_one(house: House) -> None:
    before = house.client("clara")
    await end_tokens(house, "clara")
    after = house.client("clara")
    await house.services.sessions.refresh()

    assert (await before.get("/auth/me")).status_code == 401
    assert (await after.get("/auth/me")).status_code == 200


async def test_a_token_revoked_on_another_gateway_is_refused_within_a_second(
    house: House,
) -> None:
    client = house.client("clara")
    (claims,) = [
        claims
        for claims in [house.services.tokens.verify(client.headers["Authorization"][7:].encode())]
        if isinstance(claims, Claims)
    ]
    ends = datetime.fromtimestamp(claims.expires_at, UTC)
    await house.record(
        AuditAction.LOGOUT, TokenRevoked(claims.token_id, house.users["clara"], ends)
    )

    async with asyncio.timeout(1.0):
        while (await client.get("/auth/me")).status_code != 401:  # noqa: ASYNC110  # as a caller sees it
            await asyncio.sleep(0.02)


async def test_a_stale_picture_is_503_and_health_still_answers(house: House) -> None:
    await house.services.sessions.close()
    house.services.sessions._read_at = -1e9

    response = await house.client("clara").get("/auth/me")

    assert response.status_code == 503
    assert response.json()["type"].endswith("/database-unavailable")
    assert response.headers["retry-after"] == "1"
    assert (await house.client().get("/health/live")).status_code == 200


async def test_the_cached_token_of_a_revoked_session_is_refused(house: House) -> None:
    client = house.client("clara")
    for _ in range(3):
        assert (await client.get("/auth/me")).status_code == 200

    await client.post("/auth/logout")

    for _ in range(3):
        assert (await client.get("/auth/me")).status_code == 401
