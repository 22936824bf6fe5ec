"""The description: complete, true to the routes, and readable without a way out of the house."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from deployments.api import openapi
from deployments.api.examples import example_of
from deployments.api.guard import GuardedRoute
from tests.api.house import House


@pytest.fixture
async def document(house: House) -> dict[str, Any]:
    described: dict[str, Any] = (await house.client().get("/openapi.json")).json()
    return described


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method, path): operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }


async def test_every_route_is_described(house: House, document: dict[str, Any]) -> None:
    routes = {
        (method.lower(), route.path)
        for route in house.app.routes
        if isinstance(route, GuardedRoute) and route.include_in_schema
        for method in route.methods or ()
    }

    assert operations(document).keys() == routes
    assert len(routes) >= 12


async def test_authorize_knows_where_to_ask(document: dict[str, Any]) -> None:
    (scheme,) = document["components"]["securitySchemes"].items()

    assert scheme == (
        "password",
        {"type": "oauth2", "flows": {"password": {"tokenUrl": "auth/login", "scopes": {}}}},
    )
    assert "/auth/login" in document["paths"]


async def test_every_operation_says_whether_it_needs_a_token(document: dict[str, Any]) -> None:
    public = {key for key, operation in operations(document).items() if operation["security"] == []}

    assert public == {
        *(("post", f"/auth/{act}") for act in ("login", "refresh", "reset")),
        ("get", "/.well-known/jwks.json"),
        *(("get", f"/health{path}") for path in ("", "/live", "/ready", "/startup")),
    }
    for key, operation in operations(document).items():
        if key not in public:
            assert operation["security"] == [{"password": []}]
            assert operation["x-permission"]
            assert {"401", "403", "500", "503"} <= operation["responses"].keys()


async def test_every_problem_is_described_as_one(document: dict[str, Any]) -> None:
    for operation in operations(document).values():
        for status, response in operation["responses"].items():
            if status >= "400" and "HealthReport" not in str(response):
                assert list(response["content"]) == ["application/problem+json"], response


async def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    references = set(re.findall(r"'\$ref': '#/components/schemas/([^']+)'", str(document)))

    assert references <= document["components"]["schemas"].keys()
    assert {"ProblemDetails", "InferenceDetails", "ResultDetails"} <= references


async def test_no_schema_of_the_frameworks_own_errors_is_left(document: dict[str, Any]) -> None:
    assert "HTTPValidationError" not in document["components"]["schemas"]


async def test_the_body_of_infer_is_described(document: dict[str, Any]) -> None:
    body = document["paths"]["/infer"]["post"]["requestBody"]

    assert list(body["content"]) == [
        *("image/jpeg", "image/png", "application/dicom", "multipart/form-data")
    ]
    assert body["required"] is True


async def test_the_page_loads_nothing_from_elsewhere(house: House) -> None:
    client = house.client()

    page = await client.get("/docs")

    assert page.status_code == 200
    assert "http" not in page.text
    csp = page.headers["content-security-policy"]
    assert "script-src 'self';" in csp
    assert "frame-ancestors 'none'" in csp
    sources = re.findall(r'(?:src|href)="([^":]+)"', page.text)  # the icon is in the page itself
    assert len(sources) == 3
    for source in sources:
        asset = await client.get(f"/{source}")
        assert asset.status_code == 200
        assert asset.headers["x-content-type-options"] == "nosniff"
        assert asset.headers["content-type"].partition(";")[0] in {"text/javascript", "text/css"}


async def test_assets_may_be_kept_by_the_browser(house: House) -> None:
    response = await house.client().get("/docs/swagger-ui.css")

    assert response.headers.get_list("cache-control") == ["public, max-age=86400"]


async def test_a_house_without_documentation_has_none(build: Callable[..., Any]) -> None:
    house = await build(docs=False)

    for path in ("/docs", "/openapi.json", "/docs/swagger-ui.css", "/redoc"):
        assert (await house.client().get(path)).status_code == 401
        assert (await house.client("ada").get(path)).status_code == 404


async def test_the_description_is_made_once(house: House, document: dict[str, Any]) -> None:
    assert house.app.openapi() is house.app.openapi()
    assert house.app.openapi() == document


def test_the_document_in_the_repository_is_the_one_that_is_served() -> None:
    file = Path(__file__).parents[2] / "docs" / "openapi.json"

    assert file.read_text("utf-8") == openapi.text(), (
        "run: python -m deployments.api.openapi > docs/openapi.json"
    )


async def test_what_is_served_is_described_alike(document: dict[str, Any]) -> None:
    assert document == openapi.document()


async def test_every_body_and_answer_has_an_example_that_fits(document: dict[str, Any]) -> None:
    checked = 0
    for operation in operations(document).values():
        for body in (operation.get("requestBody", {}), *operation["responses"].values()):
            for content in body.get("content", {}).values():
                schema = {**content["schema"], "components": document["components"]}
                Draft202012Validator(schema).validate(content["example"])
                checked += 1

    assert checked > 200


async def test_every_operation_names_every_problem_that_any_request_can_meet(
    document: dict[str, Any],
) -> None:
    for (_, path), operation in operations(document).items():
        responses = operation["responses"]
        if not path.startswith("/health"):
            assert "rate-limited" in responses["429"]["description"], path
        assert "bad-request" in responses["400"]["description"], path
        if operation["security"]:
            assert "password-expired" in responses["403"]["description"], path


@pytest.mark.parametrize(
    ("schema", "example"),
    [
        ({}, None),
        ({"const": 1}, 1),
        ({"type": "object", "additionalProperties": {"type": "boolean"}}, {"...": True}),
        ({"type": "string", "pattern": "^nothing of ours$"}, "..."),
        ({"type": "number", "maximum": 0.05}, 0.05),
        ({"anyOf": [{"type": "null"}, {"type": "string"}]}, None),
    ],
)
def test_an_example_is_made_of_what_a_schema_says(schema: dict[str, Any], example: Any) -> None:
    assert example_of(schema, {}) == example
