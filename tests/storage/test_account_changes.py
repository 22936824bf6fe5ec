"""Sessions and accounts as events change them, on both databases."""

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from registry.contract import Receipt, Role
from registry.errors import Conflict, NotFound
from registry.events import (
    AccountChange,
    FamilyRevoked,
    NewUser,
    PasswordSet,
    RefreshIssued,
    ResetIssued,
    UserDisabled,
    UserEnabled,
    UserRoleChanged,
    UserUnlocked,
)
from storage.accounts import Account, AccountRepository, AuthState
from storage.sessions import RefreshState, SessionRepository

if TYPE_CHECKING:
    from conftest import Site

FAMILY = UUID(int=77)


def issued(site: "Site", token: bytes, **fields: Any) -> RefreshIssued:
    """A refresh token whose hash is 32 times `token`."""
    now = site.clock.time
    return RefreshIssued(
        **{
            "token_hash": token * 32,
            "family_id": FAMILY,
            "user_id": site.user_id,
            "access_token_id": f"jti-{token.hex()}",
            "access_expires_at": now + timedelta(minutes=15),
            "expires_at": now + timedelta(hours=8),
            "family_expires_at": now + timedelta(days=7),
            "proved_at": now,
            **fields,
        }
    )


async def token(site: "Site", token: bytes) -> RefreshState:
    async with site.database.reading() as session:
        state = await SessionRepository(session).refresh_token(token * 32)
    assert state is not None
    return state


async def revoked(site: "Site") -> frozenset[str]:
    return (await auth_state(site)).revoked


async def auth_state(site: "Site") -> AuthState:
    async with site.database.reading() as session:
        return await AccountRepository(session).auth_state(at=site.clock.time)


async def account(site: "Site", user_id: UUID | None = None) -> Account:
    async with site.database.reading() as session:
        found = await AccountRepository(session).by_id(user_id or site.user_id)
    assert found is not None
    return found


async def offered(site: "Site", *changes: Any) -> Receipt | Exception:
    (ended,) = await site.offer(site.event(*changes))
    return ended


async def administrator(site: "Site", name: str = "ada") -> UUID:
    user_id = uuid4()
    await site.record(site.event(NewUser(user_id, name, Role.ADMIN, "$argon2id$a")))
    return user_id


async def test_a_refresh_token_is_found_by_its_hash(site: "Site") -> None:
    await site.record(site.event(issued(site, b"a")))

    state = await token(site, b"a")

    assert (state.family_id, state.user_id) == (FAMILY, site.user_id)
    assert (state.used, state.revoked) == (False, False)
    assert state.expires_at < state.family_expires_at
    async with site.database.reading() as session:
        repository = SessionRepository(session)
        assert await repository.family_of("jti-61") == FAMILY
        assert await repository.family_of("jti-0") is None
        assert await repository.refresh_token(b"z" * 32) is None


async def test_a_refresh_token_is_good_once(site: "Site") -> None:
    await site.record(site.event(issued(site, b"a")))

    first = await offered(site, issued(site, b"b", replaces=b"a" * 32))
    second = await offered(site, issued(site, b"c", replaces=b"a" * 32))

    assert isinstance(first, Receipt)
    assert isinstance(second, Conflict)
    assert (await token(site, b"a")).used
    assert not (await token(site, b"b")).used


async def test_of_many_who_come_with_one_token_one_goes_on(site: "Site") -> None:
    await site.record(site.event(issued(site, b"a")))

    ended = await asyncio.gather(
        *(
            offered(site, issued(site, bytes([letter]), replaces=b"a" * 32))
            for letter in range(0x62, 0x6A)
        )
    )

    assert [type(one) for one in ended].count(Receipt) == 1
    assert [type(one) for one in ended].count(Conflict) == 7


async def test_a_revoked_family_ends_with_all_its_access_tokens(site: "Site") -> None:
    await site.record(site.event(issued(site, b"a")))
    await site.record(site.event(issued(site, b"b", replaces=b"a" * 32)))
    await site.record(site.event(issued(site, b"x", family_id=uuid4())))

    await site.record(site.event(FamilyRevoked(FAMILY, site.user_id)))

    assert await revoked(site) == {"jti-61", "jti-62"}
    assert (await token(site, b"b")).revoked
    assert not (await token(site, b"x")).revoked
    refused = await offered(site, issued(site, b"c", replaces=b"b" * 32))
    assert isinstance(refused, Conflict)


@pytest.mark.parametrize("kind", ["role", "disabled", "password"])
async def test_what_changes_a_user_ends_every_session(site: "Site", kind: str) -> None:
    await administrator(site)
    await site.record(
        site.event(issued(site, b"a")), site.event(issued(site, b"x", family_id=uuid4()))
    )
    changes: dict[str, AccountChange] = {
        "role": UserRoleChanged(site.user_id, Role.VIEWER),
        "disabled": UserDisabled(site.user_id),
        "password": PasswordSet(
            site.user_id, "$argon2id$y", site.clock.time, replaces="$argon2id$x"
        ),
    }

    await site.record(site.event(changes[kind]))

    assert await revoked(site) == {"jti-61", "jti-78"}
    assert (await token(site, b"a")).revoked
    valid_after = (await auth_state(site)).users[site.user_id].tokens_valid_after
    assert valid_after is not None


async def test_no_session_begins_that_was_proved_before_all_were_ended(site: "Site") -> None:
    await administrator(site)
    early = issued(site, b"a")
    await site.record(site.event(UserRoleChanged(site.user_id, Role.VIEWER)))
    late = issued(site, b"b")

    assert isinstance(await offered(site, early), Conflict)
    assert isinstance(await offered(site, late), Receipt)


async def test_no_session_begins_of_a_disabled_user(site: "Site") -> None:
    await administrator(site)
    await site.record(site.event(UserDisabled(site.user_id)))

    assert isinstance(await offered(site, issued(site, b"a")), Conflict)
    await site.record(site.event(UserEnabled(site.user_id)))
    assert isinstance(await offered(site, issued(site, b"a")), Receipt)


async def test_the_same_role_again_ends_nothing(site: "Site") -> None:
    await administrator(site)
    await site.record(site.event(issued(site, b"a")))

    await site.record(site.event(UserRoleChanged(site.user_id, Role.CLINICIAN)))

    assert await revoked(site) == frozenset()


@pytest.mark.parametrize("kind", ["role", "disabled"])
async def test_one_enabled_administrator_always_remains(site: "Site", kind: str) -> None:
    ada, bert = await administrator(site), await administrator(site, "bert")

    def change(user_id: UUID) -> UserRoleChanged | UserDisabled:
        return UserRoleChanged(user_id, Role.VIEWER) if kind == "role" else UserDisabled(user_id)

    ended = await asyncio.gather(offered(site, change(ada)), offered(site, change(bert)))

    assert sorted(type(one).__name__ for one in ended) == ["Conflict", "Receipt"]
    async with site.database.reading() as session:
        _, people = await AccountRepository(session).listed(page=1, size=100)
    enabled = [p for p in people if p.role is Role.ADMIN and p.disabled_at is None]
    assert len(enabled) == 1


async def test_an_unlocked_account_has_no_failures(site: "Site") -> None:
    for _ in range(6):
        async with site.database.transaction() as session:
            await AccountRepository(session).count_failure(site.user_id, at=site.clock.time)

    await site.record(site.event(UserUnlocked(site.user_id)))

    found = await account(site)
    assert (found.failed_attempts, found.locked_until) == (0, None)


async def test_nobody_is_changed_who_is_not_there(site: "Site") -> None:
    for change in (UserUnlocked(uuid4()), ResetIssued(b"r" * 32, uuid4(), site.clock.time)):
        assert isinstance(await offered(site, change), NotFound)


async def test_a_reset_token_sets_a_password_once(site: "Site") -> None:
    soon = site.clock.time + timedelta(minutes=15)
    await site.record(site.event(ResetIssued(b"r" * 32, site.user_id, soon)))
    by_reset = PasswordSet(site.user_id, "$argon2id$y", site.clock.time, reset_hash=b"r" * 32)

    first, second = await offered(site, by_reset), await offered(site, by_reset)

    assert isinstance(first, Receipt)
    assert isinstance(second, Conflict)
    assert (await account(site)).password_hash == "$argon2id$y"


async def test_only_the_newest_reset_token_is_good_and_only_in_time(site: "Site") -> None:
    soon = site.clock.time + timedelta(minutes=15)
    await site.record(site.event(ResetIssued(b"r" * 32, site.user_id, soon)))
    await site.record(site.event(ResetIssued(b"s" * 32, site.user_id, soon)))
    now = site.clock.time

    old = await offered(site, PasswordSet(site.user_id, "$y", now, reset_hash=b"r" * 32))
    async with site.database.reading() as session:
        repository = SessionRepository(session)
        in_time = await repository.reset_of(b"s" * 32, at=now)
        too_late = await repository.reset_of(b"s" * 32, at=soon)
    site.clock.time = soon
    late = await offered(site, PasswordSet(site.user_id, "$y", now, reset_hash=b"s" * 32))

    assert isinstance(old, Conflict)
    assert (in_time, too_late) == (site.user_id, None)
    assert isinstance(late, Conflict)
    assert (await account(site)).password_hash == "$argon2id$x"


async def test_a_password_changes_only_from_the_one_that_was_verified(site: "Site") -> None:
    stale = PasswordSet(site.user_id, "$y", site.clock.time, replaces="$argon2id$other")

    assert isinstance(await offered(site, stale), Conflict)
    assert (await account(site)).password_hash == "$argon2id$x"


async def test_what_ended_long_ago_is_cleared_away(site: "Site") -> None:
    await site.record(site.event(issued(site, b"a")))
    site.clock.time += timedelta(days=7, hours=2)

    await site.record(site.event(issued(site, b"b", family_id=uuid4())))

    async with site.database.reading() as session:
        assert await SessionRepository(session).refresh_token(b"a" * 32) is None


async def test_accounts_are_listed_by_name(site: "Site") -> None:
    for name in ("zoe", "ada"):
        await administrator(site, name)

    async with site.database.reading() as session:
        repository = AccountRepository(session)
        total, first = await repository.listed(page=1, size=2)
        _, second = await repository.listed(page=2, size=2)
        with pytest.raises(NotFound):
            await repository.person(uuid4())

    assert total == 3
    assert [person.username for person in first + second] == ["ada", "doe", "zoe"]


async def test_no_secret_reaches_the_log(site: "Site") -> None:
    soon = site.clock.time + timedelta(minutes=15)
    (first,) = await site.record(
        site.event(issued(site, b"a"), ResetIssued(b"r" * 32, site.user_id, soon))
    )
    change = PasswordSet(site.user_id, "$argon2id$y", site.clock.time, reset_hash=b"r" * 32)
    (second,) = await site.record(site.event(change))

    from storage.audit import AuditRepository

    async with site.database.reading() as session:
        recent = await AuditRepository(session).recent(10)
    text = "".join(entry.payload for entry in recent)
    assert first.seq < second.seq
    for secret in ("argon2id$y", (b"a" * 32).hex(), (b"r" * 32).hex(), "aaaaaaaa", "rrrrrrrr"):
        assert secret not in text
