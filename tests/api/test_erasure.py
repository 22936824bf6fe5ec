"""What callers see of a patient who was erased on the host."""

from datetime import UTC, datetime

from uuid_utils.compat import uuid7

from registry.contract import Receipt
from registry.events import CLI, AuditAction, AuditEvent, PatientErased
from storage.ledger import append_once
from storage.verify import verify
from tests.api.house import INFER, House

IMAGE = b"\xff\xd8\xff"


async def erase(house: House, pseudonym: str) -> None:
    event = AuditEvent(
        uuid7(),
        AuditAction.PATIENT_ERASED,
        "A patient was erased.",
        CLI,
        changes=(PatientErased(pseudonym),),
    )
    [ended] = await append_once(
        house.database, [event], software_version="1", now=lambda: datetime.now(UTC)
    )
    assert isinstance(ended, Receipt), ended


async def test_the_result_stays_without_its_patient_and_its_key_is_not_answered_again(
    house: House,
) -> None:
    client = house.client("clara")

    async def infer() -> int:
        answer = await client.post(
            INFER,
            files={"file": ("image", IMAGE, "image/jpeg")},
            data={"patient_id": "DOE-4711"},
            headers={"Idempotency-Key": "key-1"},
        )
        return answer.status_code

    assert await infer() == await infer() == 200
    (before,) = (await client.get("/results?patient=DOE-4711")).json()["items"]

    await erase(house, before["patient"])

    after = (await client.get(f"/results/{before['result_id']}")).json()
    assert before["patient"] is not None
    assert after["patient"] is None
    assert after["prediction"] == before["prediction"]
    assert (await client.get("/results?patient=DOE-4711")).json()["items"] == []
    assert await infer() == 409
    assert (await verify(house.database)).intact
