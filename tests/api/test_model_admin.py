"""Models, by administrators through the API: two people, a switch, a halt, and what is recorded."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from registry.events import AuditAction
from registry.lifecycle import ReplicaState
from storage.model_replicas import Holding, ReplicaRepository
from tests.api.house import House

MODEL = "/admin/models/cxr-pneumonia"


async def test_an_approval_names_the_administrator_who_gave_it(house: House) -> None:
    answer = await house.client("ada").post(f"{MODEL}/0.9.0/approve")

    assert answer.status_code == 200
    assert answer.json()["status"] == "approved"
    *_, entry = await house.entries(AuditAction.MODEL_APPROVED)
    assert entry["actor"]["id"] == str(house.users["ada"])
    assert entry["changes"][0]["by"] == f"user:{house.users['ada']}"
    assert entry["request_id"] == answer.headers["medai-request-id"]


async def test_a_version_is_activated_once_its_replica_is_ready(house: House) -> None:
    ada = house.client("ada")
    version = (await ada.post(f"{MODEL}/0.9.0/approve")).json()
    await report(house, version["id"], ReplicaState.READY)

    activated = await ada.post(f"{MODEL}/0.9.0/activate")
    served = (await ada.get(f"{MODEL}/replicas")).json()
    await report(house, served["previous"]["id"], ReplicaState.READY)
    back = await ada.post(f"{MODEL}/rollback")

    assert activated.status_code == 200
    assert (served["active"]["version"], served["previous"]["version"]) == ("0.9.0", "1.0.0")
    assert served["staged"] is None
    (replica,) = served["replicas"]
    assert (replica["replica"], replica["state"]) == ("replica-1", "ready")
    assert back.json()["version"] == "1.0.0"
    assert len(await house.entries(AuditAction.MODEL_ROLLED_BACK)) == 1


async def test_a_replica_that_cannot_load_it_refuses_the_activation_with_the_reason(
    house: House,
) -> None:
    ada = house.client("ada")
    version = (await ada.post(f"{MODEL}/0.9.0/approve")).json()
    await report(house, version["id"], ReplicaState.FAILED, "the golden case fails")

    answer = await ada.post(f"{MODEL}/0.9.0/activate")

    assert answer.status_code == 422
    assert answer.json()["violations"][0]["measured"] == "the golden case fails"
    served = (await ada.get(f"{MODEL}/replicas")).json()
    assert (served["active"]["version"], served["staged"]) == ("1.0.0", None)
    (entry,) = await house.entries(AuditAction.MODEL_ACTIVATION_REFUSED)
    assert entry["outcome"] == "failure"


async def report(house: House, version: str, state: ReplicaState, reason: str = "") -> None:
    """Say, as a replica would, how far it is with a version."""
    async with house.database.transaction() as session:
        await ReplicaRepository(session).report(
            "replica-1",
            "cxr-pneumonia",
            {UUID(version): Holding(state, reason or None)},
            at=datetime.now(UTC),
        )


async def test_a_halted_model_says_why_and_a_resumed_one_is_halted_no_longer(house: House) -> None:
    ada = house.client("ada")

    halted = await ada.post(f"{MODEL}/halt", json={"reason": "wrong-answers"})
    resumed = await ada.post(f"{MODEL}/resume")
    again = await ada.post(f"{MODEL}/resume")

    assert halted.json()["halt_reason"] == "wrong-answers"
    assert resumed.json()["halt_reason"] is None
    assert again.status_code == 409
    assert len(await house.entries(AuditAction.MODEL_HALTED, AuditAction.MODEL_RESUMED)) == 2


@pytest.mark.parametrize("reason", ["", "Wrong answers", "x" * 65])
async def test_a_halt_without_a_code_is_refused(house: House, reason: str) -> None:
    answer = await house.client("ada").post(f"{MODEL}/halt", json={"reason": reason})

    assert answer.status_code == 422
    assert await house.entries(AuditAction.MODEL_HALTED) == []


async def test_a_step_that_the_state_does_not_allow_is_refused(house: House) -> None:
    ada = house.client("ada")

    assert (await ada.post(f"{MODEL}/0.9.0/activate")).status_code == 409  # not approved
    assert (await ada.post(f"{MODEL}/rollback")).status_code == 409  # nothing served before
    assert (await ada.post(f"{MODEL}/9.9.9/approve")).status_code == 404
    assert (await house.client("clara").post(f"{MODEL}/rollback")).status_code == 403


async def test_a_retired_version_answers_no_longer(house: House) -> None:
    answer = await house.client("ada").post(f"{MODEL}/1.0.0/retire")
    served = (await house.client("ada").get(f"{MODEL}/replicas")).json()

    assert answer.json()["status"] == "retired"
    assert served["active"] is None
