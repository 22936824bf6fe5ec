"""What was denied is in the audit log, and cannot fill it."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

import pytest

from deployments.api.denials import SINGLY, Denials
from deployments.api.tokens import Refusal
from deployments.api.trail import Trail
from registry.contract import Principal, Receipt, Role
from registry.errors import AuditUnavailable, MedAIError
from registry.events import Actor, AuditAction, AuditEvent
from tests.api.house import INFER, JPEG, House, disable

Lines = Callable[[], list[dict[str, Any]]]


class Kept:
    """An audit trail that keeps events in memory; `refuse` makes it fail."""

    def __init__(self) -> None:
        self.events: list[AuditEvent] = []
        self.arrived = asyncio.Event()
        self.refuse = False

    async def record(self, event: AuditEvent) -> Receipt:
        if self.refuse:
            raise AuditUnavailable("away")
        self.events.append(event)
        self.arrived.set()
        return Receipt(event.event_id, len(self.events), b"", "")

    async def record_all(self, events: Sequence[AuditEvent]) -> list[Receipt | MedAIError]:
        return [await self.record(event) for event in events]


async def test_a_forbidden_request_has_an_entry(house: House) -> None:
    response = await house.client("vera").post(INFER, content=b"x", headers=JPEG)

    assert response.status_code == 403
    assert response.json()["detail"] == "this needs the permission inference.create"
    (entry,) = await house.entries(AuditAction.ACCESS_DENIED)
    assert entry["outcome"] == "denied"
    assert entry["actor"]["id"] == str(house.users["vera"])
    assert entry["context"] == {"permission": "inference.create"}
    assert entry["request_id"] == response.headers["medai-request-id"]


async def test_a_known_users_refused_token_has_an_entry(house: House) -> None:
    client = house.client("clara")
    await disable(house, "clara")
    await house.services.sessions.refresh()

    response = await client.get("/auth/me")

    assert response.status_code == 401
    (entry,) = await house.entries(AuditAction.TOKEN_REJECTED)
    assert entry["actor"]["id"] == str(house.users["clara"])
    assert entry["context"] == {"reason": "disabled"}


async def test_a_denial_stays_one_where_it_cannot_be_recorded(house: House, lines: Lines) -> None:
    house.trail.refuse = AuditUnavailable("away")

    response = await house.client("vera").get("/admin/secure")

    assert response.status_code == 403
    (line,) = [line for line in lines() if line["event"] == "audit_failed"]
    assert (line["action"], line["code"]) == ("access.denied", "audit-unavailable")


async def test_tokens_that_name_nobody_are_one_entry(house: House) -> None:
    for authorization in ("", "Bearer a.b.c", "Bearer a.b.c"):
        headers = {"Authorization": authorization} if authorization else {}
        await house.client().get("/auth/me", headers=headers)
    assert await house.entries(AuditAction.TOKEN_REJECTED) == []

    await denials_of(house).summarise()

    (entry,) = await house.entries(AuditAction.TOKEN_REJECTED)
    assert entry["actor"]["kind"] == "anonymous"
    assert entry["context"] == {"count": 3, "reasons": {"absent": 1, "malformed": 2}}


def denials_of(house: House) -> Denials:
    """The gateway's own, as its middleware has it."""
    for middleware in house.app.user_middleware:
        if isinstance(found := middleware.kwargs.get("denials"), Denials):
            return found
    raise AssertionError


async def test_a_user_cannot_fill_the_log() -> None:
    kept = Kept()
    denials = Denials(Trail(kept, timeout_s=5))
    loud = Principal(uuid4(), "loud", Role.VIEWER, "t")
    quiet = Principal(uuid4(), "quiet", Role.VIEWER, "t")

    for _ in range(SINGLY + 30):
        await denials.forbidden(loud, None, "0-0")
    await denials.hidden(quiet, "result", uuid4(), "0-0")
    assert len(kept.events) == SINGLY + 1

    await denials.summarise()

    summary = kept.events[-1]
    assert len(kept.events) == SINGLY + 2
    assert summary.actor == Actor("user", loud.user_id)
    assert summary.context == {"count": 30}


async def test_a_new_window_begins_anew() -> None:
    kept = Kept()
    denials = Denials(Trail(kept, timeout_s=5))
    user = Principal(uuid4(), "loud", Role.VIEWER, "t")
    for _ in range(SINGLY + 1):
        await denials.forbidden(user, None, "0-0")
    await denials.summarise()

    await denials.forbidden(user, None, "0-0")
    await denials.summarise()

    assert len(kept.events) == SINGLY + 2


async def test_windows_end_by_themselves_and_at_the_close() -> None:
    kept = Kept()
    denials = Denials(Trail(kept, timeout_s=5), window_s=0.01)
    denials.start()
    await denials.token(Refusal.EXPIRED, None, "0-0")
    async with asyncio.timeout(5):
        await kept.arrived.wait()
    await denials.token(Refusal.EXPIRED, None, "0-0")

    await denials.close()

    assert [event.context["count"] for event in kept.events] == [1, 1]
    await Denials(Trail(kept, timeout_s=5)).close()


async def test_an_entry_that_takes_too_long_is_an_unavailable_log() -> None:
    class Silent:
        async def record(self, event: AuditEvent) -> Receipt:
            await asyncio.Event().wait()
            return Receipt(event.event_id, 1, b"", "")

        async def record_all(self, events: Sequence[AuditEvent]) -> list[Receipt | MedAIError]:
            return [await self.record(event) for event in events]

    trail = Trail(Silent(), timeout_s=0.01)

    with pytest.raises(AuditUnavailable) as caught:
        await trail.record(AuditAction.LOGOUT, "A user logged out.", Actor("user"))

    assert caught.value.retry_after_s == 1
