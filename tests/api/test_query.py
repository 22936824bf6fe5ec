"""Routes that take nothing but a query: answered like FastAPI would, without its solver."""

from typing import Annotated, Any
from uuid import UUID

import httpx2
import pytest
from fastapi import Depends, FastAPI, Query, Request
from fastapi.responses import JSONResponse, Response

from deployments.api.guard import GuardedRoute
from deployments.api.query import QueryReader
from tests.api.house import House

Name = Annotated[str, Query(min_length=1, max_length=5)]
Number = Annotated[int | None, Query(ge=1, le=9, alias="n")]


async def asked(request: Request, name: Name, number: Number = None) -> Response:
    """Answers what it was asked."""
    return JSONResponse({"name": name, "number": number, "path": request.url.path})


QUERIES = (
    "name=abc",
    "name=abc&n=7",
    "name=abc&n=%207",
    "name=abc&number=7",
    "name=abc&other=1&n=2",
    "name=a&name=b",
    "",
    "n=7",
    "name=",
    "name=abcdef",
    "name=abc&n=0",
    "name=abc&n=x",
    "name=&n=99",
    "name=abc&n=",
    "name=%00",
)


@pytest.mark.parametrize("query", QUERIES)
async def test_a_query_is_read_as_fastapi_reads_it(query: str) -> None:
    reader = QueryReader.of(asked)
    assert reader is not None

    async def quick(request: Request) -> Response:
        return await asked(**reader.arguments(request))

    app = FastAPI()
    app.add_api_route("/slow", asked, methods=["GET"], response_model=None)
    app.router.add_route("/quick", quick)
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://medai.test") as client:
        by_fastapi = await client.get(f"/slow?{query}")
        by_reader = await client.get(f"/quick?{query}")

    assert by_reader.status_code == by_fastapi.status_code
    assert without_path(by_reader.json()) == without_path(by_fastapi.json())


def without_path(document: dict[str, Any]) -> dict[str, Any]:
    """The answer without what must differ: the path, and of a fault the input, never echoed."""
    faults = document.get("detail", [])
    document["detail"] = [{**fault, "input": None} for fault in faults]
    return document | {"path": None}


async def by_path(request: Request, result_id: UUID) -> Response:
    raise NotImplementedError


async def with_a_list(request: Request, name: Annotated[list[str], Query()]) -> Response:
    raise NotImplementedError


async def with_a_dependency(request: Request, it: Annotated[int, Depends(int)]) -> Response:
    raise NotImplementedError


async def by_value(request: Request, name: Name) -> dict[str, str]:
    raise NotImplementedError


async def without_parameters(request: Request) -> Response:
    raise NotImplementedError


async def without_a_request(name: Name) -> Response:
    raise NotImplementedError


@pytest.mark.parametrize(
    "endpoint",
    [by_path, with_a_list, with_a_dependency, by_value, without_parameters, without_a_request],
)
def test_what_is_more_than_a_query_is_left_to_fastapi(endpoint: Any) -> None:
    assert QueryReader.of(endpoint) is None


async def test_inference_goes_the_short_way(house: House) -> None:
    (route,) = (
        route
        for route in house.app.routes
        if isinstance(route, GuardedRoute) and route.path == "/infer"
    )

    assert QueryReader.of(route.endpoint) is not None


async def test_another_method_is_refused_on_a_short_route_too(house: House) -> None:
    response = await house.client("clara").put("/infer?model=cxr-pneumonia")

    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
