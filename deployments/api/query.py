"""Routes that take nothing but the request and a query: read without FastAPI's dependency solver.

The solver walks the tree of dependencies anew for every request, opens three exit stacks for those
that would need closing, and wraps the endpoint twice: a third of what the API layer costs a request
for inference (docs/performance.md). Such a route needs none of it. Its parameters stay declared as
FastAPI documents them, are checked by the same types, and fail with the same errors.
"""

import inspect
import typing
from collections.abc import Callable
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from fastapi import params
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from starlette.requests import Request
from starlette.responses import Response

REQUEST = "request"  # what an endpoint calls it


class QueryReader:
    """Makes an endpoint's arguments of a request's query.

    Args:
        model: The parameters, each under the name that it has in the query.
    """

    def __init__(self, model: type[BaseModel]) -> None:
        self._validate = model.__pydantic_validator__.validate_python
        self._names = tuple(model.model_fields)

    @classmethod
    def of(cls, endpoint: Callable[..., Any]) -> "QueryReader | None":
        """The reader of an endpoint; None where it takes anything but a query, or answers by value.

        Lists and models are left to FastAPI as well: they have rules of their own.
        """
        hints = typing.get_type_hints(endpoint, include_extras=True)
        given = inspect.signature(endpoint).parameters
        if hints.get("return") is not Response or hints.get(REQUEST) is not Request:
            return None
        fields: dict[str, Any] = {}
        for name, parameter in given.items():
            if name == REQUEST:
                continue
            if not _is_plain(hints[name]):
                return None
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[name] = (hints[name], default)
        if not fields:
            return None
        # The query may hold more: what is in it twice or under other names is the endpoint's matter
        return cls(create_model("Query", __config__=ConfigDict(extra="ignore"), **fields))

    def arguments(self, request: Request) -> dict[str, Any]:
        """The endpoint's arguments. Raises `RequestValidationError`, with every fault."""
        try:
            found = self._validate(dict(request.query_params))
        except ValidationError as error:
            # Without the input: an error must not echo it, and for a missing one it is all the rest
            faults = error.errors(include_url=False, include_input=False)
            raise RequestValidationError(
                [{**fault, "loc": ("query", *fault["loc"])} for fault in faults]
            ) from None
        return {REQUEST: request, **{name: getattr(found, name) for name in self._names}}


def _is_plain(hint: Any) -> bool:
    """Whether a parameter is declared as one value of the query."""
    if get_origin(hint) is not Annotated:
        return False
    kind, *about = get_args(hint)
    kinds = get_args(kind) if get_origin(kind) in {Union, UnionType} else (kind,)
    return any(type(each) is params.Query for each in about) and all(
        isinstance(each, type) and not issubclass(each, list | tuple | set | dict | BaseModel)
        for each in kinds
    )
