"""Many images at once: each answered as by itself, none harmed by another, recorded together."""

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any

import httpx2
import pytest

from configs.settings import LimitSettings
from deployments.api.batch import BatchDetails
from registry import errors
from registry.contract import Outcome, Receipt, Upload, Verdict
from registry.errors import AuditUnavailable, InferenceTimeout, MedAIError
from registry.events import AuditAction, AuditEvent
from tests.api.house import INFER, JPEG, House
from tests.api.scripted import LedgerTrail, facts, predicted

BATCH = "/infer/batch?model=cxr-pneumonia"
IMAGE = b"\xff\xd8\xff"
BAD = IMAGE + b"bad"
FILE = ("file", ("image", IMAGE, "image/jpeg"))
INFERENCES = (
    AuditAction.INFERENCE,
    AuditAction.INFERENCE_REJECTED,
    AuditAction.INFERENCE_FAILED,
)


def image(body: bytes, media_type: str = "image/jpeg") -> tuple[str, tuple[str, bytes, str]]:
    return ("file", ("image", body, media_type))


def patient(patient_id: str) -> tuple[str, tuple[None, str]]:
    return ("patient_id", (None, patient_id))


async def send(house: House, *parts: Any, username: str = "clara", **more: Any) -> httpx2.Response:
    return await house.client(username).post(BATCH, files=list(parts), **more)


def by_body(upload: Upload) -> Verdict:
    """Refuses `BAD`, answers everything else."""
    if upload.body != BAD:
        return predicted(upload)
    error = errors.UndecodableImage("cut short")
    return Verdict(Outcome.REJECTED, facts(upload), patient=upload.patient, error=error)


async def test_each_image_is_answered_in_its_place(house: House) -> None:
    house.screening.verdict = by_body

    response = await send(house, FILE, image(BAD), FILE)

    document = BatchDetails.model_validate(response.json())
    assert response.status_code == 200
    assert [(item.index, item.status) for item in document.items] == [(0, 200), (1, 422), (2, 200)]
    assert (document.answered, document.refused) == (2, 1)
    assert document.items[1].problem is not None
    assert document.items[1].problem.type.endswith("/undecodable-image")


async def test_an_item_is_what_infer_answers(house: House) -> None:
    house.screening.verdict = by_body
    client = house.client("clara")
    singles = [
        (await client.post(INFER, content=body, headers=JPEG)).json() for body in (IMAGE, BAD)
    ]

    items = (await send(house, FILE, image(BAD))).json()["items"]

    varying = ("result_id", "created_at", "audit", "timings_ms", "instance")
    for single, given in zip(singles, (items[0]["result"], items[1]["problem"]), strict=True):
        same = {name: value for name, value in given.items() if value is not None}
        expected = {name: value for name, value in single.items() if value is not None}
        assert same.keys() == expected.keys()
        assert {k: v for k, v in same.items() if k not in varying} == {
            k: v for k, v in expected.items() if k not in varying
        }


async def test_each_image_has_its_entry_and_all_are_recorded_together(house: House) -> None:
    house.screening.verdict = by_body

    items = (await send(house, FILE, image(BAD), FILE)).json()["items"]

    entries = await house.entries(*INFERENCES)
    assert house.trail.groups == [3]
    assert [entry["action"] for entry in entries] == [
        "inference",
        "inference.rejected",
        "inference",
    ]
    told = [(item["result"] or item["problem"]) for item in items]
    assert [entry["result"]["id"] for entry in entries] == [one["result_id"] for one in told]
    assert [entry["seq"] for entry in entries] == [one["audit"]["seq"] for one in told]
    for one in told:
        stored = await house.client("clara").get(f"/results/{one['result_id']}")
        assert stored.json()["audit"] == one["audit"]


async def test_what_cannot_be_read_is_refused_alone_and_not_recorded(
    build: Callable[..., Any],
) -> None:
    house = await build(limits=LimitSettings(max_body_bytes=1024))

    response = await send(
        house,
        image(b"x" * 1025),
        image(IMAGE, "text/plain"),
        FILE,
        patient(" "),
        image(IMAGE + b"\0" * 1021),
    )

    items = response.json()["items"]
    assert [item["status"] for item in items] == [413, 415, 422, 200]
    assert items[2]["problem"]["violations"][0]["rule"] == "patient_id"
    assert items[0]["problem"]["violations"][0]["limit"] == "1024 bytes"
    assert len(await house.entries(*INFERENCES)) == 1


async def test_where_no_image_can_be_read_nothing_is_recorded(house: House) -> None:
    response = await send(house, image(IMAGE, "text/plain"))

    assert response.json()["items"][0]["status"] == 415
    assert house.trail.groups == []


async def test_a_patient_belongs_to_the_image_before(house: House) -> None:
    response = await send(house, FILE, FILE, patient("4711"), FILE, patient("4712"))

    patients = [item["result"]["patient"] for item in response.json()["items"]]
    assert patients[0] is None
    assert patients[1].startswith("p1:")
    assert patients[2].startswith("p1:")
    assert patients[1] != patients[2]
    assert "4711" not in response.text


async def test_a_hundred_images_are_taken_and_a_hundred_and_one_are_not(house: House) -> None:
    whole = await send(house, *[FILE] * 100)
    above = await send(house, *[FILE] * 101)

    assert [item["status"] for item in whole.json()["items"]] == [200] * 100
    assert above.status_code == 413
    assert above.json()["type"].endswith("/payload-too-large")
    assert above.json()["violations"][0]["limit"] == "100 images"
    assert house.trail.groups == [100]


async def test_an_empty_image_counts_as_one(house: House) -> None:
    above = await send(house, *[FILE] * 100, image(b""))

    assert above.status_code == 413


@pytest.mark.parametrize(
    ("parts", "rule"),
    [
        ([patient("4711"), FILE], "patient_id"),
        ([FILE, patient("4711"), patient("4712")], "patient_id"),
        ([FILE, ("patient", (None, "4711"))], "parts"),
        ([FILE, ("patient", (None, ""))], "parts"),
        ([("other", ("a", IMAGE, "image/jpeg"))], "parts"),
    ],
    ids=["patient-first", "two-patients", "other-part", "empty-other-part", "no-image"],
)
async def test_a_form_of_another_shape_is_refused_as_a_whole(
    house: House, parts: list[Any], rule: str
) -> None:
    response = await send(house, *parts)

    assert response.status_code == 422
    assert response.json()["violations"][0]["rule"] == rule
    assert "471" not in response.text
    assert house.screening.uploads == []


async def test_a_batch_is_a_form_without_encoding(house: House) -> None:
    client = house.client("clara")

    plain = await client.post(BATCH, content=IMAGE, headers=JPEG)
    encoded = await send(house, FILE, headers={"Content-Encoding": "gzip"})

    assert (plain.status_code, encoded.status_code) == (415, 415)


BODY = (
    b'--b\r\nContent-Disposition: form-data; name="file"\r\nContent-Type: image/jpeg\r\n\r\n'
    + IMAGE
    + b"\r\n--b--\r\n"
)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        BODY[:-4],
        BODY[:-20],
        b"x" + BODY,
        BODY + b"more",
        BODY.replace(b"name", b"\0ame"),
        b"--b--\r\n",
        BODY.replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n"),
        BODY.replace(b'"file"', b'"patient_id"').replace(IMAGE, b"1" * 2000),
    ],
    ids=["empty", "open", "cut", "before", "behind", "name", "no-part", "encoded", "long-field"],
)
@pytest.mark.parametrize("piece", [1, 10_000])
async def test_a_body_that_is_no_whole_form_is_refused(
    house: House, body: bytes, piece: int
) -> None:
    pieces = [body[at : at + piece] for at in range(0, len(body), piece)]
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in pieces]
    last = {"type": "http.request", "body": b"", "more_body": False}
    headers = [(b"content-type", b"multipart/form-data; boundary=b")]

    status, _, _ = await house.raw(
        "POST", BATCH, [*messages, last], headers=headers, username="clara"
    )

    assert status in ({422} if body == b"--b--\r\n" else {400, 422})
    assert house.screening.uploads == []


@pytest.mark.parametrize("piece", [1, 7, 10_000])
async def test_a_form_may_come_in_pieces_of_any_size(house: House, piece: int) -> None:
    body = b"\r\n" + BODY
    pieces = [body[at : at + piece] for at in range(0, len(body), piece)]
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in pieces]
    last = {"type": "http.request", "body": b"", "more_body": False}
    headers = [(b"content-type", b"multipart/form-data; boundary=b")]

    status, _, _ = await house.raw(
        "POST", BATCH, [*messages, last], headers=headers, username="clara"
    )

    assert status == 200
    assert [upload.body for upload in house.screening.uploads] == [IMAGE]


async def test_a_form_without_a_boundary_is_refused(house: House) -> None:
    headers = {"Content-Type": "multipart/form-data"}

    response = await house.client("clara").post(BATCH, content=BODY, headers=headers)

    assert response.status_code == 400


async def test_a_batch_counts_as_its_images(build: Callable[..., Any]) -> None:
    house = await build(limits=LimitSettings(max_in_progress=4))
    admission = house.services.inference.admission

    with admission.of(2):
        full = await send(house, FILE, FILE, FILE)
        fits = await send(house, FILE, FILE)
    alone = await send(house, *[FILE] * 5)

    assert (full.status_code, full.headers["retry-after"]) == (503, "1")
    assert fits.status_code == alone.status_code == 200
    assert admission.in_progress == 0


async def test_an_unknown_model_is_the_whole_batch_s_problem(house: House) -> None:
    client = house.client("clara")

    response = await client.post("/infer/batch?model=none", files=[FILE])

    assert response.status_code == 404
    assert await house.entries(*INFERENCES) == []


async def test_viewers_may_not(house: House) -> None:
    assert (await send(house, FILE, username="vera")).status_code == 403


class Stuck:
    """A Validator that answers nothing for images of this one body."""

    def __init__(self) -> None:
        self.at_once = self.most = 0

    async def screen(self, upload: Upload) -> Verdict:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            if upload.body == BAD:
                await asyncio.Event().wait()
            await asyncio.sleep(0)
            return predicted(upload)
        finally:
            self.at_once -= 1


async def test_the_deadline_is_the_batch_s_and_only_the_late_ones_fail(
    build: Callable[..., Any],
) -> None:
    stuck = Stuck()
    house = await build(limits=LimitSettings(deadline_s=1.0), screening=stuck)

    items = (await send(house, *[FILE] * 50, image(BAD), *[FILE] * 49)).json()["items"]

    statuses = [item["status"] for item in items]
    assert statuses == [200] * 50 + [504] + [200] * 49
    assert items[50]["problem"]["type"].endswith(InferenceTimeout.code)
    assert len(await house.entries(AuditAction.INFERENCE_FAILED)) == 1
    assert stuck.most == 32


async def test_what_the_log_refuses_of_a_batch_fails_alone(house: House) -> None:
    """The database refuses one record: its score is not finite. The others are recorded."""
    house.screening.verdict = lambda upload: (
        predicted(upload)
        if upload.body != BAD
        else Verdict(
            Outcome.PREDICTED,
            facts(upload),
            prediction="PNEUMONIA",
            confidence=math.nan,
            scores={"PNEUMONIA": math.nan},
        )
    )

    items = (await send(house, FILE, image(BAD), FILE)).json()["items"]

    assert [item["status"] for item in items] == [200, 500, 200]
    assert items[1]["problem"]["result_id"] is None
    assert len(await house.entries(*INFERENCES)) == 2


async def test_a_log_that_is_away_is_the_whole_batch_s_problem(house: House) -> None:
    house.trail.refuse = AuditUnavailable("away", retry_after_s=1)

    response = await send(house, FILE, FILE)

    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert "PNEUMONIA" not in response.text


async def test_a_log_that_is_silent_is_one_that_is_away(
    build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    house = await build(limits=LimitSettings(audit_timeout_s=0.05))

    async def silent(self: LedgerTrail, events: list[AuditEvent]) -> list[Any]:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(LedgerTrail, "record_all", silent)

    assert (await send(house, FILE)).status_code == 503


async def test_who_leaves_leaves_a_batch_that_is_recorded(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    screening = asyncio.Event()
    recorded = asyncio.Event()

    def verdict(upload: Upload) -> Verdict:
        screening.set()
        return predicted(upload)

    record_all = house.trail.record_all

    async def record(events: Sequence[AuditEvent]) -> list[Receipt | MedAIError]:
        ended = await record_all(events)
        recorded.set()
        return ended

    house.screening.verdict = verdict
    monkeypatch.setattr(house.trail, "record_all", record)
    waiting = asyncio.create_task(send(house, FILE, FILE))
    await screening.wait()

    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await asyncio.wait_for(recorded.wait(), 5)

    assert len(await house.entries(*INFERENCES)) == 2
