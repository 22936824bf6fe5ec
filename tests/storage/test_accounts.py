"""Accounts at the door: found, locked and told to the token check."""

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest
from sqlalchemy import update

from registry.contract import Role
from registry.errors import NotFound
from registry.events import NewUser, TokenRevoked
from storage.accounts import Account, AccountRepository, AuthState, Failure
from storage.tables import User

if TYPE_CHECKING:
    from conftest import Site


async def account(site: "Site", username: str = "doe") -> Account | None:
    async with site.database.reading() as session:
        return await AccountRepository(session).for_login(username)


async def fail(site: "Site") -> Failure:
    async with site.database.transaction() as session:
        return await AccountRepository(session).count_failure(site.user_id, at=site.clock.time)


async def auth_state(site: "Site") -> AuthState:
    async with site.database.reading() as session:
        return await AccountRepository(session).auth_state(at=site.clock.time)


async def test_an_account_is_found_by_its_name_in_any_case(site: "Site") -> None:
    found = await account(site, "Doe")

    assert found is not None
    assert (found.user_id, found.username) == (site.user_id, "doe")
    assert (found.role, found.password_hash) == (Role.CLINICIAN, "$argon2id$x")
    assert (found.failed_attempts, found.locked_until, found.disabled_at) == (0, None, None)
    assert not found.must_change_password


async def test_a_name_nobody_has_is_no_error(site: "Site") -> None:
    assert await account(site, "nobody") is None


async def test_a_name_is_kept_in_lower_case(site: "Site") -> None:
    await site.record(site.event(NewUser(uuid4(), "ROE", Role.ADMIN, "x")))

    found = await account(site, "roe")

    assert found is not None
    assert found.username == "roe"


async def test_failures_wait_longer_and_longer_but_never_for_good(site: "Site") -> None:
    failures = [await fail(site) for _ in range(17)]

    assert [failure.attempts for failure in failures] == list(range(1, 18))
    waits = [
        failure.locked_until and (failure.locked_until - site.clock.time).total_seconds()
        for failure in failures
    ]
    assert waits == [None] * 4 + [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]


async def test_a_locked_account_opens_by_itself(site: "Site") -> None:
    for _ in range(5):
        await fail(site)

    found = await account(site)

    assert found is not None
    assert found.is_locked(at=site.clock.time)
    assert not found.is_locked(at=site.clock.time + timedelta(seconds=1))


async def test_parallel_guesses_do_not_share_a_try(site: "Site") -> None:
    failures = await asyncio.gather(*(fail(site) for _ in range(10)))

    assert sorted(failure.attempts for failure in failures) == list(range(1, 11))


async def test_the_right_password_clears_the_failures(site: "Site") -> None:
    for _ in range(6):
        await fail(site)

    async with site.database.transaction() as session:
        await AccountRepository(session).clear_failures(site.user_id)

    found = await account(site)
    assert found is not None
    assert (found.failed_attempts, found.locked_until) == (0, None)


async def test_a_failure_of_nobody_is_not_counted(site: "Site") -> None:
    async with site.database.transaction() as session:
        with pytest.raises(NotFound):
            await AccountRepository(session).count_failure(UUID(int=9), at=site.clock.time)


async def test_the_token_check_sees_accounts_and_revoked_tokens(site: "Site") -> None:
    end = site.clock.time + timedelta(minutes=15)
    await site.record(site.event(TokenRevoked("jti-1", site.user_id, end)))
    async with site.database.transaction() as session:
        await session.execute(update(User).values(disabled_at=end, tokens_valid_after=end))

    state = await auth_state(site)

    [user] = state.users.values()
    assert state.users.keys() == {site.user_id}
    assert (user.user_id, user.role, user.disabled) == (site.user_id, Role.CLINICIAN, True)
    assert user.tokens_valid_after == end
    assert not user.must_change_password
    assert state.revoked == {"jti-1"}


async def test_a_token_that_has_ended_is_forgotten(site: "Site") -> None:
    end = site.clock.time + timedelta(minutes=15)
    await site.record(site.event(TokenRevoked("jti-1", site.user_id, end)))
    site.clock.time += timedelta(minutes=16)
    after_its_end = (await auth_state(site)).revoked
    site.clock.time += timedelta(hours=1)

    await site.record(
        site.event(TokenRevoked("jti-2", site.user_id, site.clock.time + timedelta(minutes=15)))
    )

    assert after_its_end == frozenset()
    site.clock.time -= timedelta(hours=2)
    assert (await auth_state(site)).revoked == {"jti-2"}


async def test_revoking_a_token_twice_is_no_error(site: "Site") -> None:
    revoked = TokenRevoked("jti-1", site.user_id, site.clock.time + timedelta(minutes=15))

    await site.record(site.event(revoked), site.event(revoked))

    assert (await auth_state(site)).revoked == {"jti-1"}
