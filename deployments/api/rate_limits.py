"""How often one may ask: a sliding window for each user, and for each address that is nobody's.

Rules this file keeps:

- A request that proves a user's identity counts for the user; any other for its address. A ward
  behind one address does not share what its users have each.
- The log-in counts for address and user name together, so that guessing one account is slow and
  nobody can shut its owner out from elsewhere; and for the address, so that guessing many is slow.
- The windows slide (a fixed window lets two windows' worth through at its edge).
- With Redis all gateways share one count. Where Redis does not answer in time, each gateway counts
  by itself until it does: neither closed, because an outage of a counter must not stop a hospital,
  nor open, because an outage must not be the moment to guess passwords.
- X-Forwarded-For counts only where the connection comes from a proxy the operator named; then the
  last address in it that is not itself such a proxy. What a caller wrote in front of that is text.

Headers as in draft-ietf-httpapi-ratelimit-headers-10: RateLimit-Policy and RateLimit, on 429 only.
"""

import asyncio
import hashlib
import math
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Final
from uuid import UUID

from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from starlette.types import Scope

from configs.settings import RateLimitSettings
from deployments.api.exchange import Exchange
from deployments.telemetry.events import LogEvent
from deployments.telemetry.logs import get_logger
from registry.errors import InvalidConfiguration, RateLimited, Violation

AGAIN_S: Final = 1.0  # how long Redis is left alone after it did not answer
NOWHERE: Final = "none"  # the address of a connection that has none, such as a socket in a test
FORWARDED: Final = b"x-forwarded-for"
IPV6_NETWORK: Final = 64  # bits: one customer has at least so many addresses


class RateLimits:
    """The limits of one gateway.

    Args:
        settings: Rates, storage and trusted proxies.
        clock: Seconds that never go back.

    Raises:
        InvalidConfiguration: The storage's client library is not installed.
    """

    def __init__(
        self, settings: RateLimitSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._user = _item(settings.per_user)
        self._address = _item(settings.per_address)
        self._login = _item(settings.login)
        self._login_address = _item(settings.login_per_address)
        self._trusted = tuple(ip_network(network) for network in settings.trusted_proxies)
        self._timeout_s = settings.storage_timeout_s
        self._here: SlidingWindowCounterRateLimiter | None = None  # made inside of the loop
        self._shared = _shared(settings)
        self._clock = clock
        self._away_until = 0.0
        self._away = False
        self._log = get_logger()

    async def user(self, exchange: Exchange, user_id: UUID) -> None:
        """Count a request of a user. Raises `RateLimited`."""
        await self._hit(exchange, "user", self._user, user_id.hex)

    async def address(self, exchange: Exchange, scope: Scope) -> None:
        """Count a request that proves nobody's identity. Raises `RateLimited`."""
        if self._address is not None:
            await self._hit(exchange, "address", self._address, self.address_of(scope))

    async def login(self, exchange: Exchange, scope: Scope, username: str) -> None:
        """Count a log-in, whether or not there is such a user. Raises `RateLimited`."""
        address = self.address_of(scope)
        # What was typed as a name may be a password: not even the counter's storage sees it.
        name = hashlib.sha256(username.lower().encode("utf-8", "replace")).hexdigest()
        await self._hit(exchange, "login-address", self._login_address, address)
        await self._hit(exchange, "login", self._login, f"{address}|{name}")

    def address_of(self, scope: Scope) -> str:
        """Where a request comes from; of IPv6, the network."""
        client = scope.get("client")
        address = _parsed(client[0]) if client else None
        if address is None:
            return NOWHERE
        if self._trusted and self._is_trusted(address):
            hops = b",".join(value for name, value in scope["headers"] if name == FORWARDED)
            for text in reversed(hops.decode("latin-1").split(",")):
                hop = _parsed(text.strip())
                if hop is None:  # nothing in front of what is no address can be believed
                    break
                address = hop
                if not self._is_trusted(hop):
                    break
        if isinstance(address, IPv6Address):
            return str(ip_network((address, IPV6_NETWORK), strict=False))
        return str(address)

    async def close(self) -> None:
        """End the connections to Redis."""
        if self._shared is not None:
            storage: Any = self._shared.storage  # what it stands on is not in its type
            client = storage.bridge.storage
            await client.aclose()

    def _is_trusted(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._trusted)

    async def _hit(
        self, exchange: Exchange, name: str, item: RateLimitItem | None, key: str
    ) -> None:
        if item is None:
            return
        reset_at = await self._spent(item, name, key)
        if reset_at is not None:
            raise _limited(exchange, name, item, reset_at)

    async def _spent(self, item: RateLimitItem, name: str, key: str) -> float | None:
        """Count once; gives when the window ends where it is used up, else None."""
        if self._shared is not None and self._clock() >= self._away_until:
            try:
                async with asyncio.timeout(self._timeout_s):
                    reset_at = await _count(self._shared, item, name, key)
            except Exception as error:  # noqa: BLE001  # the client library has errors of its own
                self._log.debug(LogEvent.LIBRARY, reason=type(error).__name__)
                self._tell(away=True)
            else:
                self._tell(away=False)
                return reset_at
        if self._here is None:
            self._here = SlidingWindowCounterRateLimiter(MemoryStorage())
        return await _count(self._here, item, name, key)

    def _tell(self, *, away: bool) -> None:
        """Say once that the shared count is away, and once that it is back."""
        if away:
            self._away_until = self._clock() + AGAIN_S
        if away and not self._away:
            self._log.warning(LogEvent.RATE_LIMITS_LOCAL)
        elif self._away and not away:
            self._log.info(LogEvent.RATE_LIMITS_SHARED)
        self._away = away


async def _count(
    strategy: SlidingWindowCounterRateLimiter, item: RateLimitItem, name: str, key: str
) -> float | None:
    if await strategy.hit(item, name, key):
        return None
    return (await strategy.get_window_stats(item, name, key)).reset_time


def _item(rate: str) -> RateLimitItem | None:
    return parse(rate) if rate else None


def _shared(settings: RateLimitSettings) -> SlidingWindowCounterRateLimiter | None:
    url = settings.storage.get_secret_value()
    if url.startswith("memory://"):
        return None
    try:
        storage = RedisStorage(
            f"async+{url}",
            implementation="redispy",
            key_prefix="medai",
            socket_timeout=settings.storage_timeout_s,
            socket_connect_timeout=settings.storage_timeout_s,
        )
    except Exception:  # noqa: BLE001  # its text may quote the URL, which may hold a password
        violation = Violation(
            "MEDAI_RATELIMIT__STORAGE", "", "a Redis URL", "check it, and `pip install redis`"
        )
        raise InvalidConfiguration(
            "the rate limits' storage cannot be used", (violation,)
        ) from None
    return SlidingWindowCounterRateLimiter(storage)


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _limited(exchange: Exchange, name: str, item: RateLimitItem, reset_at: float) -> RateLimited:
    window_s = item.get_expiry()
    wait_s = max(1, min(window_s, math.ceil(reset_at - time.time())))
    exchange.answer_headers = {
        "RateLimit-Policy": f'"{name}";q={item.amount};w={window_s}',
        "RateLimit": f'"{name}";r=0;t={wait_s}',
    }
    return RateLimited("too many requests", retry_after_s=wait_s)
