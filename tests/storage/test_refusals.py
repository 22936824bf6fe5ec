"""Events that are refused: each fails alone, and leaves nothing."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from sqlalchemy import func, select

from registry.contract import Receipt, Role
from registry.errors import Conflict, IllegalTransition, Internal
from registry.events import AuditEvent, NewUser, TokenRevoked
from registry.lifecycle import ModelStatus
from storage.database import Database
from storage.ledger import Ledger
from storage.tables import User
from storage.verify import verify

if TYPE_CHECKING:
    from conftest import Site


def unknown_user(site: "Site") -> AuditEvent:
    return site.bad()


def float_in_context(site: "Site") -> AuditEvent:
    return site.event(context={"score": 0.5})


def illegal_step(site: "Site") -> AuditEvent:
    return site.step(site.model, ModelStatus.REGISTERED, ModelStatus.ACTIVE)


def two_results(site: "Site") -> AuditEvent:
    one, other = site.inference(), site.inference()
    return replace(one, changes=(*one.changes, *other.changes))


def unknown_model(site: "Site") -> AuditEvent:
    return site.inference(model=replace(site.model, id=site.user_id))


BAD = {
    unknown_user: Conflict,
    float_in_context: Internal,
    illegal_step: IllegalTransition,
    two_results: Internal,
    unknown_model: Conflict,
}


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
@pytest.mark.parametrize("place", [0, 5, 7])
async def test_a_bad_event_among_eight_fails_alone(
    database: Database, site: "Site", ledger: Ledger, place: int, make: Any
) -> None:
    events = [site.inference() if number % 2 else site.event() for number in range(8)]
    events[place] = make(site)

    recorded = await ledger.append(events)

    refused = recorded.pop(place)
    assert type(refused) is BAD[make]
    seqs = [receipt.seq for receipt in recorded if isinstance(receipt, Receipt)]
    assert seqs == list(range(seqs[0], seqs[0] + 7))
    assert (await verify(database)).intact


async def test_several_bad_events_fail_alone(
    database: Database, site: "Site", ledger: Ledger
) -> None:
    events = [site.event(), site.bad(), site.bad(), site.inference(), illegal_step(site)]

    recorded = await ledger.append(events)

    assert [type(ended) for ended in recorded] == [
        Receipt,
        Conflict,
        Conflict,
        Receipt,
        IllegalTransition,
    ]
    assert (await verify(database)).intact


async def test_a_refused_event_leaves_none_of_its_changes(
    database: Database, site: "Site", ledger: Ledger
) -> None:
    good = NewUser(site.model.id, "roe", Role.VIEWER, "x")
    bad = TokenRevoked("jti-9", UUID(int=5), site.clock())

    [refused] = await ledger.append([site.event(good, bad)])

    assert isinstance(refused, Conflict)
    async with database.reading() as session:
        assert await session.scalar(select(func.count()).select_from(User)) == 1


async def test_an_idempotency_key_used_again_is_named(site: "Site", ledger: Ledger) -> None:
    await ledger.append([site.inference(idempotency_key="key-1")])

    [refused] = await ledger.append([site.inference(idempotency_key="key-1")])

    assert isinstance(refused, Conflict)
    assert [violation.rule for violation in refused.violations] == ["idempotency_key"]
