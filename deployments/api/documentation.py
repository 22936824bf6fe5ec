"""The API's description: OpenAPI, and Swagger UI to read and try it.

Swagger UI comes from an installed package, not from a content network: a hospital's network may
have no way out, and no stranger's script belongs on a page where people type their password.

What every route shares is added to the description here, from what the route declares: whether it
needs a token, and the problems that any request can meet.
"""

from functools import cache
from importlib import resources
from typing import Any, Final

import orjson
from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from deployments.api.examples import add_examples
from deployments.api.guard import GuardedRoute, guarded_router
from deployments.api.middleware import PROBES
from deployments.api.permissions import PUBLIC, requires
from deployments.api.problems import MEDIA_TYPE, ProblemDetails, problems
from registry import errors

SCHEME: Final = "password"
FLOW: Final = {"tokenUrl": "auth/login", "scopes": {}}
DESCRIPTION: Final = """\
Authenticated, validated and audited inference on medical images.

Press **Authorize** and enter your user name and password; or `POST /auth/login` and send the token
as `Authorization: Bearer <token>`. Errors are RFC 9457 problem details.
"""
FRAMEWORK_SCHEMAS: Final = ("HTTPValidationError", "ValidationError")  # ours are problems
ASSETS: Final = "fastapi_offline"
CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'"
)
ASSET_CACHE: Final = "public, max-age=86400"
PAGE: Final = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>MedAI Flow</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
START: Final = """\
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayRequestDuration: true,
  validatorUrl: null,
});
"""


def routes() -> APIRouter:
    """The routes of this file. None of them describes itself."""
    router = guarded_router("documentation")

    @router.get("/openapi.json", include_in_schema=False)
    @requires(PUBLIC)
    async def description(request: Request) -> Response:
        return Response(orjson.dumps(request.app.openapi()), media_type="application/json")

    @router.get("/docs", include_in_schema=False)
    @requires(PUBLIC)
    async def page() -> Response:
        return Response(PAGE, headers={"Content-Security-Policy": CSP}, media_type="text/html")

    @router.get("/docs/start.js", include_in_schema=False)
    @requires(PUBLIC)
    async def start() -> Response:
        return Response(START, media_type="text/javascript")

    @router.get("/docs/swagger-ui-bundle.js", include_in_schema=False)
    @requires(PUBLIC)
    async def script() -> Response:
        return _asset("swagger-ui-bundle.js", "text/javascript")

    @router.get("/docs/swagger-ui.css", include_in_schema=False)
    @requires(PUBLIC)
    async def style() -> Response:
        return _asset("swagger-ui.css", "text/css")

    return router


def _asset(name: str, media_type: str) -> Response:
    return Response(_content(name), headers={"Cache-Control": ASSET_CACHE}, media_type=media_type)


@cache
def _content(name: str) -> bytes:
    return (resources.files(ASSETS) / "static" / name).read_bytes()


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of the application. Made once; then it is `app.openapi_schema`."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
        )
        components = document.setdefault("components", {})
        schemas = components.setdefault("schemas", {})
        schemas.update(_problem_schemas())
        for name in FRAMEWORK_SCHEMAS:
            schemas.pop(name, None)
        components["securitySchemes"] = {
            SCHEME: {
                "type": "oauth2",
                "flows": {"password": {"tokenUrl": "auth/login", "scopes": {}}},
            }
        }
        for route in app.routes:
            if isinstance(route, GuardedRoute) and route.include_in_schema:
                for method in route.methods or ():
                    _complete(document["paths"][route.path][method.lower()], route)
        add_examples(document)
        app.openapi_schema = document
    return app.openapi_schema


def _complete(operation: dict[str, Any], route: GuardedRoute) -> None:
    """Add what every route shares. What the route says itself stands."""
    permission = route.access.permission
    shared: list[type[errors.MedAIError]] = [errors.BadRequest, errors.Internal]
    if not route.path.startswith(PROBES):
        shared.append(errors.RateLimited)
    if permission is None:
        operation["security"] = []
    else:
        operation["security"] = [{SCHEME: []}]
        operation["x-permission"] = str(permission)
        shared += [errors.Unauthenticated, errors.Forbidden, errors.PasswordExpired]
        shared.append(errors.DatabaseUnavailable)
    responses = operation["responses"]
    if FRAMEWORK_SCHEMAS[0] in str(responses.get("422")):
        del responses["422"]
        shared.append(errors.ValidationFailed)
    for status, response in problems(*shared).items():
        own = responses.setdefault(str(status), response)
        if own is not response and MEDIA_TYPE in own.get("content", {}):
            both = {*own["description"].split("; "), *response["description"].split("; ")}
            own["description"] = "; ".join(sorted(both))


def _problem_schemas() -> dict[str, Any]:
    _, document = models_json_schema(
        [(ProblemDetails, "serialization")], ref_template="#/components/schemas/{model}"
    )
    schemas: dict[str, Any] = document["$defs"]
    return schemas
