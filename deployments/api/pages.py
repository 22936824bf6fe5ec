"""Pages of a list, and the links from one to the next.

A list is walked by its links. `next` and `prev` of a list that has cursors are cursors: what they
cost does not depend on how far they lead. Links are relative to the server; what they repeat of the
request are parameters that were read and checked, in their own spelling.
"""

from collections.abc import Mapping
from math import ceil
from typing import Annotated, Final, TypeAlias
from urllib.parse import urlencode

from fastapi import Query, Request
from pydantic import BaseModel, ConfigDict, Field

from registry.errors import ValidationFailed, Violation
from registry.events import ContextValue

MAX_SIZE: Final = 100
DEFAULT_SIZE: Final = 20
COUNTED_WITHIN_S: Final = 5.0  # a page with a number counts the list, which may hold millions

Page = Annotated[int, Query(ge=1, le=1_000_000, description="from 1")]
Size = Annotated[int, Query(ge=1, le=MAX_SIZE, description="how many on a page")]

Parameters: TypeAlias = Mapping[str, object]


class Links(BaseModel):
    """Where else the list can be read; null where there is nothing, or nobody has counted."""

    model_config = ConfigDict(extra="forbid")

    first: str = Field(examples=["/models?size=20"])
    prev: str | None = Field(examples=[None])
    next: str | None = Field(examples=["/models?page=2&size=20"])
    last: str | None = Field(examples=["/models?page=2&size=20"])


def link(request: Request, parameters: Parameters) -> str:
    """The route of `request` with these parameters; None is left out."""
    given = {name: _text(value) for name, value in parameters.items() if value is not None}
    query = f"?{urlencode(given)}" if given else ""
    return f"{request.scope.get('root_path', '')}{request.scope['route'].path}{query}"


def numbered_links(
    request: Request, parameters: Parameters, *, page: int, size: int, total: int
) -> Links:
    """The links of page number `page` of a list of `total`."""
    last = max(1, ceil(total / size))

    def to(number: int) -> str:
        return link(request, {**parameters, "page": number, "size": size})

    return Links(
        first=to(1),
        prev=to(min(page - 1, last)) if page > 1 else None,
        next=to(page + 1) if page < last else None,
        last=to(last),
    )


def refuse_others(request: Request, known: frozenset[str]) -> None:
    """Refuse parameters that the route does not know: a misspelt filter must not be none.

    Raises:
        ValidationFailed: A parameter of another name, or one that comes twice.
    """
    given = request.query_params.multi_items()
    if not {name for name, _ in given} <= known or len(given) > len(request.query_params):
        limit = f"{', '.join(sorted(known))}, each once"
        raise ValidationFailed(
            "the query is not the one this route takes", (Violation("query", limit=limit),)
        )


def refuse_together(**given: object) -> None:
    """Refuse parameters that say where a page begins in more than one way.

    Raises:
        ValidationFailed: More than one of them is set.
    """
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise ValidationFailed(
            "a page begins in one place",
            tuple(Violation(f"query.{name}", advice="leave out the others") for name in names),
        )


def names_of(parameters: Parameters) -> list[ContextValue]:
    """Which parameters are set, for the audit log, which must not hold what came from outside."""
    return [*sorted(name for name, value in parameters.items() if value is not None)]


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
