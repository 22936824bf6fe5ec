"""Challengers, by administrators through the API: who began what, and what the report says."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from registry.events import AuditAction
from registry.shadow import Tally
from storage.shadows import ShadowRepository
from tests.api.house import House

MODEL = "/admin/models/cxr-pneumonia"


async def test_a_comparison_is_begun_read_and_ended_and_recorded(house: House) -> None:
    ada = house.client("ada")
    await ada.post(f"{MODEL}/0.9.0/approve")

    begun = await ada.post(f"{MODEL}/0.9.0/shadow", json={"share": 0.5})
    again = await ada.post(f"{MODEL}/0.9.0/shadow", json={})
    (started,) = await house.entries(AuditAction.SHADOW_STARTED)
    await counted(house, started["changes"][0]["shadow_id"])
    read = (await ada.get(f"{MODEL}/shadow")).json()
    ended = await ada.post(f"{MODEL}/shadow/end")

    assert begun.status_code == 200
    assert again.status_code == 409
    assert started["actor"]["id"] == str(house.users["ada"])
    assert started["changes"][0]["share"] == "0.500000"
    assert (read["answering"], read["challenger"], read["share"]) == ("1.0.0", "0.9.0", 0.5)
    assert (read["compared"], read["agreed"], read["dropped"]) == (2, 1, 7)
    assert read["agreement"]["rate"] == 0.5
    pair = {"answered": "NORMAL", "challenger": "PNEUMONIA", "count": 1}
    assert pair in read["decisions"]
    assert read["latency_ms"]["p50"] == pytest.approx(3.0, rel=0.26)
    assert ended.json()["ended_at"] is not None
    assert len(await house.entries(AuditAction.SHADOW_ENDED)) == 1
    assert (await ada.post(f"{MODEL}/shadow/end")).status_code == 409


async def counted(house: House, shadow_id: str) -> None:
    """Count two images and seven dropped ones, as a replica would."""
    tally = Tally(dropped=7)
    tally.compare("NORMAL", "NORMAL", 0.0, 3.0)
    tally.compare("NORMAL", "PNEUMONIA", 0.6, 3.0)
    async with house.database.transaction() as session:
        repository = ShadowRepository(session)
        await repository.save(UUID(shadow_id), "replica-1", tally, at=datetime.now(UTC))


@pytest.mark.parametrize("share", [0, -0.1, 1.1, "all"])
async def test_a_share_that_is_none_is_refused(house: House, share: object) -> None:
    ada = house.client("ada")
    await ada.post(f"{MODEL}/0.9.0/approve")

    answer = await ada.post(f"{MODEL}/0.9.0/shadow", json={"share": share})

    assert answer.status_code == 422
    assert answer.json()["violations"][0]["rule"] == "share"
    assert await house.entries(AuditAction.SHADOW_STARTED) == []


async def test_only_an_approved_version_can_be_in_the_shadow(house: House) -> None:
    ada = house.client("ada")

    assert (await ada.post(f"{MODEL}/0.9.0/shadow", json={})).status_code == 409
    assert (await ada.post(f"{MODEL}/9.9.9/shadow", json={})).status_code == 404
    assert (await ada.get(f"{MODEL}/shadow")).status_code == 404
    assert (await house.client("clara").get(f"{MODEL}/shadow")).status_code == 403
