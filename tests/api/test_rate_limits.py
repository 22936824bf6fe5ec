"""How often one may ask: for each user, each address, each log-in; with Redis, on all gateways."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from importlib.util import find_spec
from typing import Any
from uuid import uuid4

import pytest
from pydantic import ValidationError

from configs.settings import RateLimitSettings
from deployments.api.exchange import Exchange
from deployments.api.rate_limits import RateLimits
from registry.errors import InvalidConfiguration, RateLimited
from tests.api.house import PASSWORD, House

OFF = {"per_user": "", "per_address": "", "login": "", "login_per_address": ""}
REDIS = ("127.0.0.1", 6379)
REDIS_URL = f"redis://{REDIS[0]}:{REDIS[1]}/15"


def limits(**settings: Any) -> RateLimitSettings:
    return RateLimitSettings(**{**OFF, **settings})


def scope(address: str | None, *forwarded: str) -> dict[str, Any]:
    return {
        "client": None if address is None else (address, 1),
        "headers": [(b"x-forwarded-for", value.encode()) for value in forwarded],
    }


async def allowed(rate_limits: RateLimits, user_id: Any, tries: int) -> int:
    """How many of `tries` requests of a user are let through."""
    passed = 0
    for _ in range(tries):
        try:
            await rate_limits.user(Exchange("0-0"), user_id)
        except RateLimited:
            continue
        passed += 1
    return passed


async def test_a_user_who_asks_too_often_is_told_when_to_come_back(
    build: Callable[..., Any],
) -> None:
    house: House = await build(ratelimit=limits(per_user="3/minute"))
    client = house.client("clara")

    statuses = [(await client.get("/auth/me")).status_code for _ in range(3)]
    refused = await client.get("/auth/me")

    assert statuses == [200, 200, 200]
    assert refused.status_code == 429
    assert refused.json()["type"].endswith("/rate-limited")
    wait_s = int(refused.headers["retry-after"])
    assert 1 <= wait_s <= 60
    assert refused.headers["ratelimit-policy"] == '"user";q=3;w=60'
    assert refused.headers["ratelimit"] == f'"user";r=0;t={wait_s}'
    assert (await house.client("carl").get("/auth/me")).status_code == 200
    assert (await client.get("/health/live")).status_code == 200


async def test_who_proves_no_identity_is_counted_by_address(build: Callable[..., Any]) -> None:
    house: House = await build(ratelimit=limits(per_address="2/minute"))
    client = house.client()

    statuses = [
        (await client.get("/auth/me", headers={"Authorization": "Bearer x"})).status_code
        for _ in range(3)
    ]
    open_route = await client.get("/.well-known/jwks.json")
    probes = [(await client.get("/health/ready")).status_code for _ in range(3)]

    assert statuses == [401, 401, 429]
    assert open_route.status_code == 429
    assert probes == [200, 200, 200]
    assert (await house.client("clara").get("/auth/me")).status_code == 200


async def test_guessing_one_account_is_slow_and_told_alike_for_nobody(
    build: Callable[..., Any],
) -> None:
    house: House = await build(ratelimit=limits(login="2/minute"))
    client = house.client()

    async def guess(username: str) -> list[int]:
        form = {"username": username, "password": "wrong"}
        return [(await client.post("/auth/login", data=form)).status_code for _ in range(3)]

    assert await guess("clara") == await guess("nobody") == [401, 401, 429]
    right = {"username": "CLARA", "password": PASSWORD}
    assert (await client.post("/auth/login", data=right)).status_code == 429


async def test_guessing_many_accounts_is_slow(build: Callable[..., Any]) -> None:
    house: House = await build(ratelimit=limits(login_per_address="2/minute"))
    client = house.client()

    statuses = [
        (await client.post("/auth/login", data={"username": name, "password": "x"})).status_code
        for name in ("a", "b", "c")
    ]

    assert statuses == [401, 401, 429]


async def test_the_window_slides() -> None:
    rate_limits = RateLimits(limits(per_user="5/second"))
    user_id = uuid4()

    first = await allowed(rate_limits, user_id, 10)
    await asyncio.sleep(2)  # two windows: the library has a clock of its own

    assert first == 5
    assert await allowed(rate_limits, user_id, 10) == 5


@pytest.mark.parametrize(
    ("trusted", "client", "forwarded", "address"),
    [
        ((), "10.0.0.1", ("1.2.3.4",), "10.0.0.1"),  # anybody can write that header
        (("10.0.0.0/8",), "10.0.0.1", ("1.2.3.4",), "1.2.3.4"),
        (("10.0.0.0/8",), "10.0.0.1", ("6.6.6.6, 1.2.3.4",), "1.2.3.4"),
        (("10.0.0.0/8",), "10.0.0.1", ("6.6.6.6", "1.2.3.4, 10.0.0.2"), "1.2.3.4"),
        (("10.0.0.0/8",), "10.0.0.1", ("6.6.6.6, none, 10.0.0.2",), "10.0.0.2"),
        (("10.0.0.0/8",), "10.0.0.1", ("10.0.0.3",), "10.0.0.3"),
        (("10.0.0.0/8",), "10.0.0.1", (), "10.0.0.1"),
        (("10.0.0.0/8",), "11.0.0.1", ("1.2.3.4",), "11.0.0.1"),
        (("::1/128",), "::1", ("2001:db8:1:2:3:4:5:6",), "2001:db8:1:2::/64"),
        ((), "::ffff:1.2.3.4", (), "1.2.3.4"),
        ((), "a-socket", (), "none"),
        ((), None, (), "none"),
    ],
)
async def test_the_address_is_the_last_one_a_trusted_proxy_tells(
    trusted: tuple[str, ...], client: str | None, forwarded: tuple[str, ...], address: str
) -> None:
    rate_limits = RateLimits(limits(trusted_proxies=trusted))

    assert rate_limits.address_of(scope(client, *forwarded)) == address


@pytest.mark.parametrize(
    "wrong",
    [
        {"per_user": "many"},
        {"login": "0/minute"},
        {"storage": "memcached://x"},
        {"trusted_proxies": ("10.0.0.1/8",)},
    ],
)
def test_a_setting_that_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RateLimitSettings(**wrong)


async def test_a_storage_that_cannot_be_used_is_refused_at_the_start() -> None:
    with pytest.raises(InvalidConfiguration) as refused:
        RateLimits(limits(storage="redis://:secret@host:notaport"))

    assert "secret" not in str(refused.value)


def redis_answers() -> bool:
    if find_spec("redis") is None:
        return False
    try:
        with socket.create_connection(REDIS, timeout=0.5) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(5) == b"+PONG"
    except OSError:
        return False


needs_redis = pytest.mark.skipif(
    not redis_answers(), reason="no Redis answers at 127.0.0.1:6379, or its client is missing"
)


@pytest.fixture
async def gateways() -> AsyncIterator[Callable[..., RateLimits]]:
    """Makes the limits of gateways that share a Redis."""
    made: list[RateLimits] = []

    def make(url: str = REDIS_URL, **settings: Any) -> RateLimits:
        made.append(RateLimits(limits(storage=url, **settings)))
        return made[-1]

    yield make
    for rate_limits in made:
        await rate_limits.close()


@needs_redis
@pytest.mark.redis
async def test_gateways_share_one_count(gateways: Callable[..., RateLimits]) -> None:
    one, other = gateways(per_user="10/minute"), gateways(per_user="10/minute")
    user_id = uuid4()

    passed = await asyncio.gather(allowed(one, user_id, 10), allowed(other, user_id, 10))

    assert sum(passed) == 10


async def test_gateways_that_share_nothing_count_for_themselves() -> None:
    one, other = RateLimits(limits(per_user="10/minute")), RateLimits(limits(per_user="10/minute"))
    user_id = uuid4()

    assert await allowed(one, user_id, 12) == await allowed(other, user_id, 12) == 10


@pytest.mark.skipif(find_spec("redis") is None, reason="the client `redis` is not installed")
@pytest.mark.parametrize("silent", [False, True], ids=["refuses", "is silent"])
async def test_where_redis_is_away_each_gateway_counts_by_itself(
    gateways: Callable[..., RateLimits], lines: Callable[[], list[dict[str, Any]]], silent: bool
) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if silent:
            server.listen()  # connects, and never answers
        url = f"redis://127.0.0.1:{server.getsockname()[1]}/0"
        rate_limits = gateways(url, per_user="3/minute", storage_timeout_s=0.05)
        loop = asyncio.get_running_loop()
        started = loop.time()

        passed = await allowed(rate_limits, uuid4(), 10)

        assert passed == 3
        assert loop.time() - started < 1
    assert [line["event"] for line in lines()] == ["rate_limits_local"]


@needs_redis
@pytest.mark.redis
async def test_a_redis_that_is_back_counts_again(
    lines: Callable[[], list[dict[str, Any]]],
) -> None:
    time = 100.0
    rate_limits = RateLimits(limits(storage=REDIS_URL, per_user="3/minute"), clock=lambda: time)
    rate_limits._tell(away=True)
    user_id = uuid4()

    here = await allowed(rate_limits, user_id, 5)
    time += 2
    shared = await allowed(rate_limits, user_id, 5)
    await rate_limits.close()

    assert (here, shared) == (3, 3)
    assert [line["event"] for line in lines()] == ["rate_limits_local", "rate_limits_shared"]
