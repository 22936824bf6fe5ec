"""The same request sent twice is one inference; another request under the same key is refused."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import httpx2
import pytest

from configs.settings import LimitSettings
from deployments.api.answers import InferenceDetails
from deployments.api.batch import BatchDetails
from deployments.api.idempotency import Replays, digest_of
from deployments.inference.service import Answer, ImageRequest
from registry.contract import Check, Outcome, Principal, Role, Upload, Validation, Verdict
from registry.errors import (
    AuditUnavailable,
    Conflict,
    ModelUnavailable,
    UndecodableImage,
    ValidationFailed,
    Violation,
)
from registry.events import AuditAction
from tests.api.house import INFER, House
from tests.api.scripted import facts, predicted, refused

BATCH = "/infer/batch?model=cxr-pneumonia"
IMAGE = b"\xff\xd8\xff"
OTHER = IMAGE + b"other"
INFERENCES = (
    AuditAction.INFERENCE,
    AuditAction.INFERENCE_REJECTED,
    AuditAction.INFERENCE_FAILED,
)


async def infer(
    house: House,
    body: bytes = IMAGE,
    *,
    key: str | None = "key-1",
    username: str = "clara",
    query: str = "",
    patient: str | None = None,
) -> httpx2.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return await house.client(username).post(
        INFER + query,
        files={"file": ("image", body, "image/jpeg")},
        data={} if patient is None else {"patient_id": patient},
        headers=headers,
    )


async def infer_batch(house: House, *bodies: bytes, key: str = "key-1") -> httpx2.Response:
    files = [("file", ("image", body, "image/jpeg")) for body in bodies]
    return await house.client("clara").post(BATCH, files=files, headers={"Idempotency-Key": key})


async def test_the_same_request_gets_the_same_result_and_one_row(house: House) -> None:
    first = await infer(house, patient="4711")
    second = await infer(house, patient="4711")

    assert first.status_code == second.status_code == 200
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    InferenceDetails.model_validate(second.json())
    varying = {"timings_ms", "created_at"}
    assert {k: v for k, v in first.json().items() if k not in varying} == {
        k: v for k, v in second.json().items() if k not in varying
    }
    assert first.json()["created_at"][:26] == second.json()["created_at"][:26]
    assert len(await house.entries(*INFERENCES)) == 1
    assert len(house.screening.uploads) == 1


async def test_without_a_key_each_request_is_one(house: House) -> None:
    first, second = await infer(house, key=None), await infer(house, key=None)

    assert first.json()["result_id"] != second.json()["result_id"]


@pytest.mark.parametrize(
    "other",
    [{"body": OTHER}, {"query": "&frame=2"}, {"patient": "4712"}, {"patient": None}],
    ids=["body", "frame", "patient", "no-patient"],
)
async def test_another_request_under_the_key_is_409(house: House, other: dict[str, Any]) -> None:
    await infer(house, patient="4711")

    response = await infer(house, **{"patient": "4711", **other})

    assert response.status_code == 409
    assert response.json()["type"].endswith("/idempotency-conflict")
    assert response.json()["violations"][0]["rule"] == "header.Idempotency-Key"
    assert "key-1" not in response.text
    assert len(await house.entries(*INFERENCES)) == 1


async def test_the_model_is_part_of_the_request() -> None:
    request = ImageRequest("cxr-pneumonia", IMAGE, "image/jpeg")

    digests = {
        await digest_of([one])
        for one in (
            request,
            replace(request, model="body-part"),
            replace(request, body=OTHER),
            replace(request, frame=1),
            replace(request, patient="p1:00"),
        )
    }

    assert len(digests) == 5
    assert (await digest_of([request])).hex() == (
        "8d450d3928a0774e5c0ae69ee280d127a54f25a4f281df21f2420f9c4e76cfad"
    )


async def test_a_large_image_has_the_same_digest_as_its_parts_say() -> None:
    large = ImageRequest("m", b"x" * (2**20 + 1), "image/jpeg")
    small = ImageRequest("m", b"x" * 2**20, "image/jpeg")

    assert await digest_of([large]) == await digest_of([large])
    assert await digest_of([large]) != await digest_of([small])


async def test_keys_belong_to_a_user(house: House) -> None:
    clara = await infer(house, username="clara")
    carl = await infer(house, OTHER, username="carl")

    assert clara.status_code == carl.status_code == 200
    assert clara.json()["result_id"] != carl.json()["result_id"]


def without_request(response: httpx2.Response) -> dict[str, Any]:
    """The problem without what names the request."""
    return {name: value for name, value in response.json().items() if name != "instance"}


async def test_a_refusal_is_given_again_with_its_rules(house: House) -> None:
    brightness = Check("brightness", 0.03, "0.08 to 0.92", passed=False, code="LOW", advice="more")
    violation = Violation("brightness", "0.03", "0.08 to 0.92", "more")

    def verdict(upload: Upload) -> Verdict:
        return Verdict(
            Outcome.REJECTED,
            facts(upload),
            validation=Validation(is_valid=False, score=0.0, checks=(brightness,)),
            error=ValidationFailed("1 rule broken by this image", (violation,)),
        )

    house.screening.verdict = verdict
    first, second = await infer(house), await infer(house)

    assert first.status_code == second.status_code == 422
    assert second.headers["idempotency-replayed"] == "true"
    assert first.json()["violations"][0]["rule"] == "brightness"
    assert without_request(first) == without_request(second)


async def test_a_refusal_without_rules_is_given_again(house: House) -> None:
    house.screening.verdict = refused(UndecodableImage("cut short"))

    first, second = await infer(house), await infer(house)

    assert first.json()["type"] == second.json()["type"]
    assert second.json()["detail"] == "refused before, for the same reason"


async def test_what_failed_on_our_side_is_worked_on_again(house: House) -> None:
    def failed(upload: Upload) -> Verdict:
        raise ModelUnavailable("away", retry_after_s=1)

    house.screening.verdict = failed
    away = await infer(house)
    house.trail.refuse = AuditUnavailable("away")
    unrecorded = await infer(house)
    house.trail.refuse, house.screening.verdict = None, predicted
    good, again = await infer(house), await infer(house)

    assert [away.status_code, unrecorded.status_code, good.status_code] == [503, 503, 200]
    assert good.json()["result_id"] == again.json()["result_id"]
    assert [entry["action"] for entry in await house.entries(*INFERENCES)] == [
        "inference.failed",
        "inference",
    ]


async def test_two_at_once_are_one(house: House) -> None:
    answers = await asyncio.gather(*(infer(house) for _ in range(8)))

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["result_id"] for answer in answers}) == 1
    assert len(await house.entries(*INFERENCES)) == 1
    assert len(house.screening.uploads) == 1


def another_gateway(house: House) -> Replays:
    """What a second gateway would have: nothing in common but the database."""
    return Replays(house.services.inference, house.database)


async def test_gateways_that_look_at_once_record_one(build: Callable[..., Any]) -> None:
    all_have_looked = asyncio.Barrier(5)

    class Together:
        async def screen(self, upload: Upload) -> Verdict:
            await all_have_looked.wait()
            return predicted(upload)

    house = await build(screening=Together())
    request = ImageRequest("cxr-pneumonia", IMAGE, "image/jpeg", idempotency_key="key-1")
    clara = Principal(house.users["clara"], "clara", Role.CLINICIAN, "jti")

    answers = await asyncio.gather(
        *(another_gateway(house).infer(request, clara) for _ in range(5))
    )

    assert len({answer.result_id for answer, _ in answers}) == 1
    assert sorted(again for _, again in answers) == [False, True, True, True, True]
    assert len(await house.entries(*INFERENCES)) == 1


async def test_two_gateways_with_other_requests_disagree(house: House) -> None:
    clara = Principal(house.users["clara"], "clara", Role.CLINICIAN, "jti")

    def ask(body: bytes) -> Any:
        request = ImageRequest("cxr-pneumonia", body, "image/jpeg", idempotency_key="key-1")
        return another_gateway(house).infer(request, clara)

    answers = await asyncio.gather(ask(IMAGE), ask(OTHER), return_exceptions=True)

    assert sorted(type(answer).__name__ for answer in answers) == ["IdempotencyConflict", "tuple"]


def recorded(answers: Sequence[object]) -> list[UUID]:
    return [answer.result_id for answer in answers if isinstance(answer, Answer)]


async def test_two_gateways_at_once_record_one_batch(house: House) -> None:
    request = ImageRequest("cxr-pneumonia", IMAGE, "image/jpeg", idempotency_key="key-1")
    batch = [request, replace(request, body=OTHER)]
    clara = Principal(house.users["clara"], "clara", Role.CLINICIAN, "jti")

    (one, _), (two, _) = await asyncio.gather(
        *(another_gateway(house).infer_many(batch, clara) for _ in range(2))
    )

    assert all(isinstance(answer, Answer) for answer in (*one, *two))
    assert recorded(one) == recorded(two)
    assert len(await house.entries(*INFERENCES)) == 2


async def test_nothing_is_kept_of_a_key_that_nobody_works_on(house: House) -> None:
    replays = another_gateway(house)
    request = ImageRequest("cxr-pneumonia", IMAGE, "image/jpeg", idempotency_key="key-1")
    clara = Principal(house.users["clara"], "clara", Role.CLINICIAN, "jti")

    await asyncio.gather(*(replays.infer(request, clara) for _ in range(3)))

    assert (replays._locks, dict(replays._waiting)) == ({}, {})


async def test_a_batch_is_given_again_image_by_image(house: House) -> None:
    first = await infer_batch(house, IMAGE, OTHER)
    second = await infer_batch(house, IMAGE, OTHER)

    BatchDetails.model_validate(second.json())
    assert second.headers["idempotency-replayed"] == "true"
    one, two = (
        [item["result"]["result_id"] for item in answer.json()["items"]]
        for answer in (first, second)
    )
    assert one == two
    assert len(await house.entries(*INFERENCES)) == 2


@pytest.mark.parametrize(
    "other",
    [[OTHER, IMAGE], [IMAGE], [IMAGE, OTHER, IMAGE], [IMAGE, IMAGE]],
    ids=["order", "fewer", "more", "changed"],
)
async def test_another_batch_under_the_key_is_409(house: House, other: list[bytes]) -> None:
    await infer_batch(house, IMAGE, OTHER)

    response = await infer_batch(house, *other)

    assert response.status_code == 409
    assert len(await house.entries(*INFERENCES)) == 2


async def test_only_the_images_that_failed_are_worked_on_again(house: House) -> None:
    def other_fails(upload: Upload) -> Verdict:
        if upload.body == OTHER:
            raise ModelUnavailable("away")
        return predicted(upload)

    house.screening.verdict = other_fails
    first = (await infer_batch(house, IMAGE, OTHER)).json()["items"]
    house.screening.verdict = predicted
    response = await infer_batch(house, IMAGE, OTHER)

    second = response.json()["items"]
    assert [item["status"] for item in first] == [200, 503]
    assert [item["status"] for item in second] == [200, 200]
    assert first[0]["result"]["result_id"] == second[0]["result"]["result_id"]
    assert "idempotency-replayed" not in response.headers
    assert [upload.body for upload in house.screening.uploads] == [IMAGE, OTHER, OTHER]


async def test_the_longest_key_serves_a_batch(house: House) -> None:
    key = "k" * 128

    first, second = (
        await infer_batch(house, IMAGE, key=key),
        await infer_batch(house, IMAGE, key=key),
    )

    assert (
        first.json()["items"][0]["result"]["result_id"]
        == (second.json()["items"][0]["result"]["result_id"])
    )


@pytest.mark.parametrize(
    "keys",
    [[""], ["k" * 129], ["a b"], ["key\t1"], ["schl\xfcssel"], ["one", "two"]],
    ids=["empty", "long", "space", "tab", "latin", "two"],
)
@pytest.mark.parametrize("path", [INFER, BATCH])
async def test_a_key_that_is_none_is_refused(house: House, path: str, keys: list[str]) -> None:
    headers = [(b"idempotency-key", key.encode("latin-1")) for key in keys]
    message = {"type": "http.request", "body": IMAGE, "more_body": False}

    status, _, body = await house.raw(
        "POST",
        path,
        [message],
        headers=[(b"content-type", b"image/jpeg"), *headers],
        username="clara",
    )

    assert status == 422
    assert b"header.Idempotency-Key" in body
    assert house.screening.uploads == []


async def test_a_key_that_nobody_has_and_that_is_taken_is_our_fault(
    house: House,
) -> None:
    house.trail.refuse = Conflict("taken")

    assert (await infer(house)).status_code == 500


async def test_the_key_is_in_no_log_line(
    house: House, lines: Callable[[], Sequence[dict[str, Any]]]
) -> None:
    await infer(house, key="PAT-4711")
    await infer(house, OTHER, key="PAT-4711")

    assert "4711" not in str(lines())


async def test_a_full_house_still_gives_an_answer_again(build: Callable[..., Any]) -> None:
    house = await build(limits=LimitSettings(max_in_progress=1))
    first = await infer(house)

    with house.services.inference.admission.of(1):
        again = await infer(house)
        another = await infer(house, key="key-2")

    assert (again.status_code, again.headers["idempotency-replayed"]) == (200, "true")
    assert again.json()["result_id"] == first.json()["result_id"]
    assert another.status_code == 503
