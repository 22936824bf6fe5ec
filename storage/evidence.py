"""Evidence: one JSON document that proves itself to whoever has the log's public key.

    format        "medaiflow/evidence/v1"
    checkpoint    the signed note of the first checkpoint that covers the entries below
    entry         {payload, proof}: the audit entry, and why the log holds it
    record        the result's and its validation's fields, as they were hashed, or null
    registration  {payload, proof} of the entry that registered the model version, or null
    card          the card's text as registered (preprocessing, limits, thresholds), or null
    subject       {salt, patient_id}: opens the commitment to the patient's pseudonym, or null

`medai-verify evidence` (deployments/medai_verify.py) checks it without this service: payload to
leaf, leaf and proof to root, root to signature; record, patient and card to the hashes in the
entries. Every value is under one of these hashes, so none can be changed unnoticed. Proofs and
hashes are in base64 and hex; payloads are objects, whose one text is `storage.hashchain.canonical`.
"""

import base64
import hashlib
import json
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from registry.errors import AuditUnavailable, NotFound, Violation
from registry.events import AuditAction
from storage.database import Database
from storage.hashchain import Json, canonical, leaf_hash
from storage.proofs import MerkleTree
from storage.records import RESULT_FIELDS, VALIDATION_FIELDS, rfc3339
from storage.tables import (
    AuditCheckpoint,
    AuditLog,
    AuditSubject,
    InferenceResult,
    ModelVersion,
    Table,
    ValidationResult,
)

FORMAT = "medaiflow/evidence/v1"
RETRY_AFTER_S = 10  # by then there is a checkpoint

_RECORD = b"medaiflow/record/v1\n"
_TABLES = Table.metadata.tables

RECORD_COLUMNS = (
    *(_TABLES["inference_results"].c[name].label(f"result_{name}") for name in RESULT_FIELDS),
    *(
        _TABLES["validation_results"].c[name].label(f"validation_{name}")
        for name in VALIDATION_FIELDS
    ),
)
"""What `record_of` reads from a row, for a SELECT over both tables."""


class EvidenceReader:
    """Builds evidence records. One a process: it keeps the tree's upper part.

    Args:
        database: Where the log and the results are.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._tree = MerkleTree(database)

    async def of_result(self, result_id: UUID, *, with_subject: bool = False) -> dict[str, Json]:
        """The evidence of one result.

        Args:
            result_id: Which.
            with_subject: Whether to say which patient's it is, where that was not erased.

        Raises:
            NotFound: There is no such result in the log.
            AuditUnavailable: With `retry_after_s`: no checkpoint covers it yet. Without: the stored
                result or log is not the one that was recorded.
            DatabaseUnavailable: The database is away.
        """
        async with self._database.reading() as session:
            row = (
                await session.execute(_ENTRY.where(AuditLog.inference_result_id == result_id))
            ).first()
            if row is None:
                raise NotFound("no such result")
            registration = (await session.execute(_registration(row.model_version_id))).first()
            checkpoint = await _first_checkpoint(session, row.seq)
        entry = await self._proven(row, checkpoint)
        payload: Any = entry["payload"]
        try:
            record = record_of(row, payload["subject_commit"])
            recorded = payload["result"]["record_hash"]
        except (KeyError, TypeError):
            raise _changed("the entry") from None
        if record_digest(canonical(record)).hex() != recorded:
            raise _changed("the stored result")
        more: dict[str, Json] = {"record": record}
        if registration is not None:
            more["registration"] = await self._proven(registration, checkpoint)
            more["card"] = row.card
        if with_subject and row.salt is not None:
            more["subject"] = {"salt": row.salt.hex(), "patient_id": row.subject}
        return _document(checkpoint.note, entry, **more)

    async def of_entry(self, seq: int) -> dict[str, Json]:
        """The evidence of one entry, whatever it is about, without what it refers to.

        Args:
            seq: The entry's number, from 1.

        Raises:
            NotFound: There is no such entry.
            AuditUnavailable: As for a result.
            DatabaseUnavailable: The database is away.
        """
        async with self._database.reading() as session:
            wanted = select(AuditLog.seq, AuditLog.payload).where(AuditLog.seq == seq)
            row = (await session.execute(wanted)).first()
            if row is None:
                raise NotFound("no such audit entry")
            checkpoint = await _first_checkpoint(session, seq)
        return _document(checkpoint.note, await self._proven(row, checkpoint))

    async def warm(self) -> None:
        """Read the log's leaf hashes now, so that the first evidence need not wait for it."""
        async with self._database.reading() as session:
            size = await session.scalar(select(func.max(AuditCheckpoint.size)))
        await self._tree.warm(size or 0)

    async def _proven(self, row: Any, checkpoint: Any) -> dict[str, Json]:
        """The payload of a row with `seq` and `payload`, and its proof."""
        proof = await self._tree.proof(
            row.seq,
            leaf=leaf_hash(row.payload.encode()),
            size=checkpoint.size,
            root=checkpoint.root,
        )
        return {
            "payload": json.loads(row.payload),  # the log has it, so we wrote it
            "proof": [base64.b64encode(node).decode() for node in proof],
        }


def _document(note: str, entry: dict[str, Json], **more: Json) -> dict[str, Json]:
    nothing = dict.fromkeys(("record", "registration", "card", "subject"))
    return {"format": FORMAT, "checkpoint": note, "entry": entry, **nothing, **more}


def record_of(row: Any, commit: str | None) -> dict[str, Json]:
    """The fields that `storage.records` hashed, from a row with `RECORD_COLUMNS`.

    Args:
        row: The row; its validation is empty where the image was not measured.
        commit: The commitment to the patient, in hex, as the entry has it.
    """
    values = row._mapping  # noqa: SLF001  # SQLAlchemy's public name for it
    result: dict[str, Json] = {name: _stable(values[f"result_{name}"]) for name in RESULT_FIELDS}
    validation: dict[str, Json] = {
        name: _stable(values[f"validation_{name}"]) for name in VALIDATION_FIELDS
    }
    return {
        "result": result,
        "validation": None if validation["id"] is None else validation,
        "subject_commit": commit,
    }


def record_digest(record: bytes) -> bytes:
    """The hash of a record's canonical text, which the audit entry holds."""
    return hashlib.sha256(_RECORD + record).digest()


def _registration(model_version_id: UUID) -> Select[int, str]:
    return (
        select(AuditLog.seq, AuditLog.payload)
        .where(
            AuditLog.action == AuditAction.MODEL_REGISTERED,
            AuditLog.model_version_id == model_version_id,
        )
        .order_by(AuditLog.seq)
        .limit(1)
    )


async def _first_checkpoint(session: AsyncSession, seq: int) -> Any:
    """The first that covers entry `seq`. A registration comes before every result of its model."""
    found = await session.execute(
        select(AuditCheckpoint.size, AuditCheckpoint.root, AuditCheckpoint.note)
        .where(AuditCheckpoint.size >= seq)
        .order_by(AuditCheckpoint.size)
        .limit(1)
    )
    checkpoint = found.first()
    if checkpoint is None:
        raise AuditUnavailable("no checkpoint covers the entry yet", (), RETRY_AFTER_S)
    return checkpoint


def _stable(value: object) -> Json:
    """The text form that `storage.records` hashes; the same before it was stored and after."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return repr(value)
    return rfc3339(value) if isinstance(value, datetime) else str(value)


def _changed(what: str) -> AuditUnavailable:
    return AuditUnavailable(
        f"{what} is not what was recorded",
        (Violation("audit log", advice="run `medai audit verify`"),),
    )


_ENTRY = (
    select(
        AuditLog.seq,
        AuditLog.payload,
        AuditLog.model_version_id,
        ModelVersion.card,
        AuditSubject.salt,
        AuditSubject.patient_id.label("subject"),
        *RECORD_COLUMNS,
    )
    .join(InferenceResult, InferenceResult.id == AuditLog.inference_result_id)
    .outerjoin(ValidationResult, ValidationResult.inference_result_id == InferenceResult.id)
    .outerjoin(AuditSubject, AuditSubject.event_id == AuditLog.event_id)
    .outerjoin(ModelVersion, ModelVersion.id == AuditLog.model_version_id)
)
