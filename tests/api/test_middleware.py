"""What every request meets before and after its route."""

import asyncio
import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import anyio
import pytest
from fastapi import FastAPI, Request
from starlette.responses import Response, StreamingResponse

from configs.settings import LimitSettings
from deployments.api.exchange import claims_of, principal_of
from deployments.api.guard import guarded_router, public_paths
from deployments.api.permissions import PUBLIC, Permission, requires
from registry.errors import Internal
from tests.api.house import INFER, JPEG, House

CANARY = "DOE^JOHN^19560304"
Lines = Callable[[], list[dict[str, Any]]]


class Panic(BaseException):
    """What a Rust extension raises: no Exception."""


def add_test_routes(app: FastAPI) -> None:
    router = guarded_router("test")

    @router.get("/test/headers")
    @requires(PUBLIC)
    async def headers(request: Request) -> dict[str, str]:
        return dict(request.headers)

    @router.get("/test/fault")
    @requires(Permission.SESSION)
    async def fault() -> Response:
        raise ValueError(CANARY)

    @router.get("/test/panic")
    @requires(Permission.SESSION)
    async def panic() -> Response:
        raise Panic(CANARY)

    @router.get("/test/late")
    @requires(Permission.SESSION)
    async def late() -> Response:
        async def body() -> Any:
            yield b"begun"
            raise ValueError(CANARY)

        return StreamingResponse(body())

    @router.get("/test/never")
    @requires(Permission.SESSION)
    async def never() -> Response:
        await asyncio.Event().wait()
        return Response()

    @router.get("/test/stop")
    @requires(Permission.SESSION)
    async def stop() -> Response:
        raise SystemExit

    @router.get("/test/nobody")
    @requires(PUBLIC)
    async def nobody(request: Request) -> Response:
        return Response(str(principal_of(request)))

    @router.get("/test/no-claims")
    @requires(PUBLIC)
    async def no_claims(request: Request) -> Response:
        return Response(str(claims_of(request)))

    app.router.routes.extend(router.routes)


@pytest.fixture
async def house(build: Callable[..., Any]) -> House:
    def public(app: FastAPI) -> None:
        add_test_routes(app)
        (authentication,) = [
            middleware for middleware in app.user_middleware if "public" in middleware.kwargs
        ]
        authentication.kwargs["public"] = public_paths(app.routes)

    built: House = await build(limits=LimitSettings(body_timeout_s=0.2), prepare=public)
    return built


@pytest.mark.parametrize("path", ["/health/live", "/nowhere", "/auth/me"])
async def test_every_answer_has_the_security_headers(house: House, path: str) -> None:
    for client in (house.client(), house.client("vera")):
        response = await client.get(path)

        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert response.headers["cross-origin-resource-policy"] == "same-origin"
        csp = response.headers["content-security-policy"]
        assert csp == "default-src 'none'; frame-ancestors 'none'"
        assert "access-control-allow-origin" not in response.headers


async def test_every_request_has_an_id_of_ours(house: House, lines: Lines) -> None:
    forwarded = "01a20c6d-c85c-7773-8f75-b44e10e03dcd"

    response = await house.client("vera").get("/nowhere", headers={"x-request-id": forwarded})

    ours = response.headers["medai-request-id"]
    assert UUID(ours).version == 7
    assert ours != forwarded
    assert response.json()["instance"] == f"urn:uuid:{ours}"
    (line,) = [line for line in lines() if line["event"] == "request"]
    assert (line["request_id"], line["forwarded_request_id"]) == (ours, forwarded)


@pytest.mark.parametrize("forwarded", [CANARY, "4711", "A" * 5000, "01A20C6D-C85C"])
async def test_a_forwarded_id_of_another_form_is_not_logged(
    house: House, lines: Lines, forwarded: str
) -> None:
    await house.client().get("/auth/me", headers={"x-request-id": forwarded})

    (line,) = lines()
    assert "forwarded_request_id" not in line
    assert "dropped_keys" not in line


async def test_headers_that_would_steer_ray_serve_do_not_come_through(house: House) -> None:
    steering = {"x-request-timeout-seconds": "0", "x-request-disconnect-disabled": "?1"}

    response = await house.client().get("/test/headers", headers={**steering, "x-other": "1"})

    assert response.json().keys() & steering.keys() == set()
    assert response.json()["x-other"] == "1"


@pytest.mark.parametrize(
    "headers",
    [
        [(b"content-length", b"5"), (b"transfer-encoding", b"chunked")],
        [(b"content-length", b"5"), (b"content-length", b"6")],
        [(b"content-length", b"+5")],
        [(b"content-length", b"9" * 5000)],
        [(b"content-length", b"-1")],
    ],
)
async def test_a_length_declared_in_two_ways_is_refused(
    house: House, headers: list[tuple[bytes, bytes]]
) -> None:
    status, _, body = await house.raw("GET", "/health/live", headers=headers)

    assert status == 400
    assert json.loads(body)["type"].endswith("/bad-request")


@pytest.mark.parametrize("path", ["/test/fault", "/test/panic"])
async def test_an_unforeseen_error_says_nothing_but_its_id(
    house: House, lines: Lines, path: str
) -> None:
    response = await house.client("vera").get(path)

    assert response.status_code == 500
    document = response.json()
    assert document["type"].endswith("/internal")
    assert CANARY not in response.text
    written = lines()
    (failed,) = [line for line in written if line["event"] == "request_failed"]
    assert failed["request_id"] == response.headers["medai-request-id"]
    assert (
        failed["place"].startswith(__name__.rpartition(".")[2])
        or "test_middleware" in failed["place"]
    )
    assert CANARY not in json.dumps(written)


async def test_an_error_after_the_answer_began_cuts_it_short_and_says_no_more(
    house: House, lines: Lines
) -> None:
    with pytest.raises(Internal) as caught:
        await house.raw("GET", "/test/late", username="vera")

    assert CANARY not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert "request_failed" in [line["event"] for line in lines()]


async def test_the_order_to_stop_is_not_swallowed(house: House) -> None:
    with pytest.raises(SystemExit):
        await house.raw("GET", "/test/stop", username="vera")


async def test_a_caller_who_leaves_during_the_body_is_no_error(house: House, lines: Lines) -> None:
    begun = {"type": "http.request", "body": b"\xff\xd8", "more_body": True}
    headers = [(b"content-type", b"image/jpeg")]

    status, _, _ = await house.raw("POST", INFER, [begun], headers=headers, username="clara")

    assert status == 0
    (line,) = lines()
    assert (line["event"], line["level"], line["status"]) == ("request", "info", 499)


async def test_a_cancelled_request_stays_cancelled_and_is_told(house: House, lines: Lines) -> None:
    with anyio.move_on_after(0.05) as scope:
        await house.raw("GET", "/test/never", username="vera", silent=True)

    assert scope.cancelled_caught
    assert [line["status"] for line in lines()] == [499]


async def test_a_body_declared_too_large_is_refused_before_it_is_read(house: House) -> None:
    headers = [(b"content-type", b"image/jpeg"), (b"content-length", b"100000000000")]

    status, answered, body = await house.raw(
        "POST", INFER, headers=headers, username="clara", silent=True
    )

    assert status == 413
    assert answered["connection"] == "close"
    (violation,) = json.loads(body)["violations"]
    assert (violation["rule"], violation["measured"]) == ("body", "100000000000 bytes")


async def test_a_body_that_grows_too_large_is_refused_while_it_comes(
    build: Callable[..., Any],
) -> None:
    house = await build(limits=LimitSettings(max_body_bytes=1024))
    part = {"type": "http.request", "body": b"x" * 6000, "more_body": True}
    headers = [(b"content-type", b"image/jpeg"), (b"transfer-encoding", b"chunked")]

    status, _, body = await house.raw("POST", INFER, [part] * 9, headers=headers, username="clara")

    assert status == 413
    assert json.loads(body)["type"].endswith("/payload-too-large")


async def test_a_slow_body_is_given_up(house: House) -> None:
    begun = {"type": "http.request", "body": b"\xff\xd8", "more_body": True}
    headers = [(b"content-type", b"image/jpeg")]

    status, answered, body = await house.raw(
        "POST", INFER, [begun], headers=headers, username="clara", silent=True
    )

    assert status == 408
    assert answered["connection"] == "close"
    assert json.loads(body)["detail"] == "the body was not complete within 0.2 s"


async def test_once_the_body_is_there_its_time_limit_is_over(house: House) -> None:
    whole = {"type": "http.request", "body": b"\xff\xd8\xff", "more_body": False}
    headers = [(b"content-type", b"image/jpeg")]

    status, _, _ = await house.raw("POST", INFER, [whole], headers=headers, username="clara")

    assert status == 200


async def test_a_path_nobody_declared_is_closed_to_anonymous_callers(house: House) -> None:
    response = await house.client().get("/nowhere")

    assert response.status_code == 401
    assert response.headers["www-authenticate"] == 'Bearer realm="medai-flow"'


async def test_a_path_that_is_not_there_is_404_to_those_who_are_known(house: House) -> None:
    response = await house.client("vera").get("/nowhere")

    assert response.status_code == 404
    assert response.json()["type"].endswith("/not-found")


async def test_another_method_is_405_and_says_which_are_allowed(house: House) -> None:
    response = await house.client("clara").get("/infer")

    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert response.json()["type"].endswith("/method-not-allowed")


async def test_a_slash_too_many_is_no_redirect(house: House) -> None:
    response = await house.client("vera").get("/auth/me/")

    assert response.status_code == 404


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer ", "Basic YTpi", "bearer a.b.c", "Bearer x y"],
)
async def test_what_is_no_token_is_refused_in_one_way(house: House, authorization: str) -> None:
    bare = await house.client().get("/auth/me")

    response = await house.client().get("/auth/me", headers={"Authorization": authorization})

    assert response.status_code == 401
    assert {**response.json(), "instance": ""} == {**bare.json(), "instance": ""}


async def test_two_tokens_are_none(house: House) -> None:
    one = (b"authorization", f"Bearer {house.token('vera')}".encode())

    status, _, _ = await house.raw("GET", "/auth/me", headers=[one, one])

    assert status == 401


async def test_the_scheme_is_compared_without_regard_to_case(house: House) -> None:
    response = await house.client().get(
        "/auth/me", headers={"Authorization": f"bEARER {house.token('vera')}"}
    )

    assert response.status_code == 200


@pytest.mark.parametrize("path", ["/test/nobody", "/test/no-claims"])
async def test_a_public_route_knows_nobody(house: House, path: str) -> None:
    response = await house.client("vera").get(path)

    assert response.status_code == 401


async def test_websockets_are_closed(house: House) -> None:
    sent = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    await house.app({"type": "websocket", "path": "/", "headers": []}, receive, send)

    assert sent == [{"type": "websocket.close", "code": 1008}]


async def test_the_access_line_says_what_happened_and_to_whom(house: House, lines: Lines) -> None:
    response = await house.client("clara").post(
        INFER, content=b"\xff\xd8\xff" + CANARY.encode(), headers=JPEG
    )

    (line,) = lines()
    assert line["event"] == "request"
    assert line["method"] == "POST"
    assert line["route"] == "/infer"
    assert line["status"] == 200
    assert line["user_id"] == str(house.users["clara"])
    assert line["role"] == "clinician"
    assert line["bytes_in"] == 3 + len(CANARY)
    assert line["bytes_out"] == len(response.content)
    assert 0 < line["duration_ms"] < 10_000


async def test_probes_that_succeed_are_not_worth_a_line(house: House, lines: Lines) -> None:
    await house.client().get("/health/ready")

    assert lines() == []


async def test_an_invented_method_is_not_written(house: House, lines: Lines) -> None:
    await house.raw(CANARY, "/auth/me", username="vera")

    (line,) = lines()
    assert line["method"] == "OTHER"
    assert CANARY not in json.dumps(line)


async def test_without_tracing_nothing_of_a_trace_is_answered_or_carried(house: House) -> None:
    caller = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}

    answer = await house.client("clara").post(INFER, content=b"film", headers=JPEG | caller)

    assert answer.status_code == 200
    assert "traceparent" not in answer.headers
    assert [upload.trace for upload in house.screening.uploads] == [None]
