"""Whether the rows that the log vouches for are the ones that were recorded.

    results   the hash over each result's rows is the one in its entry; none is without an entry
    patients  the pseudonym fits the commitment in the entry, or was erased on both sides
    registry  each version's file, card, threshold and status are those of its last entry
    users     each account was made by an entry, under that name and with that role

Every function writes what it finds to the `Findings` it is given.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

import orjson
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from registry.lifecycle import ModelStatus
from storage.findings import Findings, Flaw
from storage.records import decimal, record_hash, subject_commit
from storage.tables import (
    ModelVersion,
    Table,
    User,
)

CHUNK = 2000

Changes = Sequence[tuple[int, Mapping[str, Any]]]

_LOG = Table.metadata.tables["audit_logs"]
_SUBJECTS = Table.metadata.tables["audit_subjects"]
_RESULTS = Table.metadata.tables["inference_results"]
_VALIDATIONS = Table.metadata.tables["validation_results"]
_RESULT_NAMES = tuple(column.name for column in _RESULTS.c)
_VALIDATION_NAMES = tuple(column.name for column in _VALIDATIONS.c)


async def check_results(session: AsyncSession, findings: Findings) -> int:
    """Every entry's result is there as recorded, and every result has its entry.

    Returns:
        How many of the entries commit to a patient.
    """
    committed = 0
    async for rows in _recorded(session):
        for row in rows:
            try:
                committed += _check_result(row, findings)
            except (ValueError, KeyError, TypeError, AttributeError):
                findings.add(row[0], Flaw.RECORD, "the result or its entry cannot be read")
    async for ids in _result_ids(session):
        for result_id, seq in ids:
            if seq is None:
                findings.add(0, Flaw.UNRECORDED, f"result {result_id} has no entry")
    return committed


async def _recorded(session: AsyncSession) -> AsyncIterator[Sequence[Any]]:
    """The entries that name a result, with its rows, in order."""
    last = 0
    while True:
        found = await session.execute(
            select(
                _LOG.c.seq,
                _LOG.c.payload,
                _SUBJECTS.c.salt,
                _SUBJECTS.c.patient_id,
                *_RESULTS.c,
                *_VALIDATIONS.c,
            )
            .select_from(_LOG)
            .outerjoin(_RESULTS, _RESULTS.c.id == _LOG.c.inference_result_id)
            .outerjoin(_VALIDATIONS, _VALIDATIONS.c.inference_result_id == _RESULTS.c.id)
            .outerjoin(_SUBJECTS, _SUBJECTS.c.event_id == _LOG.c.event_id)
            .where(_LOG.c.inference_result_id.is_not(None), _LOG.c.seq > last)
            .order_by(_LOG.c.seq)
            .limit(CHUNK)
        )
        rows = found.all()
        if not rows:
            return
        yield rows
        last = rows[-1][0]


async def _result_ids(session: AsyncSession) -> AsyncIterator[Sequence[Any]]:
    """Every result's id, with the number of its entry if it has one."""
    wanted = (
        select(_RESULTS.c.id, _LOG.c.seq)
        .select_from(_RESULTS)
        .outerjoin(_LOG, _LOG.c.inference_result_id == _RESULTS.c.id)
        .order_by(_RESULTS.c.id)
        .limit(CHUNK)
    )
    rows = (await session.execute(wanted)).all()
    while rows:
        yield rows
        rows = (await session.execute(wanted.where(_RESULTS.c.id > rows[-1].id))).all()


def _check_result(row: Any, findings: Findings) -> bool:
    """Gives whether the entry commits to a patient."""
    seq, payload, salt, subject, *values = row
    result = dict(zip(_RESULT_NAMES, values, strict=False))
    validation = dict(zip(_VALIDATION_NAMES, values[len(_RESULT_NAMES) :], strict=True))
    entry = orjson.loads(payload)
    commit = entry["subject_commit"]
    if result["id"] is None:
        findings.add(seq, Flaw.MISSING, "the result's row is gone")
        return commit is not None
    digest = record_hash(
        result,
        validation if validation["id"] is not None else None,
        None if commit is None else bytes.fromhex(commit),
    )
    if not digest.hex() == entry["result"]["record_hash"] == result["record_hash"].hex():
        findings.add(seq, Flaw.RECORD, "the result is not the one that was recorded")
    patient = result["patient_id"]
    if patient != subject:
        findings.add(seq, Flaw.SUBJECT, "the result's patient is not that of the log")
    elif patient is not None and subject_commit(salt, patient).hex() != commit:
        findings.add(seq, Flaw.SUBJECT, "the patient is not the one that was committed to")
    return commit is not None


async def check_registry(session: AsyncSession, changes: Changes, findings: Findings) -> None:
    """Every model version stands as its last entry left it."""
    expected = _registry_of(changes, findings)
    rows = await session.execute(
        select(
            ModelVersion.id,
            ModelVersion.model_name,
            ModelVersion.version,
            ModelVersion.file_hash,
            ModelVersion.card,
            ModelVersion.confidence_threshold,
            ModelVersion.status,
        )
    )
    for row in rows:
        seq, wanted = expected.pop(str(row.id), (0, None))
        if wanted is None:
            findings.add(0, Flaw.UNRECORDED, f"model version {row.id} has no entry")
            continue
        stands = {
            "name": row.model_name,
            "version": row.version,
            "sha256": row.file_hash,
            "card_sha256": sha256(row.card.encode()).hexdigest(),
            "confidence_threshold": decimal(row.confidence_threshold),
            "status": str(row.status),
        }
        for name, value in stands.items():
            if value != wanted[name]:
                findings.add(seq, Flaw.RECORD, f"{name} of the model version was changed")
    for seq, _ in expected.values():
        findings.add(seq, Flaw.MISSING, "the model version's row is gone")


async def check_users(session: AsyncSession, changes: Changes, findings: Findings) -> None:
    """Every account is one that an entry made, with the role its last entry gave it."""
    expected = _users_of(changes, findings)
    for row in await session.execute(select(User.id, User.username, User.role)):
        seq, *stands = expected.pop(str(row.id), (0,))
        if not stands:
            findings.add(0, Flaw.UNRECORDED, f"user {row.id} has no entry")
        elif stands != [row.username, str(row.role)]:
            findings.add(seq, Flaw.RECORD, "name or role of the user was changed")
    for seq, *_ in expected.values():
        findings.add(seq, Flaw.MISSING, "the user's row is gone")


def _users_of(changes: Changes, findings: Findings) -> dict[str, tuple[Any, ...]]:
    """By id: the number of the entry that gave the user this role, the name and the role."""
    users: dict[str, tuple[Any, ...]] = {}
    for seq, change in changes:
        try:
            if change["kind"] == "new_user":
                users[change["user_id"]] = (seq, change["username"], change["role"])
            elif change["kind"] == "user_role_changed":
                _, username, _ = users[change["user_id"]]
                users[change["user_id"]] = (seq, username, change["after"])
        except (KeyError, TypeError):
            findings.add(seq, Flaw.PAYLOAD, "the change does not fit the entries before it")
    return users


def _registry_of(changes: Changes, findings: Findings) -> dict[str, tuple[int, dict[str, Any]]]:
    """By id: the number of the version's last entry, and how it left the version."""
    registry: dict[str, tuple[int, dict[str, Any]]] = {}
    for seq, change in changes:
        try:
            for model_id, version in _versions_after(change, registry):
                registry[model_id] = (seq, version)
        except (KeyError, TypeError):
            findings.add(seq, Flaw.PAYLOAD, "the change does not fit the entries before it")
    return registry


def _versions_after(
    change: Mapping[str, Any], registry: Mapping[str, tuple[int, dict[str, Any]]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The model versions that `change` touched, as it left them."""
    if change["kind"] == "new_model_version":
        kept = {name: change[name] for name in ("card_sha256", "confidence_threshold", "status")}
        yield change["model"]["id"], {**change["model"], **kept}
    elif change["kind"] == "model_transition":
        model_id = change["model"]["id"]
        yield model_id, {**registry[model_id][1], "status": change["after"]}
        if change["replaced"] is not None:
            model_id = change["replaced"]["id"]
            yield model_id, {**registry[model_id][1], "status": str(ModelStatus.APPROVED)}
