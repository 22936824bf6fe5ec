"""Recorded results: whole for their owner, not there for anybody else, every read recorded."""

from uuid import uuid4

import pytest

from deployments.api.answers import ResultDetails
from registry import errors
from registry.errors import AuditUnavailable
from registry.events import AuditAction
from tests.api.house import INFER, JPEG, House
from tests.api.scripted import refused

IMAGE = b"\xff\xd8\xff"


async def infer(house: House, username: str = "clara") -> str:
    form = {"patient_id": "zq4711"}
    files = {"file": ("a", IMAGE, "image/jpeg")}
    response = await house.client(username).post(INFER, files=files, data=form)
    return str(response.json()["result_id"])


@pytest.mark.parametrize("reader", ["clara", "ada"])
async def test_the_owner_and_administrators_see_what_was_answered(
    house: House, reader: str
) -> None:
    answered = (await house.client("clara").post(INFER, content=IMAGE, headers=JPEG)).json()

    response = await house.client(reader).get(f"/results/{answered['result_id']}")

    assert response.status_code == 200
    stored = response.json()
    ResultDetails.model_validate(stored)
    del answered["timings_ms"]
    created_at = answered.pop("created_at")
    assert stored["created_at"][:19] == created_at[:19]
    assert {key: stored[key] for key in answered} == answered
    assert stored["created_by"] == str(house.users["clara"])
    assert stored["error_code"] is None
    assert (stored["preprocessing_ms"], stored["inference_ms"]) == (1.25, 1.0)


async def test_a_refused_image_is_a_result_too(house: House) -> None:
    house.screening.verdict = refused(errors.UndecodableImage("cut short"))
    problem = (await house.client("clara").post(INFER, content=IMAGE, headers=JPEG)).json()

    stored = (await house.client("clara").get(f"/results/{problem['result_id']}")).json()

    ResultDetails.model_validate(stored)
    assert (stored["outcome"], stored["error_code"]) == ("rejected", "undecodable-image")
    assert stored["threshold"] is None
    assert stored["audit"] == problem["audit"]


@pytest.mark.parametrize("stranger", ["carl", "vera"])
async def test_to_anybody_else_there_is_no_such_result(house: House, stranger: str) -> None:
    result_id = await infer(house)
    client = house.client(stranger)

    foreign = await client.get(f"/results/{result_id}")
    missing = await client.get(f"/results/{uuid4()}")

    assert foreign.status_code == missing.status_code == 404
    assert {**foreign.json(), "instance": ""} == {**missing.json(), "instance": ""}
    (entry,) = await house.entries(AuditAction.ACCESS_DENIED)
    assert entry["actor"]["id"] == str(house.users[stranger])
    assert entry["context"] == {"kind": "result", "id": result_id}
    assert await house.entries(AuditAction.RESULT_READ) == []


async def test_every_read_is_recorded_before_it_is_answered(house: House) -> None:
    result_id = await infer(house)
    await house.client("ada").get(f"/results/{result_id}")
    await house.client("clara").get(f"/results/{result_id}")

    entries = await house.entries(AuditAction.RESULT_READ)
    assert [entry["context"] for entry in entries] == [
        {"result": result_id, "own": False},
        {"result": result_id, "own": True},
    ]

    house.trail.refuse = AuditUnavailable("away")
    refused_read = await house.client("ada").get(f"/results/{result_id}")
    assert refused_read.status_code == 503
    assert "PNEUMONIA" not in refused_read.text


async def test_the_patient_is_a_pseudonym(house: House) -> None:
    result_id = await infer(house)

    response = await house.client("clara").get(f"/results/{result_id}")

    assert response.json()["patient"].startswith("p1:")
    assert "zq4711" not in response.text


async def test_an_id_that_is_none_is_422_and_not_repeated(house: House) -> None:
    response = await house.client("clara").get("/results/DOE^JOHN")

    assert response.status_code == 422
    assert [violation["rule"] for violation in response.json()["violations"]] == ["path.result_id"]
    assert "DOE" not in response.text
