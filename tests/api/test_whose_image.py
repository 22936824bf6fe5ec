"""Whose image it is, over HTTP and the real core: what is refused and what is recorded."""

import io
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import SecondaryCaptureImageStorage

from registry.events import AuditAction
from tests.api.core import Core
from tests.api.house import INFER, House, open_house
from tests.inference.files import FILM, dicom_file

DICOM = {"Content-Type": "application/dicom"}


@pytest.fixture
async def house(sqlite_template: Path, tmp_path: Path) -> AsyncIterator[House]:
    file = tmp_path / "medai.db"
    shutil.copy(sqlite_template, file)
    core = Core(tmp_path)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(core.close)
        yield await stack.enter_async_context(
            open_house(file, tmp_path / "keys", screening=core, stock=core.stock)
        )


def film(**attributes: Any) -> bytes:
    """The adult chest film RG1, with attributes changed."""
    dataset = pydicom.dcmread(io.BytesIO(dicom_file(FILM)))
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


async def send(house: House, body: bytes, patient_id: str) -> Any:
    return await house.client("clara").post(
        INFER,
        files={"file": ("film.dcm", body, "application/dicom")},
        data={"patient_id": patient_id},
    )


async def test_a_film_of_another_patient_is_refused_recorded_and_neither_id_told(
    house: House,
) -> None:
    body = film(PatientID="CANARY-1")

    right, wrong = await send(house, body, "canary-1"), await send(house, body, "CANARY-2")

    assert right.status_code == 200
    assert wrong.status_code == 422
    problem = wrong.json()
    assert [rule["rule"] for rule in problem["violations"]] == ["patient_id"]
    assert "CANARY" not in wrong.text.upper()
    stored = (await house.client("clara").get(f"/results/{problem['result_id']}")).json()
    assert "PATIENT_MISMATCH" in stored["validation"]["error_codes"]
    (entry,) = await house.entries(AuditAction.INFERENCE_REJECTED)
    assert "PATIENT_MISMATCH" in entry["result"]["checks_failed"]
    assert "CANARY" not in str(entry).upper()


async def test_a_name_that_was_typed_as_manufacturer_comes_out_nowhere(
    house: House, lines: Callable[[], list[dict[str, Any]]]
) -> None:
    body = film(Manufacturer="ZZCANARY JOHN", ManufacturerModelName="ZZCANARY JANE")

    answer = await house.client("clara").post(INFER, content=body, headers=DICOM)

    assert answer.status_code == 200
    assert answer.json()["image"]["manufacturer"] == "unlisted"
    seen = [answer.text, str(lines()), str(await house.entries(AuditAction.INFERENCE))]
    assert not [text for text in seen if "ZZCANARY" in text]


async def test_a_secondary_capture_is_answered_for_review(house: House) -> None:
    body = film(SOPClassUID=SecondaryCaptureImageStorage)

    answer = (await house.client("clara").post(INFER, content=body, headers=DICOM)).json()

    assert answer["image"]["secondary_capture"] == "SOP class"
    assert answer["reasons"] == ["OUTSIDE_INTENDED_USE", "PHI_IN_PIXELS"]
    assert answer["needs_review"] is True


async def test_declared_burned_in_annotation_is_refused(house: House) -> None:
    body = film(BurnedInAnnotation="YES")

    refused = await house.client("clara").post(INFER, content=body, headers=DICOM)

    assert refused.status_code == 422
    assert refused.json()["type"].endswith("/phi-in-pixels")
