"""The whole way in process: real files, decoders, models, ledger and database behind the API."""

import asyncio
import io
import json
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import skimage.data
from PIL import Image
from pydicom.data import get_testdata_file

from deployments.api.answers import InferenceDetails, ResultDetails
from registry.events import AuditAction
from storage.verify import verify
from tests.api.core import Core
from tests.api.house import INFER, JPEG, House, open_house

DICOM = {"Content-Type": "application/dicom"}
PNG = {"Content-Type": "image/png"}


@dataclass
class Site:
    """The house and where its database is."""

    house: House
    file: Path


@pytest.fixture
async def site(sqlite_template: Path, tmp_path: Path) -> AsyncIterator[Site]:
    file = tmp_path / "medai.db"
    shutil.copy(sqlite_template, file)
    core = Core(tmp_path)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(core.close)
        house = await stack.enter_async_context(
            open_house(file, tmp_path / "keys", screening=core, stock=core.stock)
        )
        yield Site(house, file)


def film() -> bytes:
    """The adult chest film RG1, uncompressed."""
    return Path(str(get_testdata_file("RG1_UNCR.dcm"))).read_bytes()


def portrait() -> Any:
    """A man with a camera: no medical image. uint8, 512 x 512."""
    return skimage.data.camera()  # type: ignore[no-untyped-call]  # scikit-image has no types


def encoded(pixels: Any, form: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


async def test_a_real_chest_film_is_answered_and_recorded(site: Site) -> None:
    client = site.house.client("clara")

    response = await client.post(INFER, content=film(), headers=DICOM)

    assert response.status_code == 200
    answer = response.json()
    InferenceDetails.model_validate(answer)
    assert sum(answer["scores"].values()) == pytest.approx(1.0, abs=1e-5)
    assert answer["gate"]["passed"] is True
    assert answer["image"]["modality"] in {"CR", "DX", "RG"}
    assert answer["timings_ms"]["inference"] > 0
    stored = (await client.get(f"/results/{answer['result_id']}")).json()
    ResultDetails.model_validate(stored)
    for same in ("outcome", "scores", "threshold", "validation", "gate", "image", "audit", "model"):
        assert stored[same] == answer[same], same


async def test_the_same_film_gives_the_same_scores(site: Site) -> None:
    client = site.house.client("clara")

    first, second = [
        (await client.post(INFER, content=film(), headers=DICOM)).json()["scores"] for _ in range(2)
    ]

    assert first == second


async def test_the_films_patient_is_a_pseudonym_and_nowhere_by_name(
    site: Site, lines: Callable[[], list[dict[str, Any]]]
) -> None:
    canary = "ZZCANARY"
    dataset = pydicom.dcmread(io.BytesIO(film()))
    dataset.PatientName = f"{canary}^JOHN"
    dataset.PatientID = f"{canary}4711"
    dataset.StudyDescription = canary
    buffer = io.BytesIO()
    dataset.save_as(buffer)

    response = await site.house.client("clara").post(
        INFER, content=buffer.getvalue(), headers=DICOM
    )

    assert response.status_code == 200
    assert response.json()["patient"].startswith("p1:")
    assert canary not in response.text
    assert canary not in json.dumps(lines())
    with sqlite3.connect(site.file) as database:
        dump = "\n".join(database.iterdump())
    database.close()
    assert canary not in dump


async def test_every_broken_rule_is_reported_at_once_and_recorded(site: Site) -> None:
    black = encoded(np.zeros((300, 300), np.uint8), "PNG")

    response = await site.house.client("clara").post(INFER, content=black, headers=PNG)

    assert response.status_code == 422
    problem = response.json()
    rules = {violation["rule"] for violation in problem["violations"]}
    assert {"brightness", "contrast"} <= rules
    assert all(violation["limit"] and violation["advice"] for violation in problem["violations"])
    (entry,) = await site.house.entries(AuditAction.INFERENCE_REJECTED)
    assert entry["seq"] == problem["audit"]["seq"]


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (encoded(portrait(), "JPEG")[:5000], JPEG, 422, "undecodable-image"),
        (encoded(portrait(), "PNG"), JPEG, 415, "unsupported-media-type"),
        (b"", JPEG, 415, "unsupported-media-type"),
        (b"\0" * 128 + b"DICM", DICOM, 422, "undecodable-image"),
    ],
    ids=["cut", "lie", "empty", "header"],
)
async def test_a_file_that_is_no_image_is_a_problem_with_a_record(
    site: Site, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    response = await site.house.client("clara").post(INFER, content=body, headers=headers)

    assert response.status_code == status
    assert response.json()["type"].endswith(f"/{code}")
    assert response.json()["result_id"]


async def test_what_is_no_chest_film_gets_no_label(site: Site) -> None:
    image = encoded(portrait(), "JPEG")

    response = await site.house.client("clara").post(INFER, content=image, headers=JPEG)

    answer = response.json()
    assert (answer["outcome"], answer["prediction"]) == ("abstained", None)
    assert answer["reasons"][0] == "OUT_OF_DOMAIN"
    assert answer["needs_review"] is True


async def test_the_records_hold_after_all_of_it(site: Site) -> None:
    client = site.house.client("clara")
    answer = (await client.post(INFER, content=film(), headers=DICOM)).json()
    await client.post(INFER, content=b"", headers=JPEG)
    await client.get(f"/results/{answer['result_id']}")
    await client.get("/admin/secure")
    await client.post("/auth/logout")

    report = await verify(site.house.database)

    assert report.problems == ()
    assert report.intact
    last = (await site.house.entries(AuditAction.LOGOUT))[-1]
    assert report.entries == last["seq"]


async def test_many_callers_at_once_get_their_own_answers_and_the_log_holds(site: Site) -> None:
    client = site.house.client("clara")
    bodies = [encoded(portrait(), "JPEG")] * 12
    bodies[5] = bodies[5][:5000]

    responses = await asyncio.gather(
        *(client.post(INFER, content=body, headers=JPEG) for body in bodies)
    )

    assert [response.status_code for response in responses] == [200] * 5 + [422] + [200] * 6
    seqs = sorted(response.json()["audit"]["seq"] for response in responses)
    assert len(set(seqs)) == 12
    assert seqs[-1] - seqs[0] == 11
