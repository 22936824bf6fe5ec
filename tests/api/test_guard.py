"""Deny by default: what was forgotten is closed, and the start says what was forgotten."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.responses import Response
from starlette.routing import Mount, Route

from deployments.api.guard import GuardedRoute, guarded_router, public_paths, refuse_unguarded
from deployments.api.permissions import PERMISSIONS, PUBLIC, Permission, holds, requires
from registry.contract import Role
from registry.errors import InvalidConfiguration


async def endpoint() -> Response:
    return Response()


def test_a_route_without_a_declared_permission_cannot_be_made() -> None:
    router = guarded_router("test")

    with pytest.raises(InvalidConfiguration) as caught:
        router.get("/forgotten")(endpoint)

    (violation,) = caught.value.violations
    assert violation.rule == "/forgotten"
    assert "@requires" in violation.advice


@pytest.mark.parametrize(
    "add",
    [
        lambda app: app.get("/forgotten")(endpoint),
        lambda app: app.router.routes.append(Route("/forgotten", endpoint)),
        lambda app: app.mount("/forgotten", Response()),
        lambda app: app.router.routes.append(Mount("/forgotten", routes=[])),
        lambda app: app.include_router(APIRouter(routes=[Route("/forgotten", endpoint)])),
    ],
    ids=["fastapi", "starlette", "app", "mount", "router"],
)
async def test_an_application_with_another_kind_of_route_does_not_start(
    build: Callable[..., Any], add: Callable[[FastAPI], None]
) -> None:
    with pytest.raises(InvalidConfiguration, match="declares no permission"):
        await build(prepare=add)


def test_a_public_route_has_no_parameter_in_its_path() -> None:
    router = guarded_router("test")

    with pytest.raises(InvalidConfiguration, match="parameter"):
        router.get("/things/{thing}")(requires(PUBLIC)(_copy()))


def test_only_public_routes_are_public() -> None:
    router = guarded_router("test")
    router.get("/open")(requires(PUBLIC)(_copy()))
    router.post("/open")(requires(Permission.INFER)(_copy()))

    assert public_paths([*router.routes, Route("/other", endpoint)]) == {("GET", "/open")}


def test_the_guarded_kind_is_accepted() -> None:
    app = FastAPI(openapi_url=None)
    app.router.routes.append(GuardedRoute("/a", requires(Permission.SESSION)(_copy())))

    refuse_unguarded(app)


def _copy() -> Callable[[], Any]:
    async def another() -> Response:
        return Response()

    return another


def test_what_each_role_may_is_written_here_once_more() -> None:
    assert {role: sorted(map(str, held)) for role, held in PERMISSIONS.items()} == {
        Role.VIEWER: ["models.read", "results.read", "session.use"],
        Role.CLINICIAN: ["inference.create", "models.read", "results.read", "session.use"],
        Role.ADMIN: [
            "admin.access",
            "audit.read",
            "inference.create",
            "metrics.read",
            "models.manage",
            "models.read",
            "results.read",
            "results.read-all",
            "session.use",
            "users.manage",
        ],
    }


def test_every_role_has_its_permissions() -> None:
    assert set(PERMISSIONS) == set(Role)
    assert not holds(Role.VIEWER, Permission.INFER)
