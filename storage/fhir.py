"""Audit entries as FHIR R5 AuditEvent resources, one a line, for a repository that collects them.

An export, not a record: the proof is in the log, and each resource names its entry and its hash.

- Codes are DICOM's (PS3.16, CID 400, 401 and 403) where one fits, with our own action beside it.
- Roles of agents and entities follow IHE Basic Audit Log Patterns (BALP), whose profiles are for
  FHIR R4; so no profile is claimed.
- The patient is named by the commitment alone (`storage.records`), a reference nobody can follow
  without the salt.
"""

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from registry.errors import AuditUnavailable, Violation
from storage.database import Database
from storage.tables import AuditLog, AuditState

PAGE = 1000
SITE = "https://medai-flow.readthedocs.io/fhir"  # the namespace of what is our own

_DCM = "http://dicom.nema.org/resources/ontology/DCM"
_HL7 = "http://terminology.hl7.org/CodeSystem"
_BALP = "https://profiles.ihe.net/ITI/BALP/CodeSystem"

_DISPLAY = {
    "110100": "Application Activity",
    "110101": "Audit Log Used",
    "110103": "DICOM Instances Accessed",
    "110106": "Export",
    "110112": "Query",
    "110113": "Security Alert",
    "110114": "User Authentication",
    "110120": "Application Start",
    "110121": "Application Stop",
    "110122": "Login",
    "110123": "Logout",
    "110127": "Emergency Override Started",
    "110129": "Security Configuration",
    "110131": "Software Configuration",
    "110132": "Use of Restricted Function",
    "110133": "Audit Recording Stopped",
    "110134": "Audit Recording Started",
    "110136": "Security Roles Changed",
    "110137": "User Security Attributes Changed",
}
_OUTCOMES = {"0": "Success", "4": "Minor failure", "8": "Serious failure", "12": "Major failure"}
_ROLES = {"3": "Report", "4": "Domain Resource", "13": "Security Resource"}


@dataclass(frozen=True, slots=True)
class Coded:
    """How an action is coded.

    Attributes:
        category: The kind of event, a DICOM code of CID 400, or "" where none fits.
        code: The event itself, of CID 401 or 403, or "".
        act: C, R, U, D or E: create, read, update, delete, execute.
        failure: The FHIR outcome where it did not succeed: 4 minor, 8 serious, 12 major.
    """

    category: str
    code: str
    act: str
    failure: str = "8"


_ALERT = "110113"  # always an execution, says PS3.15, A.5.3.11
_LOG_STARTED = Coded(_ALERT, "110134", "E")
_TOKEN = Coded("110114", "", "E", "4")
_USER = Coded(_ALERT, "110137", "E")
_QUERY = Coded("110112", "", "E")

CODES: Mapping[str, Coded] = {  # by the subject of an action, and by the action where it differs
    "log": Coded("", "", "E"),
    "log.genesis": _LOG_STARTED,
    "log.writer_start": _LOG_STARTED,
    "log.recovery": _LOG_STARTED,
    "log.writer_stop": Coded(_ALERT, "110133", "E"),
    "key": Coded(_ALERT, "110129", "E"),
    "config": Coded(_ALERT, "110129", "E"),
    "server.start": Coded("110100", "110120", "E"),
    "server.stop": Coded("110100", "110121", "E"),
    "audit": Coded("110101", "", "R"),
    "patient.erased": Coded("110103", "", "D"),
    "login": Coded("110114", "110122", "E", "4"),
    "login.locked": Coded("110114", "110122", "E", "12"),
    "login.unlocked": _USER,
    "logout": Coded("110114", "110123", "E"),
    "token": _TOKEN,
    "refresh": _TOKEN,
    "refresh.reused": Coded("110114", "", "E"),
    "access": Coded(_ALERT, "110132", "E"),
    "access.emergency": Coded(_ALERT, "110127", "E"),
    "user": _USER,
    "user.role_changed": Coded(_ALERT, "110136", "E"),
    "users": _QUERY,
    "password": _USER,
    "reset": _USER,
    "inference": Coded("110103", "", "R"),
    "inference.rejected": Coded("110103", "", "R", "4"),
    "result": Coded("110103", "", "U"),
    "result.read": Coded("110103", "", "R"),
    "result.exported": Coded("110106", "", "R"),
    "results": _QUERY,
    "model": Coded(_ALERT, "110131", "E"),
}
_UNKNOWN = Coded("", "", "E")


def coded(action: str) -> Coded:
    """How an action is coded."""
    return CODES.get(action) or CODES.get(action.partition(".")[0], _UNKNOWN)


async def export_fhir(database: Database, *, after: int = 0) -> AsyncIterator[bytes]:
    """The entries after number `after` as newline-delimited JSON, in pieces of whole lines.

    Raises:
        AuditUnavailable: An entry cannot be read.
        DatabaseUnavailable: The database is away; what came before is whole.
    """
    async with database.reading() as session:
        state = (await session.execute(select(AuditState.origin, AuditState.size))).first()
    if state is None:
        return
    while after < state.size:
        async with database.reading() as session:
            found = await session.execute(
                select(AuditLog.seq, AuditLog.payload, AuditLog.entry_hash)
                .where(AuditLog.seq > after, AuditLog.seq <= state.size)
                .order_by(AuditLog.seq)
                .limit(PAGE)
            )
            rows = found.all()
        if not rows:
            return
        yield "".join(_line(row, state.origin) for row in rows).encode()
        after = rows[-1].seq


def audit_event(payload: Mapping[str, Any], *, origin: str, entry_hash: bytes) -> dict[str, Any]:
    """One entry as a resource.

    Args:
        payload: The entry's payload.
        origin: The log's name.
        entry_hash: The entry's hash.
    """
    how = coded(payload["action"])
    action = {"system": f"{SITE}/action", "code": payload["action"]}
    outcome = "0" if payload["outcome"] == "success" else how.failure
    event = {
        "resourceType": "AuditEvent",
        "id": payload["event_id"],
        "code": {
            "coding": [action, *([_dicom(how.code)] if how.code else [])],
            "text": payload["description"],
        },
        "action": how.act,
        "severity": "informational" if outcome == "0" else "warning",
        "recorded": payload["ts"],
        "outcome": {
            "code": {
                "system": f"{_HL7}/audit-event-outcome",
                "code": outcome,
                "display": _OUTCOMES[outcome],
            }
        },
        "agent": list(_agents(payload, origin)),
        "source": {
            "observer": {"identifier": {"system": f"{SITE}/log", "value": origin}},
            "type": [{"coding": [_hl7("security-source-type", "4", "Application Server")]}],
        },
        "entity": list(_entities(payload, origin, entry_hash)),
    }
    if how.category:
        event["category"] = [{"coding": [_dicom(how.category)]}]
    if payload["subject_commit"] is not None:
        event["patient"] = _identified("subject-commitment", payload["subject_commit"])
    return event


def _agents(payload: Mapping[str, Any], origin: str) -> Iterator[dict[str, Any]]:
    """Who asked, and we who did it."""
    actor = payload["actor"]
    asked = actor["kind"] in {"user", "anonymous", "cli"}
    if asked:
        who = actor["id"] or actor["kind"]
        yield {
            "type": {"coding": [_hl7("extra-security-role-type", "humanuser", "human user")]},
            "who": _identified("user", who),
            "requestor": True,
            **({"role": [{"text": actor["role"]}]} if actor["role"] else {}),
            **({"policy": [f"{SITE}/token/{actor['token']}"]} if actor["token"] else {}),
        }
    yield {
        "type": {"coding": [_dicom("110150", "Application")]},
        "who": {
            **_identified("log", origin),
            "display": f"MedAI Flow {payload['software']}",
        },
        "requestor": not asked,
    }


def _entities(
    payload: Mapping[str, Any], origin: str, entry_hash: bytes
) -> Iterator[dict[str, Any]]:
    """What it was about, and where the proof is."""
    entry = {"seq": str(payload["seq"]), "entry_hash": entry_hash.hex()}
    yield _entity("13", "entry", f"{origin}/{payload['seq']}", entry)
    if payload["request_id"] is not None:
        yield {
            "role": {"coding": [{"system": f"{_BALP}/BasicAuditEntityType", "code": "XrequestId"}]},
            "what": {"identifier": {"value": payload["request_id"]}},
        }
    result = payload.get("result")
    if result is None:
        if payload["model_version_id"] is not None:
            yield _entity("4", "model-version", payload["model_version_id"], {})
        return
    said = ("outcome", "prediction", "confidence", "threshold", "error_code", "record_hash")
    yield _entity("3", "result", result["id"], {name: result[name] for name in said})
    yield _entity("4", "image-sha256", result["input_sha256"], {})
    model = result["model"]
    about = {name: model[name] for name in ("name", "version", "sha256")}
    yield _entity("4", "model-version", model["id"], about)


def _entity(role: str, kind: str, value: str, detail: Mapping[str, str | None]) -> dict[str, Any]:
    details = [
        {"type": {"text": name}, "valueString": text} for name, text in detail.items() if text
    ]
    return {
        "what": _identified(kind, value),
        "role": {"coding": [_hl7("object-role", role, _ROLES[role])]},
        **({"detail": details} if details else {}),
    }


def _identified(kind: str, value: str) -> dict[str, Any]:
    return {"identifier": {"system": f"{SITE}/{kind}", "value": value}}


def _dicom(code: str, display: str = "") -> dict[str, str]:
    return {"system": _DCM, "code": code, "display": display or _DISPLAY[code]}


def _hl7(system: str, code: str, display: str) -> dict[str, str]:
    return {"system": f"{_HL7}/{system}", "code": code, "display": display}


def _line(row: Any, origin: str) -> str:
    try:
        event = audit_event(json.loads(row.payload), origin=origin, entry_hash=row.entry_hash)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise AuditUnavailable(
            "an entry cannot be read",
            (Violation("audit log", f"entry {row.seq}", advice="run `medai audit verify`"),),
        ) from None
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False) + "\n"
