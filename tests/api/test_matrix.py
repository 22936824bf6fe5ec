"""Every route as every kind of caller: made from the routes, so that none can be forgotten."""

from collections import Counter
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from deployments.api.guard import GuardedRoute
from deployments.api.permissions import holds
from registry.contract import Role
from registry.events import AuditAction, NewUser
from tests.api.house import INFER, JPEG, PASSWORD, House, disable

CALLERS = ("anonymous", "viewer", "clinician", "admin", "disabled", "revoked")
ROLES = {"viewer": Role.VIEWER, "clinician": Role.CLINICIAN, "admin": Role.ADMIN}
BODIES: dict[str, dict[str, Any]] = {
    "/auth/refresh": {"refresh_token": "nobody's"},
    "/auth/reset": {"reset_token": "nobody's", "new_password": PASSWORD},
    "/auth/password": {"old_password": "wrong", "new_password": PASSWORD},
    "/admin/users": {"username": "carl", "role": "viewer"},
    "/admin/models/{name}/halt": {"reason": "wrong-answers"},
    "/admin/models/{name}/{version}/shadow": {"share": 0.5},
}
IMAGE = b"\xff\xd8\xff"
FORMS = {
    "/infer/batch": ("/infer/batch?model=cxr-pneumonia", {"file": ("1.jpg", IMAGE, "image/jpeg")}),
    "/admin/models": ("/admin/models", {"card": ("", b"[", ""), "model": ("", b"m", "")}),
}


@pytest.fixture
async def callers(house: House) -> dict[str, httpx2.AsyncClient]:
    """A client of each kind."""
    house.users["dora"] = uuid4()
    await house.record(
        AuditAction.USER_CREATED, NewUser(house.users["dora"], "dora", Role.ADMIN, "$argon2id$")
    )
    clients = {
        "anonymous": house.client(),
        "viewer": house.client("vera"),
        "clinician": house.client("clara"),
        "admin": house.client("ada"),
        "disabled": house.client("dora"),
        "revoked": house.client("ada"),
    }
    await disable(house, "dora")
    await house.services.sessions.refresh()
    assert (await clients["revoked"].post("/auth/logout")).status_code == 204
    return clients


async def send(house: House, client: httpx2.AsyncClient, method: str, path: str) -> int:
    """A request that is right in all but its caller."""
    if path == "/infer":
        return (await client.post(INFER, content=IMAGE, headers=JPEG)).status_code
    if path in FORMS:
        address, files = FORMS[path]
        return (await client.post(address, files=files)).status_code
    if path == "/auth/login":
        form = {"username": "nobody", "password": "wrong"}
        return (await client.post(path, data=form)).status_code
    if path in BODIES and method == "POST":
        address = path.format(name="nothing", version="0.0.0")
        return (await client.request(method, address, json=BODIES[path])).status_code
    if "{user_id}" in path:
        body = {"locked": False} if method == "PATCH" else None
        path = path.format(user_id=house.users["carl"])
        return (await client.request(method, path, json=body)).status_code
    if path.startswith("/results/{result_id}"):
        answer = await house.client("clara").post(INFER, content=IMAGE, headers=JPEG)
        path = path.format(result_id=answer.json()["result_id"])
    path = path.format(model="cxr-pneumonia", name="cxr-pneumonia", version="0.0.0")
    assert "{" not in path, f"the matrix does not know how to ask for {path}"
    return (await client.request(method, path)).status_code


def expected(route: GuardedRoute, caller: str) -> set[int]:
    """The statuses that are right."""
    permission = route.access.permission
    if route.path in {"/auth/login", "/auth/refresh", "/auth/reset"}:
        return {401}  # of a wrong password or token: the route itself is open
    if permission is None:
        return {200}
    role = ROLES.get(caller)
    if role is None:
        return {401}
    if not holds(role, permission):
        return {403}
    return {allowed(route, caller)}


def allowed(route: GuardedRoute, caller: str) -> int:
    """The status of a caller who may ask."""
    special = {
        "/admin/models": 422,  # the card is none; a trial takes seconds
        "/auth/logout": 204,
        "/auth/password": 422,  # the old password is wrong; the caller is let as far as that
    }
    if route.path.startswith("/results/{result_id}") and caller == "viewer":
        return 404  # not theirs
    if route.path.endswith("/evidence"):
        return 503  # no checkpoint covers it yet: nothing signs in this house
    if route.path == "/admin/users" and "POST" in (route.methods or ()):
        return 409  # there is one of this name
    if route.path.endswith(
        ("/halt", "/{version}/approve", "/{version}/activate", "/{version}/retire", "/shadow")
    ):
        return 404  # no such model, no such version of it, or no challenger yet
    if route.path.endswith(("/rollback", "/resume", "/shadow/end")):
        return 409  # no version served before, nothing is halted, nothing is compared
    return special.get(route.path, 200)


async def test_every_route_answers_every_caller_as_declared(
    house: House, callers: dict[str, httpx2.AsyncClient]
) -> None:
    cells = 0
    answered: Counter[int] = Counter()
    wrong = []
    routes = [route for route in house.app.routes if isinstance(route, GuardedRoute)]
    last = [route for route in routes if route.path == "/auth/logout"]

    for route in [*(route for route in routes if route not in last), *last]:
        for method in route.methods or ():
            for caller in CALLERS:
                status = await send(house, callers[caller], method, route.path)
                cells += 1
                answered[status] += 1
                if status not in expected(route, caller):
                    wrong.append((method, route.path, caller, status))

    answers = dict(sorted(answered.items()))
    print(f"matrix: {len(routes)} routes x {len(CALLERS)} callers, {answers}, wrong: {len(wrong)}")  # noqa: T201  # shown by -s, for the record
    assert wrong == []
    assert cells == 6 * len(routes) >= 6 * 15


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"])
async def test_no_method_opens_a_route_to_anonymous_callers(house: House, method: str) -> None:
    client = house.client()

    for route in house.app.routes:
        assert isinstance(route, GuardedRoute)
        public = route.access.permission is None and method in (route.methods or ())
        status = (await client.request(method, route.path)).status_code
        if not public:
            assert status == 401, (method, route.path)


@pytest.mark.parametrize(
    "path",
    [
        "/auth/login/../me",
        "//auth/me",
        "/health/live/../../admin/secure",
        "/health/live%2f..%2fadmin",
        "/docs/../admin/secure",
        "/HEALTH/live",
        "/auth/login/",
        "/health/live;/admin/secure",
    ],
)
async def test_no_spelling_of_a_path_opens_another(house: House, path: str) -> None:
    status, _, _ = await house.raw("GET", path)

    assert status == 401


async def test_an_app_under_a_prefix_knows_its_public_routes(build: Callable[..., Any]) -> None:
    house = await build()
    client = httpx2.AsyncClient(
        transport=httpx2.ASGITransport(house.app, root_path="/medai"), base_url="http://medai.test"
    )

    assert (await client.get("/medai/health/live")).status_code == 200
    assert (await client.get("/medai/auth/me")).status_code == 401
    assert (await client.get("/medai/health/live/medai")).status_code == 401
    await client.aclose()
