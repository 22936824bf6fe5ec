"""`GET /results`: recorded results, the newest first, for those who may see them.

A user sees their own; an administrator all. Every list is in the audit log before it is answered:
which filters, how many results, and the first and the last of them.

A patient is looked for by the id that the site uses, which becomes a pseudonym before anything else
happens, or by the pseudonym that an answer shows. The second belongs into URLs, and is what links
repeat: a URL can end in the log of whatever proxy stands in front.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Query, Request
from pydantic import AwareDatetime, Field
from starlette.responses import Response

from deployments.api.answers import Answered, ModelIdentity
from deployments.api.exchange import exchange_in, principal_of, request_id_of
from deployments.api.guard import guarded_router
from deployments.api.infer import identity
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
from deployments.api.permissions import Permission, holds, requires
from deployments.api.problems import AuditPosition, problems
from deployments.api.trail import Trail
from deployments.inference.pseudonym import Pseudonyms
from registry import errors
from registry.contract import Outcome, Principal, Reason
from registry.errors import Forbidden, ValidationFailed, Violation
from registry.events import Actor, AuditAction
from storage.database import Database
from storage.result_pages import ListedResult, ResultFilter, ResultPages

MAX_PATIENT_ID: Final = 64  # characters (DICOM PS3.5, LO)
_PSEUDONYM: Final = re.compile(r"p[0-9]{1,9}:[0-9a-f]{32}")
PARAMETERS: Final = frozenset(
    {
        *("model_id", "model_version", "outcome", "status", "created_by", "patient", "from", "to"),
        *("needs_review", "page", "size", "after", "before"),
    }
)


class ResultSummary(Answered):
    """What a list shows of a result; `GET /results/{result_id}` shows the rest."""

    result_id: UUID
    created_at: datetime
    created_by: UUID
    outcome: Outcome
    prediction: str | None
    confidence: float | None = Field(ge=0, le=1)
    needs_review: bool
    reasons: list[Reason]
    error_code: str | None
    model: ModelIdentity
    patient: str | None = Field(description="pseudonym of the patient's id")
    audit: AuditPosition


class ResultPage(Answered):
    """A page of results, the newest first. Of a page by cursor, nobody counts the others."""

    items: list[ResultSummary]
    page: int | None = Field(ge=1, description="null of a page by cursor")
    size: int = Field(ge=1, le=MAX_SIZE)
    total: int | None = Field(ge=0, description="null of a page by cursor")
    links: Links


@dataclass(frozen=True, slots=True)
class Filters:
    """The filters as they came."""

    model_id: Annotated[
        str | None,
        Query(min_length=1, max_length=63, description="a model's name, or a version's id"),
    ] = None
    model_version: Annotated[str | None, Query(min_length=1, max_length=20)] = None
    outcome: Outcome | None = None
    status: Annotated[Outcome | None, Query(description="another name of `outcome`")] = None
    created_by: Annotated[UUID | None, Query(description="not oneself: administrators only")] = None
    patient: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=MAX_PATIENT_ID,
            description="the id at the site, or better the pseudonym",
        ),
    ] = None
    since: Annotated[AwareDatetime | None, Query(alias="from")] = None
    until: Annotated[AwareDatetime | None, Query(alias="to", description="exclusive")] = None
    needs_review: bool | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the list the page is: a page number, or the result before or after it."""

    page: Page | None = None
    size: Size = DEFAULT_SIZE
    after: Annotated[UUID | None, Query(description="results older than this one")] = None
    before: Annotated[UUID | None, Query(description="results newer than this one")] = None


def routes(database: Database, trail: Trail, pseudonyms: Pseudonyms) -> APIRouter:
    """The routes of this file."""
    router = guarded_router("results")

    @router.get(
        "/results",
        summary="List results",
        response_model=ResultPage,
        responses=problems(
            errors.ValidationFailed,
            errors.Forbidden,
            errors.AuditUnavailable,
            errors.DatabaseUnavailable,
        ),
    )
    @requires(Permission.RESULTS_READ)
    async def listed(
        request: Request,
        filters: Annotated[Filters, Depends()],
        place: Annotated[Place, Depends()],
    ) -> Response:
        """One's own results; an administrator's are all.

        Follow `links.next`: it costs the same however far the list goes, where a page number costs
        counting up to it. Results that come meanwhile do not shift what is behind a cursor.
        """
        refuse_others(request, PARAMETERS)
        refuse_together(page=place.page, after=place.after, before=place.before)
        refuse_together(outcome=filters.outcome, status=filters.status)
        principal = principal_of(request)
        if not _may_list(principal, filters.created_by):
            exchange_in(request.scope).permission = Permission.RESULTS_READ_ALL
            raise Forbidden(f"this needs the permission {Permission.RESULTS_READ_ALL}")
        wanted = wanted_of(filters, principal, pseudonyms)
        parameters = _parameters(filters, wanted)
        found = await database.read(
            lambda session: _read(ResultPages(session, wanted), place), within_s=COUNTED_WITHIN_S
        )
        await trail.record(
            AuditAction.RESULTS_LISTED,
            "Recorded results were listed.",
            Actor.user(principal),
            request_id=request_id_of(request),
            context={
                "filters": names_of(parameters),
                "all": wanted.created_by is None,
                "count": len(found.items),
                "newest": str(found.items[0].result_id) if found.items else None,
                "oldest": str(found.items[-1].result_id) if found.items else None,
            },
        )
        document = {
            "items": [summary(item) for item in found.items],
            "page": found.page,
            "size": place.size,
            "total": found.total,
            "links": _links(request, parameters, place, found).model_dump(),
        }
        return Response(orjson.dumps(document), media_type="application/json")

    return router


@dataclass(frozen=True, slots=True)
class _Found:
    items: tuple[ListedResult, ...]
    page: int | None
    total: int | None
    newer: bool  # whether there are newer results than these
    older: bool


async def _read(pages: ResultPages, place: Place) -> _Found:
    size = place.size
    if place.after is not None:
        items = await pages.after(place.after, size + 1)  # one more, to see whether there is one
        return _Found(items[:size], None, None, newer=True, older=len(items) > size)
    if place.before is not None:
        items = await pages.before(place.before, size + 1)
        return _Found(items[-size:], None, None, newer=len(items) > size, older=True)
    page, total = place.page or 1, await pages.total()
    items = await pages.numbered(page, size, total=total)
    return _Found(items, page, total, newer=page > 1, older=page * size < total)


def _links(request: Request, parameters: Mapping[str, Any], place: Place, found: _Found) -> Links:
    def to(**where: object) -> str:
        return link(request, {**parameters, **where, "size": place.size})

    older = to(after=found.items[-1].result_id) if found.items and found.older else None
    if found.page is not None and found.total is not None:
        numbered = numbered_links(
            request, parameters, page=found.page, size=place.size, total=found.total
        )
        return numbered.model_copy(update={"next": older})
    newer = to(before=found.items[0].result_id) if found.items and found.newer else None
    return Links(first=to(), prev=newer, next=older, last=None)


def _may_list(principal: Principal, created_by: UUID | None) -> bool:
    return created_by in {None, principal.user_id} or holds(
        principal.role, Permission.RESULTS_READ_ALL
    )


def wanted_of(filters: Filters, principal: Principal, pseudonyms: Pseudonyms) -> ResultFilter:
    """The filter that is applied: never more than the caller may see.

    Raises:
        ValidationFailed: The patient's id is not one.
    """
    whose = filters.created_by
    if whose is None and not holds(principal.role, Permission.RESULTS_READ_ALL):
        whose = principal.user_id
    return ResultFilter(
        created_by=whose,
        model=_model(filters.model_id),
        model_version=filters.model_version,
        outcome=filters.outcome or filters.status,
        patient=None if filters.patient is None else _pseudonym(filters.patient, pseudonyms),
        since=filters.since,
        until=filters.until,
        needs_review=filters.needs_review,
    )


def _model(model_id: str | None) -> str | UUID | None:
    try:
        return None if model_id is None else UUID(model_id)
    except ValueError:
        return model_id


def _pseudonym(patient: str, pseudonyms: Pseudonyms) -> str:
    if _PSEUDONYM.fullmatch(patient):
        return patient
    pseudonym = pseudonyms.of(patient) if patient.isprintable() else None
    if pseudonym is None:
        limit = f"1 to {MAX_PATIENT_ID} printable characters, or a pseudonym"
        raise ValidationFailed(
            "the patient's id is not one", (Violation("query.patient", limit=limit),)
        )
    return pseudonym


def _parameters(filters: Filters, wanted: ResultFilter) -> dict[str, object]:
    """The filters as links repeat them."""
    return {
        "model_id": wanted.model,
        "model_version": wanted.model_version,
        "outcome": wanted.outcome,
        "created_by": filters.created_by,
        "patient": wanted.patient,
        "from": None if wanted.since is None else wanted.since.isoformat(),
        "to": None if wanted.until is None else wanted.until.isoformat(),
        "needs_review": wanted.needs_review,
    }


def summary(item: ListedResult) -> dict[str, Any]:
    """What `ResultSummary` describes."""
    return {
        "result_id": item.result_id,
        "created_at": item.created_at,
        "created_by": item.created_by,
        "outcome": item.outcome,
        "prediction": item.prediction,
        "confidence": item.confidence,
        "needs_review": item.needs_review,
        "reasons": item.reasons,
        "error_code": item.error_code,
        "model": identity(item.model),
        "patient": item.patient,
        "audit": {"seq": item.receipt.seq, "entry_hash": item.receipt.entry_hash.hex()},
    }
