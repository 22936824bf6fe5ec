"""After the log-in: sessions that are renewed and ended, passwords that are set."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import text

from configs.settings import AuthSettings
from deployments.api.session_tokens import secret_hash
from deployments.api.sessions import Sessions
from registry.errors import AuditUnavailable
from registry.events import AuditAction
from storage.accounts import FREE_FAILURES
from tests.api.house import PASSWORD, House, disable

NEW = "nine green lanterns hum at dusk"


async def log_in(house: House, username: str = "clara", password: str = PASSWORD) -> Any:
    form = {"username": username, "password": password}
    response = await house.client().post("/auth/login", data=form)
    assert response.status_code == 200, response.text
    return response.json()


async def refresh(house: House, token: str) -> httpx2.Response:
    return await house.client().post("/auth/refresh", json={"refresh_token": token})


async def me(house: House, tokens: Any) -> int:
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    return (await house.client().get("/auth/me", headers=headers)).status_code


async def post(house: House, tokens: Any, path: str, body: Any = None) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    return await house.client().post(path, json=body, headers=headers)


async def age(house: House, token: str, column: str) -> None:
    """Let a stored time of a refresh token be past."""
    past = str((datetime.now(UTC) - timedelta(seconds=1)).replace(tzinfo=None))
    statement = f"UPDATE refresh_tokens SET {column} = :past WHERE token_hash = :hash"  # noqa: S608  # a column of ours
    async with house.database.transaction() as session:
        await session.execute(text(statement), {"past": past, "hash": secret_hash(token)})


async def test_a_refresh_token_renews_the_session(house: House) -> None:
    first = await log_in(house)

    renewed = await refresh(house, first["refresh_token"])

    assert renewed.status_code == 200
    second = renewed.json()
    assert second["refresh_token"] != first["refresh_token"]
    assert (second["role"], second["refresh_expires_in"]) == ("clinician", 8 * 3600)
    assert await me(house, second) == 200
    assert await me(house, first) == 200  # it ends by itself
    (entry,) = await house.entries(AuditAction.REFRESHED)
    assert entry["actor"]["id"] == str(house.users["clara"])


async def test_a_refresh_token_is_256_random_bits_stored_as_a_hash(house: House) -> None:
    tokens = await log_in(house)

    async with house.database.reading() as session:
        rows = (await session.execute(text("SELECT token_hash FROM refresh_tokens"))).all()
    assert len(tokens["refresh_token"]) == 43  # 32 bytes in base64url
    assert [bytes(row[0]) for row in rows] == [secret_hash(tokens["refresh_token"])]


async def test_a_token_used_twice_ends_the_whole_session(house: House) -> None:
    first = await log_in(house)
    other = await log_in(house)
    second = (await refresh(house, first["refresh_token"])).json()

    stolen = await refresh(house, first["refresh_token"])

    assert stolen.status_code == 401
    assert [await me(house, tokens) for tokens in (first, second, other)] == [401, 401, 200]
    assert (await refresh(house, second["refresh_token"])).status_code == 401
    (entry,) = await house.entries(AuditAction.REFRESH_REUSED)
    assert (entry["outcome"], entry["context"]["account"]) == (
        "denied",
        str(house.users["clara"]),
    )
    assert len(entry["changes"][0]["token_ids"]) == 2


async def test_a_thief_who_goes_on_trying_fills_no_log(house: House) -> None:
    first = await log_in(house)
    await refresh(house, first["refresh_token"])

    for _ in range(5):
        assert (await refresh(house, first["refresh_token"])).status_code == 401

    assert len(await house.entries(AuditAction.REFRESH_REUSED)) == 1


async def test_of_two_who_come_at_once_at_most_one_goes_on_and_the_session_ends(
    house: House,
) -> None:
    tokens = await log_in(house)

    answers = await asyncio.gather(*(refresh(house, tokens["refresh_token"]) for _ in range(4)))

    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [200, 401, 401, 401]
    (winner,) = [answer.json() for answer in answers if answer.status_code == 200]
    assert await me(house, winner) == 401


@pytest.mark.parametrize("column", ["expires_at", "family_expires_at"])
async def test_a_session_ends_when_it_rests_too_long_and_in_any_case(
    house: House, column: str
) -> None:
    tokens = await log_in(house)
    await age(house, tokens["refresh_token"], column)

    assert (await refresh(house, tokens["refresh_token"])).status_code == 401


async def test_a_family_ends_at_its_time_however_much_it_is_used(
    build: Callable[..., Any],
) -> None:
    house = await build(auth=AuthSettings(refresh_idle_s=3600, refresh_absolute_s=60))

    first = await log_in(house)
    second = (await refresh(house, first["refresh_token"])).json()

    assert first["refresh_expires_in"] == 60
    assert second["refresh_expires_in"] < 60


@pytest.mark.parametrize("token", ["nobody-has-this", "\u00fc"])
async def test_a_token_nobody_has_is_401_and_only_counted(house: House, token: str) -> None:
    response = await refresh(house, token)

    assert response.status_code == 401
    assert await house.entries(AuditAction.REFRESH_REUSED, AuditAction.REFRESHED) == []


async def test_there_are_no_new_tokens_without_an_entry(house: House) -> None:
    tokens = await log_in(house)
    house.trail.refuse = AuditUnavailable("the log is away", retry_after_s=1)

    refused = await refresh(house, tokens["refresh_token"])
    house.trail.refuse = None

    assert refused.status_code == 503
    assert (await refresh(house, tokens["refresh_token"])).status_code == 200


async def test_a_logout_ends_access_and_refresh(house: House) -> None:
    first = await log_in(house)
    second = (await refresh(house, first["refresh_token"])).json()

    assert (await post(house, second, "/auth/logout")).status_code == 204

    await house.services.sessions.refresh()
    assert [await me(house, tokens) for tokens in (first, second)] == [401, 401]
    assert (await refresh(house, second["refresh_token"])).status_code == 401


async def test_a_disabled_user_renews_nothing(house: House) -> None:
    tokens = await log_in(house)
    await disable(house, "clara")

    assert (await refresh(house, tokens["refresh_token"])).status_code == 401


async def test_a_new_password_ends_every_other_session(house: House) -> None:
    here, elsewhere = await log_in(house), await log_in(house)
    body = {"old_password": PASSWORD, "new_password": NEW}

    changed = await post(house, here, "/auth/password", body)

    assert changed.status_code == 200
    assert [await me(house, tokens) for tokens in (here, elsewhere)] == [401, 401]
    assert await me(house, changed.json()) == 200
    assert (await refresh(house, elsewhere["refresh_token"])).status_code == 401
    assert (await refresh(house, changed.json()["refresh_token"])).status_code == 200
    assert (await log_in(house, password=NEW))["role"] == "clinician"
    (entry,) = await house.entries(AuditAction.PASSWORD_CHANGED)
    assert entry["changes"][0]["kind"] == "password_set"


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("wrong", NEW, "old_password"),
        (PASSWORD, "short", "password"),
        (PASSWORD, "password password password", "password"),
        (PASSWORD, PASSWORD, "new_password"),
    ],
)
async def test_a_password_that_is_not_accepted_changes_nothing(
    house: House, old: str, new: str, rule: str
) -> None:
    tokens = await log_in(house)

    refused = await post(
        house, tokens, "/auth/password", {"old_password": old, "new_password": new}
    )

    assert refused.status_code == 422
    assert [violation["rule"] for violation in refused.json()["violations"]] == [rule]
    assert await me(house, tokens) == 200
    assert old not in refused.text
    assert new not in refused.text


async def test_a_stolen_access_token_is_no_way_to_guess_the_password(house: House) -> None:
    tokens = await log_in(house)
    wrong = {"old_password": "wrong", "new_password": NEW}

    for _ in range(FREE_FAILURES + 3):
        await post(house, tokens, "/auth/password", wrong)
    right = await post(
        house, tokens, "/auth/password", {"old_password": PASSWORD, "new_password": NEW}
    )

    assert right.status_code == 422  # locked
    assert len(await house.entries(AuditAction.PASSWORD_REFUSED)) == FREE_FAILURES + 4


async def test_who_must_change_the_password_may_do_only_that(house: House) -> None:
    async with house.database.transaction() as session:
        await session.execute(text("UPDATE users SET must_change_password = 1"))
    await house.services.sessions.refresh()
    tokens = await log_in(house, "ada")
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    client = house.client()

    refused = await client.get("/models", headers=headers)
    administers = await client.get("/admin/users", headers=headers)
    body = {"old_password": PASSWORD, "new_password": NEW}
    changed = await post(house, tokens, "/auth/password", body)

    assert tokens["must_change_password"] is True
    assert (refused.status_code, administers.status_code) == (403, 403)
    assert refused.json()["type"].endswith("/password-expired")
    assert changed.json()["must_change_password"] is False
    headers = {"Authorization": f"Bearer {changed.json()['access_token']}"}
    assert (await client.get("/models", headers=headers)).status_code == 200


async def test_another_gateway_knows_within_a_second(house: House) -> None:
    other = Sessions.of(house.database, AuthSettings())
    await other.start()
    tokens = await log_in(house)
    await other.refresh()
    claims = house.services.tokens.verify(tokens["access_token"].encode())
    assert not isinstance(claims, str)
    before = await other.admit(claims)

    await post(house, tokens, "/auth/logout")
    loop = asyncio.get_running_loop()
    ended = loop.time()
    while await other.admit(claims) == before:  # noqa: ASYNC110  # how long is the question
        await asyncio.sleep(0.01)
    delay_s = loop.time() - ended
    await other.close()

    assert delay_s < 1.0


async def test_the_public_keys_verify_our_tokens(house: House) -> None:
    answer = await house.client().get("/.well-known/jwks.json")

    tokens = await log_in(house)
    keys = jwt.PyJWKSet.from_dict(answer.json())
    key = keys[jwt.get_unverified_header(tokens["access_token"])["kid"]]
    claims = jwt.decode(tokens["access_token"], key, algorithms=["EdDSA"], audience="medai-flow")
    assert isinstance(key.key, Ed25519PublicKey)
    assert UUID(claims["sub"]) == house.users["clara"]
    assert all("d" not in key for key in answer.json()["keys"])
    assert answer.headers["cache-control"] == "public, max-age=300"


@pytest.mark.parametrize("path", ["/auth/refresh", "/auth/reset"])
async def test_secrets_come_as_json_only(house: House, path: str) -> None:
    client = house.client()

    form = await client.post(path, data={"refresh_token": "x"})
    broken = await client.post(path, content=b"{", headers={"Content-Type": "application/json"})
    wrong = await client.post(path, json={"refresh_token": 1, "undeclared": 2})
    large = await client.post(path, json={"refresh_token": "x" * 9000})

    assert [answer.status_code for answer in (form, broken, wrong, large)] == [415, 400, 422, 413]
    assert broken.json()["type"].endswith("/malformed-json")
    assert "undeclared" not in wrong.text
