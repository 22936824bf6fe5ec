"""A password whose hash is cheaper than today's is hashed anew at the next log-in."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.low_level import Type

from configs.settings import AuthSettings
from deployments.api.login import LoggedIn, Login
from deployments.api.passwords import Passwords
from deployments.api.session_tokens import SessionTokens
from deployments.api.trail import Trail
from registry.contract import Role
from registry.errors import DatabaseUnavailable, Overloaded, Unauthenticated
from registry.events import AuditAction, NewUser
from storage.accounts import Account, AccountRepository
from tests.api.house import PASSWORD, SMALL_KIB, House, open_house

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
async def either(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[House]:
    """A house on SQLite and on PostgreSQL; its users' hashes are of `SMALL_KIB`.

    On a busy machine a renewal may take longer than a log-in waits for it.
    """
    monkeypatch.setattr("deployments.api.login.RENEWAL_S", 20.0)
    async with open_house(tmp_path / "medai.db", tmp_path / "keys", url=url) as house:
        capsys.readouterr()
        yield house


def login_of(house: House, memory_kib: int = 2 * SMALL_KIB) -> Login:
    """The log-in of a release whose hashes take so much memory."""
    services = house.services
    return Login(
        services.database,
        Passwords(AuthSettings(), memory_kib=memory_kib),
        SessionTokens(services.tokens, services.auth),
        Trail(house.trail, timeout_s=5),
    )


async def log_in(login: Login, username: str = "clara", password: str = PASSWORD) -> LoggedIn:
    return await login(username, password, request_id=str(uuid4()))


async def account_of(house: House, username: str = "clara") -> Account:
    account = await house.database.read(
        lambda session: AccountRepository(session).for_login(username)
    )
    assert account is not None
    return account


async def test_an_outdated_hash_is_replaced_at_the_log_in_and_the_password_stays(
    either: House, lines: Lines
) -> None:
    before = await account_of(either)
    login = login_of(either)

    await log_in(login)

    after = await account_of(either)
    assert extract_parameters(before.password_hash).memory_cost == SMALL_KIB
    assert extract_parameters(after.password_hash).memory_cost == 2 * SMALL_KIB
    assert (await log_in(login)).role is Role.CLINICIAN
    assert (await account_of(either)).password_hash == after.password_hash  # once is enough
    with pytest.raises(Unauthenticated):
        await log_in(login, password="another one altogether")
    reasons = [line.get("reason") for line in lines() if line["event"] == "login"]
    assert reasons == ["hash-renewed", None]


async def test_no_session_ends_by_it_and_the_log_has_the_log_in_alone(either: House) -> None:
    client = either.client("clara")

    await log_in(login_of(either))
    await either.services.sessions.refresh()

    assert (await client.get("/auth/me")).status_code == 200
    assert len(await either.entries(AuditAction.LOGIN_OK)) == 1
    assert await either.entries(AuditAction.PASSWORD_CHANGED) == []


async def test_a_password_that_todays_policy_would_refuse_is_hashed_anew_all_the_same(
    either: House,
) -> None:
    old = PasswordHasher(time_cost=1, memory_cost=SMALL_KIB, parallelism=1, type=Type.I)
    user = NewUser(uuid4(), "olga", Role.VIEWER, old.hash("short"))
    await either.record(AuditAction.USER_CREATED, user)

    await log_in(login_of(either, SMALL_KIB), "olga", "short")

    assert (await account_of(either, "olga")).password_hash.startswith("$argon2id$")


async def test_a_hash_that_costs_more_than_todays_stays(either: House) -> None:
    before = await account_of(either)

    await log_in(login_of(either, SMALL_KIB // 2))

    assert await account_of(either) == before


async def test_a_wrong_password_changes_no_hash(either: House) -> None:
    before = await account_of(either)

    with pytest.raises(Unauthenticated):
        await log_in(login_of(either), password="wrong")

    assert (await account_of(either)).password_hash == before.password_hash


@pytest.mark.parametrize("error", [Overloaded("busy"), DatabaseUnavailable("away")])
async def test_a_renewal_that_fails_does_not_keep_anybody_out(
    house: House, monkeypatch: pytest.MonkeyPatch, lines: Lines, error: Exception
) -> None:
    async def fail(*_: object) -> None:
        raise error

    owner = Passwords if isinstance(error, Overloaded) else AccountRepository
    monkeypatch.setattr(owner, "renewed" if owner is Passwords else "renew_hash", fail)
    before = await account_of(house)

    assert (await log_in(login_of(house))).role is Role.CLINICIAN

    assert await account_of(house) == before
    (line,) = [line for line in lines() if line["event"] == "login"]
    assert line["reason"] == "hash-outdated"


async def test_a_renewal_that_does_not_end_is_given_up(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(AccountRepository, "renew_hash", hang)

    async with asyncio.timeout(5):
        assert (await log_in(login_of(house))).role is Role.CLINICIAN


async def test_a_password_set_meanwhile_is_not_overwritten(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewed = Passwords.renewed
    other = PasswordHasher(time_cost=1, memory_cost=SMALL_KIB, parallelism=1).hash("another one")

    async def set_another_first(passwords: Passwords, password: str) -> str:
        before = (await account_of(house)).password_hash
        async with house.database.transaction() as session:
            await AccountRepository(session).renew_hash(house.users["clara"], before, other)
        return await renewed(passwords, password)

    monkeypatch.setattr(Passwords, "renewed", set_another_first)

    await log_in(login_of(house))

    assert (await account_of(house)).password_hash == other
