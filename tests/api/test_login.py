"""The log-in: one answer to everything that is wrong, and no token without its entry."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx2
import jwt
import pytest
from argon2 import PasswordHasher
from sqlalchemy.ext.asyncio import AsyncSession

from deployments.api.completion import to_completion
from deployments.api.login import Login
from deployments.api.passwords import Verification
from deployments.api.session_tokens import SessionTokens
from deployments.api.trail import Trail
from registry.contract import Receipt
from registry.errors import AuditUnavailable, MedAIError
from registry.events import AuditAction, AuditEvent
from storage.accounts import FREE_FAILURES, AccountRepository
from storage.database import Database
from tests.api.house import PASSWORD, House, disable
from tests.api.scripted import LedgerTrail

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


async def log_in(house: House, username: str, password: str = PASSWORD) -> httpx2.Response:
    form = {"username": username, "password": password}
    return await house.client().post("/auth/login", data=form)


async def lock(house: House, username: str) -> None:
    for _ in range(FREE_FAILURES + 3):  # beyond the first second
        async with house.database.transaction() as session:
            await AccountRepository(session).count_failure(
                house.users[username], at=datetime.now(UTC)
            )


async def test_the_right_password_opens_a_session(house: House) -> None:
    response = await log_in(house, "clara")

    assert response.status_code == 200
    answer = response.json()
    assert (answer["token_type"], answer["expires_in"]) == ("bearer", 900)
    assert (answer["role"], answer["must_change_password"]) == ("clinician", False)
    token = {"Authorization": f"Bearer {answer['access_token']}"}
    me = (await house.client().get("/auth/me", headers=token)).json()
    assert (me["username"], me["role"]) == ("clara", "clinician")
    assert me["user_id"] == str(house.users["clara"])


async def test_the_user_name_is_compared_without_regard_to_case(house: House) -> None:
    assert (await log_in(house, "CLARA")).status_code == 200


async def test_the_entry_is_there_before_the_token(house: House) -> None:
    response = await log_in(house, "clara")

    (entry,) = await house.entries(AuditAction.LOGIN_OK)
    claims = jwt.decode(response.json()["access_token"], options={"verify_signature": False})
    assert entry["actor"]["token"] == claims["jti"]
    assert entry["actor"]["id"] == str(house.users["clara"])
    assert entry["outcome"] == "success"
    assert entry["request_id"] == response.headers["medai-request-id"]


async def test_there_is_no_token_without_an_entry(house: House) -> None:
    house.trail.refuse = AuditUnavailable("the log is away", retry_after_s=1)

    right = await log_in(house, "clara")
    wrong = await log_in(house, "clara", "wrong")

    assert right.status_code == wrong.status_code == 503
    assert right.json()["type"].endswith("/audit-unavailable")
    assert "access_token" not in right.text


async def test_everything_that_is_wrong_is_answered_alike(house: House) -> None:
    await disable(house, "carl")
    await lock(house, "vera")

    answers = [
        await log_in(house, "nobody"),
        await log_in(house, "clara", "wrong"),
        await log_in(house, "vera"),
        await log_in(house, "vera", "wrong"),
        await log_in(house, "carl"),
        await log_in(house, "carl", "wrong"),
    ]

    bodies = [{**answer.json(), "instance": ""} for answer in answers]
    headers = [
        {**answer.headers, "medai-request-id": "", "content-length": ""} for answer in answers
    ]
    assert {answer.status_code for answer in answers} == {401}
    assert [body == bodies[0] for body in bodies] == [True] * 6
    assert [header == headers[0] for header in headers] == [True] * 6
    assert headers[0]["www-authenticate"].startswith("Bearer ")


async def test_only_the_audit_log_knows_why(house: House) -> None:
    await disable(house, "carl")
    await lock(house, "vera")

    for username, password in (
        ("nobody", PASSWORD),
        ("clara", "wrong"),
        ("vera", PASSWORD),
        ("carl", PASSWORD),
    ):
        await log_in(house, username, password)

    entries = await house.entries(AuditAction.LOGIN_FAILED)
    assert [entry["context"]["reason"] for entry in entries] == [
        *("unknown", "wrong", "locked", "disabled")
    ]
    assert [entry["context"]["account"] for entry in entries] == [
        None,
        *(str(house.users[name]) for name in ("clara", "vera", "carl")),
    ]
    assert {entry["actor"]["role"] for entry in entries} == {None}


async def test_what_was_typed_as_a_name_is_not_recorded(house: House) -> None:
    await log_in(house, "my-password-by-mistake")

    entries = await house.entries(AuditAction.LOGIN_FAILED)
    assert "by-mistake" not in str(entries)


async def test_failures_in_a_row_lock_the_account_for_a_while(house: House) -> None:
    for _ in range(FREE_FAILURES):
        await log_in(house, "clara", "wrong")
    assert await house.entries(AuditAction.LOGIN_LOCKED) == []

    await log_in(house, "clara", "wrong")

    (entry,) = await house.entries(AuditAction.LOGIN_LOCKED)
    assert entry["context"]["account"] == str(house.users["clara"])
    assert (await log_in(house, "clara")).status_code == 401


async def test_tries_on_a_locked_account_do_not_lock_it_for_longer(house: House) -> None:
    await lock(house, "clara")
    async with house.database.reading() as session:
        before = await AccountRepository(session).for_login("clara")

    await log_in(house, "clara", "wrong")
    await log_in(house, "clara")

    async with house.database.reading() as session:
        assert await AccountRepository(session).for_login("clara") == before


async def test_a_success_forgets_the_failures(house: House) -> None:
    await log_in(house, "clara", "wrong")

    await log_in(house, "clara")

    async with house.database.reading() as session:
        account = await AccountRepository(session).for_login("clara")
    assert account is not None
    assert account.failed_attempts == 0


async def test_the_lock_ends_by_itself(house: House) -> None:
    await lock(house, "clara")
    services = house.services
    later = Login(
        services.database,
        services.passwords,
        SessionTokens(services.tokens, services.auth),
        Trail(house.trail, timeout_s=5),
        now=lambda: datetime.now(UTC) + timedelta(minutes=16),
    )

    logged_in = await later("clara", PASSWORD, request_id=str(uuid4()))

    assert logged_in.role == "clinician"


async def test_parallel_guesses_are_all_counted(house: House) -> None:
    answers = await asyncio.gather(*(log_in(house, "clara", "wrong") for _ in range(12)))

    assert {answer.status_code for answer in answers} == {401}
    async with house.database.reading() as session:
        account = await AccountRepository(session).for_login("clara")
    assert account is not None
    # The hashes run at once, so all were decided before the lock; none was lost.
    assert account.failed_attempts >= FREE_FAILURES + 1
    assert account.is_locked(at=datetime.now(UTC))


async def test_a_caller_who_leaves_is_counted(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, recorded = asyncio.Event(), asyncio.Event()
    verify, record = house.services.passwords.verify, house.trail.record

    async def tell_start(stored: str | None, password: str) -> Verification:
        started.set()
        return await verify(stored, password)

    async def tell_end(event: AuditEvent) -> Receipt:
        receipt = await record(event)
        recorded.set()
        return receipt

    monkeypatch.setattr(house.services.passwords, "verify", tell_start)
    monkeypatch.setattr(house.trail, "record", tell_end)
    leaving = asyncio.ensure_future(log_in(house, "clara", "wrong"))
    await started.wait()

    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)

    async with asyncio.timeout(5):
        await recorded.wait()
    async with house.database.reading() as session:
        account = await AccountRepository(session).for_login("clara")
    assert account is not None
    assert account.failed_attempts == 1


async def test_everything_that_is_wrong_costs_the_same_work(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await disable(house, "carl")
    await lock(house, "vera")
    await house.services.sessions.close()  # it reads now and then, and would be counted
    work: list[str] = []

    def counted(owner: type, name: str) -> None:
        real = getattr(owner, name)

        def count(*arguments: Any) -> Any:
            work.append(name)
            return real(*arguments)

        monkeypatch.setattr(owner, name, count)

    for owner, name in (
        (Database, "reading"),
        (Database, "transaction"),
        (PasswordHasher, "verify"),
        (AccountRepository, "for_login"),
        (LedgerTrail, "record"),
    ):
        counted(owner, name)
    counted(AsyncSession, "execute")

    done = {}
    for username, password in (
        ("nobody", "wrong"),
        ("clara", "wrong"),
        ("vera", "wrong"),
        ("vera", PASSWORD),
        ("carl", "wrong"),
        ("carl", PASSWORD),
    ):
        work.clear()
        assert (await log_in(house, username, password)).status_code == 401
        done[username, password] = sorted(work)

    assert done["nobody", "wrong"].count("verify") == 1
    assert done["nobody", "wrong"].count("record") == 1
    assert [case for case, its in done.items() if its != done["nobody", "wrong"]] == []


@pytest.mark.parametrize(
    ("body", "rules"),
    [
        ("", ["username", "password"]),
        ("username=clara", ["password"]),
        ("username=&password=", ["username", "password"]),
        ("username=clara&password=x&grant_type=refresh_token", ["grant_type"]),
        ("username=clara&password=x&password=y", ["fields"]),
    ],
)
async def test_an_incomplete_form_is_422(house: House, body: str, rules: list[str]) -> None:
    response = await house.client().post("/auth/login", content=body, headers=FORM)

    assert response.status_code == 422
    assert [violation["rule"] for violation in response.json()["violations"]] == rules


@pytest.mark.parametrize(
    "body",
    [b"username", b"username=\xff&password=x", b"username=%ff&password=x", b"&".join([b"a=b"] * 9)],
)
async def test_a_body_that_is_no_form_is_400(house: House, body: bytes) -> None:
    response = await house.client().post("/auth/login", content=body, headers=FORM)

    assert response.status_code == 400


@pytest.mark.parametrize(
    "content_type", ["application/json", "multipart/form-data; boundary=x", ""]
)
async def test_credentials_come_as_a_form_only(house: House, content_type: str) -> None:
    response = await house.client().post(
        "/auth/login", content=b"{}", headers={"Content-Type": content_type}
    )

    assert response.status_code == 415


async def test_credentials_in_the_query_do_not_count(house: House) -> None:
    response = await house.client().post(
        f"/auth/login?username=clara&password={PASSWORD}", headers=FORM
    )

    assert response.status_code == 422


async def test_a_form_over_8_kb_is_413(house: House) -> None:
    body = "username=clara&password=" + "x" * 9000

    response = await house.client().post("/auth/login", content=body, headers=FORM)

    assert response.status_code == 413


async def test_a_logout_ends_the_token_at_once(house: House) -> None:
    client = house.client("clara")

    ended = await client.post("/auth/logout")

    assert (ended.status_code, ended.content) == (204, b"")
    assert (await client.get("/auth/me")).status_code == 401
    (entry,) = await house.entries(AuditAction.LOGOUT)
    assert entry["actor"]["id"] == str(house.users["clara"])
    assert (await house.client("clara").get("/auth/me")).status_code == 200


async def test_a_logout_that_cannot_be_recorded_is_none(house: House) -> None:
    client = house.client("clara")
    house.trail.refuse = AuditUnavailable("the log is away")

    refused = await client.post("/auth/logout")

    assert refused.status_code == 503
    assert (await client.get("/auth/me")).status_code == 200


async def test_work_goes_on_where_its_caller_leaves_and_nobody_hears_of_its_failure(
    house: House,
) -> None:
    release = asyncio.Event()

    async def work() -> None:
        await release.wait()
        raise MedAIError("nobody waits for this")

    waiting = asyncio.ensure_future(to_completion(work()))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    release.set()
    await asyncio.sleep(0)

    assert waiting.cancelled()
