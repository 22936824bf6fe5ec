"""The audit log for administrators: a page of it, or all of it as JSON lines.

Looking is in the log, too, before anything is shown. The export is the format that
`deployments/medai_verify.py` checks without this service; it is read from the database and sent
page by page, so it needs no more memory for a large log than for a small one, and no transaction
stays open while a slow reader reads.
"""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated, Any, Final
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Query, Request
from pydantic import AwareDatetime, Field
from starlette.responses import Response, StreamingResponse

from deployments.api.answers import EXAMPLE_SHA256, Answered
from deployments.api.exchange import principal_of, request_id_of
from deployments.api.guard import guarded_router
from deployments.api.pages import (
    COUNTED_WITHIN_S,
    DEFAULT_SIZE,
    MAX_SIZE,
    Links,
    Page,
    Size,
    link,
    names_of,
    numbered_links,
    refuse_others,
    refuse_together,
)
from deployments.api.permissions import Permission, requires
from deployments.api.problems import problems
from deployments.api.trail import Trail
from registry import errors
from registry.events import Actor, AuditAction, AuditOutcome
from storage.audit import Entry
from storage.audit_pages import EntryFilter, EntryPages
from storage.database import Database, Session
from storage.export import export_log

JSON_LINES: Final = "application/x-ndjson"
_PARAMETERS: Final = frozenset(
    {
        *("action", "outcome", "user", "from_seq", "to_seq", "from", "to"),
        *("page", "size", "after"),
    }
)
_HASH: Final[dict[str, Any]] = {"pattern": "^[0-9a-f]{64}$", "examples": [EXAMPLE_SHA256]}


class EntryDetails(Answered):
    """One entry of the log. `payload` is what was hashed; the rest repeats it or follows."""

    seq: int = Field(ge=1)
    event_id: UUID
    recorded_at: str = Field(examples=["2026-11-24T08:00:00.000000Z"])
    action: str = Field(examples=["inference"])
    outcome: str = Field(examples=["success"])
    user_id: UUID | None
    model_version_id: UUID | None
    result_id: UUID | None
    previous_hash: str = Field(**_HASH)
    entry_hash: str = Field(**_HASH)
    leaf_hash: str = Field(**_HASH)
    payload: dict[str, Any] | None = Field(description="null where it cannot be read any longer")


class EntryPage(Answered):
    """A page of entries, the newest first."""

    items: list[EntryDetails]
    page: int | None = Field(ge=1, description="null of a page by cursor")
    size: int = Field(ge=1, le=MAX_SIZE)
    total: int | None = Field(ge=0, description="null of a page by cursor")
    links: Links


Seq = Annotated[int | None, Query(ge=1, le=2**62)]


@dataclass(frozen=True, slots=True)
class Filters:
    """The filters as they came."""

    action: AuditAction | None = None
    outcome: AuditOutcome | None = None
    user: Annotated[UUID | None, Query(description="who did it")] = None
    from_seq: Seq = None
    to_seq: Seq = None
    since: Annotated[AwareDatetime | None, Query(alias="from")] = None
    until: Annotated[AwareDatetime | None, Query(alias="to", description="exclusive")] = None


def routes(database: Database, trail: Trail) -> APIRouter:
    """The routes of this file."""
    router = guarded_router("administration")

    @router.get(
        "/admin/audit",
        summary="Read the audit log",
        response_model=EntryPage,
        responses=problems(
            errors.ValidationFailed, errors.AuditUnavailable, errors.DatabaseUnavailable
        ),
    )
    @requires(Permission.AUDIT)
    async def entries(
        request: Request,
        filters: Annotated[Filters, Depends()],
        page: Annotated[Page | None, Query()] = None,
        size: Size = DEFAULT_SIZE,
        after: Annotated[
            int | None, Query(ge=1, le=2**62, description="entries older than this one")
        ] = None,
    ) -> Response:
        """The newest first. Follow `links.next`, which costs the same however far it leads."""
        refuse_others(request, _PARAMETERS)
        refuse_together(page=page, after=after)
        wanted = _wanted(filters)

        async def read(session: Session) -> tuple[int | None, tuple[Entry, ...]]:
            pages = EntryPages(session, wanted)
            if after is not None:
                return None, await pages.after(after, size + 1)
            return await pages.total(), await pages.numbered(page or 1, size)

        total, found = await database.read(read, within_s=COUNTED_WITHIN_S)
        items = found[:size]
        older = len(found) > size if total is None else (page or 1) * size < total
        parameters = _parameters(filters)
        await trail.record(
            AuditAction.AUDIT_READ,
            "The audit log was read.",
            Actor.user(principal_of(request)),
            request_id=request_id_of(request),
            context={
                "filters": names_of(parameters),
                "newest": items[0].seq if items else None,
                "oldest": items[-1].seq if items else None,
            },
        )
        following = None
        if older and items:
            following = link(request, {**parameters, "after": items[-1].seq, "size": size})
        if total is None:
            links = Links(
                first=link(request, {**parameters, "size": size}),
                prev=None,
                next=following,
                last=None,
            )
        else:
            links = numbered_links(
                request, parameters, page=page or 1, size=size, total=total
            ).model_copy(update={"next": following})
        document = {
            "items": [details(entry) for entry in items],
            "page": None if total is None else page or 1,
            "size": size,
            "total": total,
            "links": links.model_dump(),
        }
        return Response(orjson.dumps(document), media_type="application/json")

    @router.get(
        "/admin/audit/export",
        summary="Export the audit log",
        response_class=Response,
        responses={
            200: {
                "description": "JSON lines: a header, then the entries in order.",
                "content": {JSON_LINES: {"schema": {"type": "string"}}},
            },
            **problems(
                errors.ValidationFailed, errors.AuditUnavailable, errors.DatabaseUnavailable
            ),
        },
    )
    @requires(Permission.AUDIT)
    async def export(
        request: Request,
        after: Annotated[int, Query(ge=0, le=2**62, description="what the reader has")] = 0,
        *,
        records: Annotated[bool, Query(description="with the stored results")] = True,
    ) -> Response:
        """The whole log, this export's own entry included, for `medai-verify`.

        The first line says how many entries are to come: an export that ends earlier is not whole.
        """
        refuse_others(request, frozenset({"after", "records"}))
        await trail.record(
            AuditAction.AUDIT_EXPORTED,
            "The audit log was exported.",
            Actor.user(principal_of(request)),
            request_id=request_id_of(request),
            context={"after": after, "records": records},
        )
        lines = export_log(database, after=after, records=records, software=version("medai-flow"))
        first = await anext(lines)  # where the database is away, that is still a problem's answer
        return StreamingResponse(
            _whole(first, lines),
            media_type=JSON_LINES,
            headers={"Content-Disposition": 'attachment; filename="medai-audit.jsonl"'},
        )

    return router


async def _whole(first: bytes, lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async with aclosing(lines):  # type: ignore[type-var]  # export_log is an async generator
        yield first
        async for piece in lines:
            yield piece


def details(entry: Entry) -> dict[str, Any]:
    """What `EntryDetails` describes."""
    try:
        payload = orjson.loads(entry.payload)
    except orjson.JSONDecodeError:
        payload = None  # somebody was at it; the verifier says so
    return {
        "seq": entry.seq,
        "event_id": entry.event_id,
        "recorded_at": entry.recorded_at,
        "action": entry.action,
        "outcome": entry.outcome,
        "user_id": entry.user_id,
        "model_version_id": entry.model_version_id,
        "result_id": entry.result_id,
        "previous_hash": entry.previous_hash.hex(),
        "entry_hash": entry.entry_hash.hex(),
        "leaf_hash": entry.leaf_hash.hex(),
        "payload": payload if isinstance(payload, dict) else None,
    }


def _wanted(filters: Filters) -> EntryFilter:
    return EntryFilter(
        action=filters.action,
        outcome=filters.outcome,
        user_id=filters.user,
        first_seq=filters.from_seq,
        last_seq=filters.to_seq,
        since=filters.since,
        until=filters.until,
    )


def _parameters(filters: Filters) -> dict[str, object]:
    """The filters as links repeat them."""
    return {
        "action": filters.action,
        "outcome": filters.outcome,
        "user": filters.user,
        "from_seq": filters.from_seq,
        "to_seq": filters.to_seq,
        "from": None if filters.since is None else filters.since.isoformat(),
        "to": None if filters.until is None else filters.until.isoformat(),
    }
