"""The export gives the log as it is: also where it is damaged, and while it grows."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text, update

from registry.errors import AuditUnavailable
from registry.events import ANONYMOUS, SYSTEM, AuditAction, AuditOutcome
from storage.database import Database
from storage.export import COLUMNS, export_log
from storage.fhir import CODES, audit_event, coded, export_fhir
from storage.tables import AuditLog

if TYPE_CHECKING:
    from conftest import Audited, Export, Intruder, Log, Verify


async def lines(pieces: AsyncIterator[bytes]) -> list[dict[str, Any]]:
    text = b"".join([piece async for piece in pieces]).decode()
    assert text.endswith("\n") or not text
    return [json.loads(line) for line in text.splitlines()]


async def test_every_line_is_json_in_the_order_of_the_log(audited: "Audited") -> None:
    header, *rest = await lines(export_log(audited.log.database, software="1.2.3"))

    assert header["medai_audit_export"] == 1
    assert (header["size"], header["last"], header["after"]) == (15, 15, 0)
    assert header["origin"] == audited.vkey.split("+", maxsplit=1)[0]
    kinds = [
        ("entry", line["row"][0]) if "row" in line else (next(iter(line)), line.get("seq"))
        for line in rest
    ]
    assert kinds[:8] == [*(("entry", seq) for seq in range(1, 7)), ("record", 6), ("entry", 7)]
    assert kinds[8] == ("checkpoint", None)
    assert [line["size"] for line in rest if "checkpoint" in line] == [7, 12]
    assert [seq for kind, seq in kinds if kind == "entry"] == list(range(1, 16))


async def test_the_columns_are_named_in_their_order(audited: "Audited", export: "Export") -> None:
    header, *rest = (await export()).read_text().splitlines()
    row = json.loads(rest[5])["row"]
    payload = json.loads(rest[5])["payload"]

    assert tuple(json.loads(header)["columns"]) == COLUMNS
    shown = dict(zip(COLUMNS, row, strict=True))
    assert shown["inference_result_id"] == payload["result"]["id"]
    assert shown["user_id"] == payload["actor"]["id"]
    assert shown["context"] == "{}"
    assert len(bytes.fromhex(shown["entry_hash"])) == 32


async def test_the_payload_is_the_stored_text_to_the_byte(
    audited: "Audited", export: "Export", intruder: "Intruder"
) -> None:
    exported = (await export()).read_text()

    for row in await intruder.rows():
        assert f'{{"payload":{row["payload"]},"row":[{row["seq"]},' in exported


async def test_the_patient_is_not_in_it(audited: "Audited", export: "Export") -> None:
    assert "p1:0011" not in (await export()).read_text()


async def test_it_begins_where_it_is_asked_to_and_can_leave_records_out(
    audited: "Audited", intruder: "Intruder"
) -> None:
    header, first, *rest = await lines(export_log(audited.log.database, after=9, records=False))

    assert header["after"] == 9
    assert header["previous"] == (await intruder.rows())[8]["entry_hash"].hex()
    assert first["row"][0] == 10
    assert all("record" not in line for line in rest)


@pytest.mark.parametrize("page", [1, 2, 3, 7, 15])
async def test_pages_leave_nothing_out(
    page: int,
    audited: "Audited",
    export: "Export",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = (await export()).read_text()
    monkeypatch.setattr("storage.export.PAGE", page)

    assert (await export()).read_text() == whole


async def test_what_comes_meanwhile_is_left_for_the_next(
    audited: "Audited", verify: "Verify", tmp_path: Path
) -> None:
    path = tmp_path / "export.jsonl"
    with path.open("wb") as file:
        async for piece in export_log(audited.log.database):
            if file.tell() == 0:
                await audited.log.events(3)
            file.write(piece)

    code, report = verify("log", path, "--vkey", audited.vkey)

    assert (code, report["entries"]) == (0, 15)


async def test_a_log_that_has_not_begun_is_exported_empty(database: Database) -> None:
    (header,) = await lines(export_log(database))

    assert (header["origin"], header["size"], header["last"]) == ("", 0, 0)
    assert await lines(export_fhir(database)) == []


async def test_rows_without_a_state_are_exported_too(
    audited: "Audited", intruder: "Intruder"
) -> None:
    await intruder.run(text("DELETE FROM audit_state"))

    header, *rest = await lines(export_log(audited.log.database))

    assert (header["origin"], header["size"]) == ("", 15)
    assert len([line for line in rest if "row" in line]) == 15


@pytest.mark.parametrize(
    "payload", ["", "junk", "two\nlines", '"text"', '{"seq":', "{}", '{"a":1},"row":[9]}']
)
async def test_a_damaged_payload_stays_one_line(
    payload: str, audited: "Audited", intruder: "Intruder", export: "Export"
) -> None:
    count = len((await export()).read_text().splitlines())
    await intruder.run(update(AuditLog).where(AuditLog.seq == 9).values(payload=payload))

    exported = (await export()).read_text().splitlines()

    assert len(exported) == count
    with pytest.raises(AuditUnavailable, match="entry 9"):
        await lines(export_fhir(audited.log.database))


async def test_a_damaged_entry_of_a_result_is_exported(
    audited: "Audited", intruder: "Intruder", verify: "Verify", export: "Export"
) -> None:
    await intruder.run(update(AuditLog).where(AuditLog.seq == 6).values(payload="{}"))

    code, report = verify("log", await export(), "--vkey", audited.vkey)

    assert code == 1
    assert {finding["kind"] for finding in report["findings"]} == {"payload"}


class TestSqlite:
    """SQLite keeps whatever it is given, in a column of any type."""

    @pytest.fixture
    def url(self, sqlite_url: str) -> str:
        return sqlite_url

    @pytest.mark.parametrize(
        ("statement", "kind"),
        [
            ("UPDATE inference_results SET created_at = 'noon'", "record"),
            ("UPDATE audit_logs SET entry_hash = CAST(hex(zeroblob(16)) AS TEXT)", "chain"),
            ("UPDATE audit_logs SET payload = CAST(payload AS BLOB)", "payload"),
            ("UPDATE audit_logs SET epoch = 'one' WHERE seq = 9", "column"),
            ("UPDATE audit_logs SET event_id = 'nobody' WHERE seq = 9", "column"),
        ],
    )
    async def test_values_of_another_type_are_exported_and_found(
        self,
        statement: str,
        kind: str,
        audited: "Audited",
        intruder: "Intruder",
        export: "Export",
        verify: "Verify",
    ) -> None:
        if "entry_hash" in statement:
            statement += " WHERE seq = 9"
        await intruder.run(text(statement))

        code, report = verify("log", await export(), "--vkey", audited.vkey)

        assert code == 1
        assert kind in {finding["kind"] for finding in report["findings"]}


class TestFhir:
    """Entries as FHIR R5 AuditEvent."""

    async def test_each_entry_is_one_resource(
        self, audited: "Audited", intruder: "Intruder"
    ) -> None:
        events = await lines(export_fhir(audited.log.database))

        rows = await intruder.rows()
        assert [event["id"] for event in events] == [str(row["event_id"]) for row in rows]
        assert {event["resourceType"] for event in events} == {"AuditEvent"}
        assert [event["recorded"] for event in events] == [row["created_at"] for row in rows]

    async def test_an_inference_is_told_with_its_proof(
        self, audited: "Audited", intruder: "Intruder"
    ) -> None:
        event = (await lines(export_fhir(audited.log.database, after=5)))[0]

        row = (await intruder.rows())[5]
        result = json.loads(row["payload"])["result"]
        assert event["code"]["coding"][0]["code"] == "inference"
        assert event["category"][0]["coding"][0]["code"] == "110103"
        assert event["outcome"]["code"]["code"] == "0"
        assert event["agent"][0]["requestor"]
        assert event["agent"][0]["role"] == [{"text": "clinician"}]
        entities = {entity["what"]["identifier"]["value"]: entity for entity in event["entity"]}
        origin = event["source"]["observer"]["identifier"]["value"]
        proof = {
            detail["type"]["text"]: detail["valueString"]
            for detail in entities[f"{origin}/6"]["detail"]
        }
        assert proof == {"seq": "6", "entry_hash": row["entry_hash"].hex()}
        assert result["id"] in entities
        assert "cd" * 32 in entities
        commitment = event["patient"]["identifier"]["value"]
        assert commitment == json.loads(row["payload"])["subject_commit"]

    async def test_pages_leave_nothing_out(
        self, audited: "Audited", monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = await lines(export_fhir(audited.log.database))
        monkeypatch.setattr("storage.fhir.PAGE", 4)

        assert await lines(export_fhir(audited.log.database)) == whole

    async def test_a_log_that_was_cut_ends(self, audited: "Audited", intruder: "Intruder") -> None:
        await intruder.write((await intruder.rows())[:9], agree=False)

        assert len(await lines(export_fhir(audited.log.database))) == 9

    @pytest.mark.parametrize(
        ("action", "outcome", "code", "severity"),
        [
            (AuditAction.LOGIN_OK, AuditOutcome.SUCCESS, "0", "informational"),
            (AuditAction.LOGIN_FAILED, AuditOutcome.FAILURE, "4", "warning"),
            (AuditAction.LOGIN_LOCKED, AuditOutcome.DENIED, "12", "warning"),
            (AuditAction.ACCESS_DENIED, AuditOutcome.DENIED, "8", "warning"),
        ],
    )
    async def test_a_failure_is_graded(
        self, action: AuditAction, outcome: AuditOutcome, code: str, severity: str, log: "Log"
    ) -> None:
        receipt = await log.append(
            log.site.event(action=action, outcome=outcome, actor=ANONYMOUS, request_id=None)
        )

        (event,) = await lines(export_fhir(log.database, after=receipt.seq - 1))

        assert (event["outcome"]["code"]["code"], event["severity"]) == (code, severity)
        assert event["agent"][0]["who"]["identifier"]["value"] == "anonymous"
        assert "role" not in event["agent"][0]
        assert len(event["entity"]) == 1

    async def test_the_system_asks_for_itself(self, log: "Log") -> None:
        receipt = await log.append(log.site.event(actor=SYSTEM))

        (event,) = await lines(export_fhir(log.database, after=receipt.seq - 1))

        assert [agent["requestor"] for agent in event["agent"]] == [True]

    async def test_a_model_version_is_named(self, log: "Log") -> None:
        model = await log.model("2.0.0")

        event = (await lines(export_fhir(log.database)))[-1]

        assert event["entity"][-1]["what"]["identifier"]["value"] == str(model.id)
        assert event["code"]["coding"][1] == {
            "system": "http://dicom.nema.org/resources/ontology/DCM",
            "code": "110131",
            "display": "Software Configuration",
        }

    @pytest.mark.parametrize("action", sorted(set(AuditAction) - {"log.clock_step"}))
    def test_every_action_is_coded(self, action: AuditAction) -> None:
        assert coded(action) != coded("something.new")

    @pytest.mark.parametrize("action", [*CODES, "something.new"])
    def test_every_code_is_written(self, action: str) -> None:
        event = audit_event(
            {
                "seq": 1,
                "event_id": "e",
                "ts": "2026-11-24T08:00:00.000000Z",
                "action": action,
                "outcome": "success",
                "description": "d",
                "actor": {"kind": "system", "id": None, "role": None, "token": None},
                "request_id": None,
                "software": "1",
                "model_version_id": None,
                "subject_commit": None,
            },
            origin="medaiflow/x",
            entry_hash=bytes(32),
        )

        assert event["code"]["coding"][0]["code"] == action
        assert event["action"] in set("CRUDE")
        for coding in [
            *event["code"]["coding"][1:],
            *(c["coding"][0] for c in event.get("category", ())),
        ]:
            assert coding["display"]
