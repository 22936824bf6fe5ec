"""Accounts, by administrators: nobody changes the own, no password passes through their hands."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from registry.contract import Role
from registry.errors import AuditUnavailable
from registry.events import AuditAction, NewUser
from storage.accounts import AccountRepository
from tests.api.house import PASSWORD, House

NEW = "nine green lanterns hum at dusk"


async def log_in(house: House, username: str, password: str) -> int:
    form = {"username": username, "password": password}
    return (await house.client().post("/auth/login", data=form)).status_code


async def reset(house: House, token: str, password: str = NEW) -> Any:
    body = {"reset_token": token, "new_password": password}
    return await house.client().post("/auth/reset", json=body)


def of(house: House, username: str) -> str:
    return f"/admin/users/{house.users[username]}"


async def test_accounts_are_listed_and_the_look_is_recorded(house: House) -> None:
    answer = await house.client("ada").get("/admin/users?size=3")

    page = answer.json()
    assert [user["username"] for user in page["items"]] == ["ada", "carl", "clara"]
    assert (page["total"], page["page"], page["size"]) == (4, 1, 3)
    assert page["links"]["next"] == "/admin/users?page=2&size=3"
    assert "password" not in str(sorted(page["items"][0])).replace("must_change_password", "")
    (entry,) = await house.entries(AuditAction.USERS_LISTED)
    assert entry["context"]["count"] == 3


async def test_a_new_user_sets_the_password_and_nobody_else_knows_it(house: House) -> None:
    body = {"username": "Rivera", "role": "clinician", "email": "rivera@hospital.example"}

    added = await house.client("ada").post("/admin/users", json=body)

    assert added.status_code == 201
    user, token = added.json()["user"], added.json()["reset_token"]
    assert (user["username"], user["role"]) == ("rivera", "clinician")
    assert await log_in(house, "rivera", PASSWORD) == 401
    assert (await reset(house, token)).status_code == 204
    assert await log_in(house, "rivera", NEW) == 200
    *_, entry = await house.entries(AuditAction.USER_CREATED)
    assert entry["actor"]["id"] == str(house.users["ada"])
    assert token not in str(entry)
    assert "rivera@" not in str(entry)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"username": "CARL", "role": "viewer"}, 409),
        ({"username": "x" * 65, "role": "viewer"}, 422),
        ({"username": "a b", "role": "viewer"}, 422),
        ({"username": "ok", "role": "emperor"}, 422),
        ({"username": "ok", "role": "viewer", "password": PASSWORD}, 422),
        ({"username": "ok", "role": "viewer", "email": "none"}, 422),
        ([], 422),
    ],
)
async def test_an_account_that_cannot_be_is_refused(house: House, body: Any, status: int) -> None:
    answer = await house.client("ada").post("/admin/users", json=body)

    assert answer.status_code == status
    assert PASSWORD not in answer.text
    assert "emperor" not in answer.text


async def test_a_changed_role_counts_at_once_and_ends_the_sessions(house: House) -> None:
    clara = house.client("clara")

    changed = await house.client("ada").patch(of(house, "clara"), json={"role": "viewer"})

    assert (changed.status_code, changed.json()["role"]) == (200, "viewer")
    assert (await clara.get("/auth/me")).status_code == 401
    assert (await house.client("clara").get("/auth/me")).json()["role"] == "viewer"
    (entry,) = await house.entries(AuditAction.USER_ROLE_CHANGED)
    assert (entry["changes"][0]["before"], entry["changes"][0]["after"]) == ("clinician", "viewer")


async def test_a_disabled_account_is_closed_and_can_be_opened(house: House) -> None:
    admin, clara = house.client("ada"), house.client("clara")

    disabled = await admin.patch(of(house, "clara"), json={"disabled": True})
    while_disabled = await log_in(house, "clara", PASSWORD)
    enabled = await admin.patch(of(house, "clara"), json={"disabled": False})

    assert disabled.json()["disabled_at"] is not None
    assert while_disabled == 401
    assert enabled.json()["disabled_at"] is None
    assert (await clara.get("/auth/me")).status_code == 401  # what was ended stays ended
    assert await log_in(house, "clara", PASSWORD) == 200
    assert len(await house.entries(AuditAction.USER_DISABLED, AuditAction.USER_ENABLED)) == 2


async def test_a_locked_account_can_be_unlocked(house: House) -> None:
    for _ in range(8):
        async with house.database.transaction() as session:
            await AccountRepository(session).count_failure(
                house.users["clara"], at=datetime.now(UTC)
            )
    locked = await log_in(house, "clara", PASSWORD)

    unlocked = await house.client("ada").patch(of(house, "clara"), json={"locked": False})

    assert locked == 401
    assert unlocked.json()["locked_until"] is None
    assert await log_in(house, "clara", PASSWORD) == 200
    (entry,) = await house.entries(AuditAction.LOGIN_UNLOCKED)
    assert entry["changes"][0]["failures"] == 8


@pytest.mark.parametrize(
    "body", [{}, {"role": "viewer", "disabled": True}, {"locked": True}, {"role": None}]
)
async def test_one_request_is_one_change(house: House, body: Any) -> None:
    answer = await house.client("ada").patch(of(house, "clara"), json=body)

    assert answer.status_code == 422


async def test_nobody_changes_the_own_account(house: House) -> None:
    admin = house.client("ada")

    answers = [
        *[
            await admin.patch(of(house, "ada"), json=body)
            for body in ({"role": "viewer"}, {"disabled": True}, {"locked": False})
        ],
        await admin.post(f"{of(house, 'ada')}/reset"),
    ]

    assert [answer.status_code for answer in answers] == [409] * 4


async def test_an_administrator_can_close_another_but_never_the_last(house: House) -> None:
    bert = uuid4()
    house.users["bert"] = bert
    await house.record(AuditAction.USER_CREATED, NewUser(bert, "bert", Role.ADMIN, "$argon2id$"))
    of_bert = house.client("bert")

    first = await of_bert.patch(of(house, "ada"), json={"disabled": True})
    second = await house.client("ada").patch(of(house, "bert"), json={"disabled": True})

    assert first.status_code == 200
    assert second.status_code == 401  # disabled by then; storage has the race itself


async def test_what_is_not_there_is_404(house: House) -> None:
    admin = house.client("ada")

    assert (await admin.patch(f"/admin/users/{uuid4()}", json={"locked": False})).status_code == 404
    assert (await admin.post(f"/admin/users/{uuid4()}/reset")).status_code == 404
    assert (await admin.patch("/admin/users/x", json={"locked": False})).status_code == 422


async def test_a_reset_token_is_good_once_and_ends_the_sessions(house: House) -> None:
    clara = house.client("clara")
    issued = (await house.client("ada").post(f"{of(house, 'clara')}/reset")).json()
    before = await log_in(house, "clara", PASSWORD)

    weak = await reset(house, issued["reset_token"], "short")
    done = await reset(house, issued["reset_token"])
    again = await reset(house, issued["reset_token"])

    assert before == 200  # until then, the old one is good
    assert [answer.status_code for answer in (weak, done, again)] == [422, 204, 401]
    assert (await clara.get("/auth/me")).status_code == 401
    assert await log_in(house, "clara", PASSWORD) == 401
    assert await log_in(house, "clara", NEW) == 200
    left = datetime.fromisoformat(issued["expires_at"]) - datetime.now(UTC)
    assert 880 < left.total_seconds() <= 900
    (entry,) = await house.entries(AuditAction.RESET_ISSUED)
    assert issued["reset_token"] not in str(entry)


async def test_a_newer_reset_token_ends_the_older(house: House) -> None:
    admin = house.client("ada")
    older = (await admin.post(f"{of(house, 'clara')}/reset")).json()["reset_token"]
    newer = (await admin.post(f"{of(house, 'clara')}/reset")).json()["reset_token"]

    assert (await reset(house, older)).status_code == 401
    assert (await reset(house, newer)).status_code == 204


async def test_a_disabled_user_sets_no_password(house: House) -> None:
    admin = house.client("ada")
    token = (await admin.post(f"{of(house, 'clara')}/reset")).json()["reset_token"]
    await admin.patch(of(house, "clara"), json={"disabled": True})

    assert (await reset(house, token)).status_code == 401


async def test_nothing_is_done_that_cannot_be_recorded(house: House) -> None:
    admin = house.client("ada")
    house.trail.refuse = AuditUnavailable("the log is away", retry_after_s=1)

    answers = [
        await admin.get("/admin/users"),
        await admin.post("/admin/users", json={"username": "x", "role": "viewer"}),
        await admin.patch(of(house, "clara"), json={"disabled": True}),
        await admin.post(f"{of(house, 'clara')}/reset"),
    ]
    house.trail.refuse = None

    assert [answer.status_code for answer in answers] == [503] * 4
    assert await log_in(house, "clara", PASSWORD) == 200
