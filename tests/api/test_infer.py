"""`POST /infer`: what is taken, what is answered, and what is recorded of it."""

import asyncio
import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import httpx2
import pytest

from configs.settings import LimitSettings
from deployments.api.answers import InferenceDetails
from deployments.api.problems import STATUS, ProblemDetails
from deployments.inference.pseudonym import Pseudonyms
from deployments.inference.service import ImageRequest
from registry import errors
from registry.contract import Outcome, Upload, Verdict
from registry.errors import (
    AuditUnavailable,
    MedAIError,
    Violation,
    leaves,
)
from registry.events import AuditAction
from tests.api.house import INFER, JPEG, House
from tests.api.scripted import facts, refused

IMAGE = b"\xff\xd8\xff the rest of a JPEG"
DICOM_START = b"\0" * 128 + b"DICM"

# What may become of an image once it was taken.
OUTCOMES = [
    leaf
    for leaf in sorted(leaves(), key=lambda leaf: leaf.code)
    if leaf.code
    in {
        "image-too-large",
        "unsupported-media-type",
        "validation-failed",
        "undecodable-image",
        "unsupported-pixel-mode",
        "phi-in-pixels",
        "nonfinite-input",
        "model-nonfinite-output",
        "internal",
        "model-unavailable",
        "model-halted",
        "overloaded",
        "inference-timeout",
    }
]


async def test_an_answer_is_what_the_description_says_field_for_field(house: House) -> None:
    response = await house.client("clara").post(INFER, content=IMAGE, headers=JPEG)

    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    described = InferenceDetails.model_validate(answer)
    assert described.model_dump(mode="json").keys() == answer.keys()
    assert UUID(answer["result_id"]).version == 7
    assert (answer["outcome"], answer["prediction"]) == ("predicted", "PNEUMONIA")
    assert (answer["confidence"], answer["threshold"]) == (0.75, 0.5)
    assert answer["scores"] == {"NORMAL": 0.25, "PNEUMONIA": 0.75}
    assert answer["needs_review"] is True
    assert answer["reasons"] == ["OUTSIDE_INTENDED_USE"]
    assert answer["model"] == {"name": "cxr-pneumonia", "version": "1.0.0", "sha256": "cd" * 32}
    assert answer["gate"]["label"] == "CXR"
    assert answer["validation"]["error_codes"] == ["WRONG_VIEW"]
    assert [check["name"] for check in answer["validation"]["checks"]] == ["brightness", "view"]
    assert answer["image"]["format"] == "JPEG"
    assert answer["patient"] is None
    assert answer["timings_ms"]["decode"] == 1.25


async def test_an_answer_says_where_it_is_recorded(house: House) -> None:
    response = await house.client("clara").post(INFER, content=IMAGE, headers=JPEG)

    answer = response.json()
    (entry,) = await house.entries(AuditAction.INFERENCE)
    assert entry["seq"] == answer["audit"]["seq"]
    assert entry["request_id"] == response.headers["medai-request-id"]
    assert entry["actor"]["id"] == str(house.users["clara"])
    assert len(answer["audit"]["entry_hash"]) == 64


async def test_the_steps_are_in_the_server_timing_header(house: House) -> None:
    response = await house.client("clara").post(INFER, content=IMAGE, headers=JPEG)

    steps = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", "))
    assert list(steps) == [
        *("decode", "validate", "preprocess", "model", "inference", "screen", "audit", "total"),
        "gateway",
    ]
    assert float(steps["gateway"]) >= float(steps["total"])


@pytest.mark.parametrize("media_type", ["image/jpeg", "image/png", "application/dicom"])
async def test_the_three_types_are_taken_as_they_are(house: House, media_type: str) -> None:
    headers = {"Content-Type": f"{media_type.upper()}; x=y"}

    response = await house.client("clara").post(INFER, content=IMAGE, headers=headers)

    assert response.status_code == 200
    (upload,) = house.screening.uploads
    assert (upload.media_type, upload.body, upload.frame) == (media_type, IMAGE, None)


async def test_a_frame_can_be_asked_for(house: House) -> None:
    await house.client("clara").post(f"{INFER}&frame=3", content=IMAGE, headers=JPEG)

    assert house.screening.uploads[0].frame == 3


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": ""},
        {"Content-Type": "image/gif"},
        {"Content-Type": "application/json"},
        {"Content-Type": "application/octet-stream"},
        {"Content-Type": "image/jpegx"},
        {"Content-Type": "multipart/mixed; boundary=x"},
        {**JPEG, "Content-Encoding": "gzip"},
    ],
)
async def test_another_type_is_refused_before_the_body_is_read(
    house: House, headers: dict[str, str]
) -> None:
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    status, _, body = await house.raw("POST", INFER, headers=raw, username="clara", silent=True)

    assert status == 415
    assert json.loads(body)["type"].endswith("/unsupported-media-type")
    assert house.screening.uploads == []


@pytest.mark.parametrize(
    ("query", "rule"),
    [
        ("", "query.model"),
        ("?model=", "query.model"),
        (f"?model={'x' * 64}", "query.model"),
        ("?model=cxr-pneumonia&frame=0", "query.frame"),
        ("?model=cxr-pneumonia&frame=first", "query.frame"),
    ],
)
async def test_a_wrong_parameter_is_named(house: House, query: str, rule: str) -> None:
    response = await house.client("clara").post(f"/infer{query}", content=IMAGE, headers=JPEG)

    assert response.status_code == 422
    assert [violation["rule"] for violation in response.json()["violations"]] == [rule]


@pytest.mark.parametrize(
    "query", ["patient_id=4711", "Model=x", "model=cxr-pneumonia", "frame=1&frame=2"]
)
async def test_a_parameter_nobody_asked_for_is_refused_and_not_repeated(
    house: House, query: str
) -> None:
    response = await house.client("clara").post(f"{INFER}&{query}", content=IMAGE, headers=JPEG)

    assert response.status_code == 422
    assert response.json()["violations"] == [
        {
            "rule": "query",
            "measured": "",
            "limit": "frame and model, each once",
            "advice": "send the patient's id as a part of a form",
        }
    ]
    assert house.screening.uploads == []


async def test_an_unknown_model_is_answered_with_the_nearest_name(house: House) -> None:
    client = house.client("clara")

    near = await client.post("/infer?model=cxr-pneumona", content=IMAGE, headers=JPEG)
    far = await client.post("/infer?model=DOE", content=IMAGE, headers=JPEG)

    assert near.status_code == far.status_code == 404
    assert near.json()["violations"][0]["advice"] == "did you mean cxr-pneumonia?"
    assert "DOE" not in far.text


async def test_a_registered_model_that_is_not_active_does_not_answer(house: House) -> None:
    response = await house.client("clara").post(
        "/infer?model=body-part", content=IMAGE, headers=JPEG
    )

    assert response.status_code == 404


@pytest.mark.parametrize("leaf", OUTCOMES, ids=lambda leaf: leaf.code)
async def test_a_refused_image_is_a_recorded_problem(house: House, leaf: type[MedAIError]) -> None:
    broken = (Violation("brightness", "0.04", "0.08"), Violation("contrast", "0.01", "0.06"))
    house.screening.verdict = refused(leaf("the image breaks 2 rules", broken, retry_after_s=2))

    response = await house.client("clara").post(INFER, content=IMAGE, headers=JPEG)

    assert response.status_code == STATUS[leaf]
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["retry-after"] == "2"
    assert "gateway;dur=" in response.headers["server-timing"]
    document = response.json()
    ProblemDetails.model_validate(document)
    assert [violation["rule"] for violation in document["violations"]] == ["brightness", "contrast"]
    assert document["instance"] == f"urn:uuid:{document['result_id']}"
    (entry,) = await house.entries(AuditAction.INFERENCE_REJECTED)
    assert entry["seq"] == document["audit"]["seq"]


async def test_a_failure_of_ours_is_recorded_and_told(house: House) -> None:
    def halted(_: Upload) -> Verdict:
        raise errors.ModelHalted("stopped by an administrator", retry_after_s=60)

    house.screening.verdict = halted

    response = await house.client("clara").post(INFER, content=IMAGE, headers=JPEG)

    assert response.status_code == 503
    assert response.json()["type"].endswith("/model-halted")
    (entry,) = await house.entries(AuditAction.INFERENCE_FAILED)
    assert entry["seq"] == response.json()["audit"]["seq"]


async def test_an_abstention_is_an_answer(house: House) -> None:
    def abstained(upload: Upload) -> Verdict:
        return Verdict(Outcome.ABSTAINED, facts(upload), needs_review=True)

    house.screening.verdict = abstained

    response = await house.client("clara").post(INFER, content=IMAGE, headers=JPEG)

    answer = response.json()
    InferenceDetails.model_validate(answer)
    assert response.status_code == 200
    assert (answer["outcome"], answer["prediction"]) == ("abstained", None)
    assert answer["validation"] is None
    assert answer["gate"] is None


async def test_nothing_is_answered_that_is_not_recorded(house: House) -> None:
    house.trail.refuse = AuditUnavailable("the log is away", retry_after_s=1)

    response = await house.client("clara").post(INFER, content=IMAGE, headers=JPEG)

    assert response.status_code == 503
    assert response.json()["type"].endswith("/audit-unavailable")
    assert response.headers["retry-after"] == "1"
    assert "PNEUMONIA" not in response.text


async def test_a_form_carries_an_image_and_its_patient(house: House) -> None:
    response = await house.client("clara").post(
        INFER,
        files={"file": ("DOE.dcm", DICOM_START, "application/octet-stream")},
        data={"patient_id": " mrn-zq4711 "},
    )

    assert response.status_code == 200
    (upload,) = house.screening.uploads
    assert upload.body == DICOM_START
    assert upload.media_type == "application/dicom"
    assert upload.patient == Pseudonyms(b"k" * 32, version=1).of("MRN-ZQ4711")
    assert response.json()["patient"] == upload.patient
    assert "zq4711" not in response.text.lower()


async def test_a_form_can_go_without_a_patient(house: House) -> None:
    response = await house.client("clara").post(
        INFER, files={"file": ("a.jpg", IMAGE, "image/jpeg")}
    )

    assert response.json()["patient"] is None
    assert house.screening.uploads[0].media_type == "image/jpeg"


@pytest.mark.parametrize(
    ("body", "media_type"),
    [(IMAGE, "image/gif"), (b"GIF89a", "application/octet-stream"), (b"", "application/x-dicom")],
)
async def test_a_part_of_another_type_is_refused(
    house: House, body: bytes, media_type: str
) -> None:
    response = await house.client("clara").post(INFER, files={"file": ("a", body, media_type)})

    assert response.status_code == 415


@pytest.mark.parametrize("patient_id", ["", "   ", "x" * 65, "a\u0007b", "a\nb"])
async def test_a_patients_id_that_is_none_is_refused_and_not_repeated(
    house: House, patient_id: str
) -> None:
    response = await house.client("clara").post(
        INFER, files={"file": ("a", IMAGE, "image/jpeg")}, data={"patient_id": patient_id}
    )

    assert response.status_code == 422
    (violation,) = response.json()["violations"]
    assert (violation["rule"], violation["measured"]) == ("patient_id", "")
    assert house.screening.uploads == []


async def test_a_form_that_is_cut_short_is_refused(house: House) -> None:
    request = httpx2.Request(
        "POST", "http://medai.test", files={"file": ("a", IMAGE, "image/jpeg")}
    )
    whole = request.read()
    headers = {"Content-Type": request.headers["content-type"]}
    client = house.client("clara")

    for length in (0, 1, 20, len(whole) // 2, len(whole) - 20, len(whole) - 3):
        response = await client.post(INFER, content=whole[:length], headers=headers)

        assert response.status_code == 400, length
        assert response.json()["type"].endswith("/malformed-multipart")
    assert (await client.post(INFER, content=whole, headers=headers)).status_code == 200


async def test_a_deadline_is_504(build: Callable[..., Any]) -> None:
    class Stuck:
        async def screen(self, upload: Upload) -> Verdict:
            await asyncio.Event().wait()
            return Verdict(Outcome.ABSTAINED, facts(upload))

    house = await build(screening=Stuck(), limits=LimitSettings(deadline_s=0.05))

    response = await house.client("clara").post(INFER, content=IMAGE, headers=JPEG)

    assert response.status_code == 504
    assert response.json()["type"].endswith("/inference-timeout")
    assert "result_id" in response.json()


async def test_the_request_to_the_core_is_what_came(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[ImageRequest] = []
    real = house.services.inference.infer

    async def spy(request: ImageRequest, principal: Any) -> Any:
        seen.append(request)
        return await real(request, principal)

    monkeypatch.setattr(house.services.inference, "infer", spy)

    response = await house.client("clara").post(INFER, content=IMAGE, headers=JPEG)

    (request,) = seen
    assert request.request_id == response.headers["medai-request-id"]
    assert request.idempotency_key is None
