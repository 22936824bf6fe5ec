"""Passwords: Argon2id (RFC 9106) in threads of their own, and what a new password must be.

Rules this file keeps:

- The event loop never hashes, and at most `auth.password_threads` hashes run at once: each takes
  64 MiB. More than `auth.password_queue` waiting ones are refused.
- An unknown user costs what a known one costs: a hash nobody has the password of is verified.
- No composition rules, no expiry, no truncation (NIST SP 800-63B-4 §3.1.1.2): length, and not
  easily guessed. Text is normalised (NFKC) where it is set and where it is verified alike.
"""

import asyncio
import secrets
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

from argon2 import PasswordHasher, Type, extract_parameters
from argon2.exceptions import Argon2Error, InvalidHashError

from configs.settings import AuthSettings
from registry.errors import Overloaded, ValidationFailed, Violation

TIME_COST: Final = 3  # passes
MEMORY_KIB: Final = 64 * 1024
LANES: Final = 1  # one thread a hash: under load the threads are the parallelism
MAX_LENGTH: Final = 128  # characters
MIN_GUESSES: Final = 10**10  # that an attacker who knows people's habits needs
ENOUGH: Final = 32  # characters that settle the question in most cases
RETRY_AFTER_S: Final = 1

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Verification:
    """Whether the password was right, and whether its hash costs an attacker less than today's."""

    right: bool
    outdated: bool = False


class Passwords:
    """Hashes and verifies.

    Args:
        settings: Threads, queue and the least length.
        memory_kib: Argon2's memory; smaller in tests only.
    """

    def __init__(self, settings: AuthSettings, *, memory_kib: int = MEMORY_KIB) -> None:
        self._hasher = PasswordHasher(
            time_cost=TIME_COST, memory_cost=memory_kib, parallelism=LANES, type=Type.ID
        )
        self._min_length = settings.password_min_length
        self._capacity = settings.password_threads + settings.password_queue
        self._in_progress = 0
        self._threads = ThreadPoolExecutor(settings.password_threads, "argon2")
        self._nobodys = self._hasher.hash(secrets.token_urlsafe(32))
        self._todays = extract_parameters(self._nobodys)

    async def verify(self, stored: str | None, password: str) -> Verification:
        """Whether `password` is the one behind `stored`; never where there is no stored hash.

        Raises:
            Overloaded: Too many verifications wait already.
        """
        return await self._in_thread(lambda: self._verify(stored, password))

    async def hash(self, password: str, *, username: str) -> str:
        """The hash to store for a new password.

        Raises:
            ValidationFailed: The password breaks the policy; every broken rule is named.
            Overloaded: Too many hashes wait already.
        """
        return await self._in_thread(lambda: self.hash_now(password, username=username))

    def hash_now(self, password: str, *, username: str) -> str:
        """As `hash`, in the caller's thread: for the command line."""
        if violations := self.violations(password, username=username):
            raise ValidationFailed("the password is not accepted", violations)
        return self._hasher.hash(_normalised(password))

    async def renewed(self, password: str) -> str:
        """A hash at today's cost for a password that is in use already, whatever the policy says.

        Raises:
            Overloaded: Too many hashes wait already.
        """
        return await self._in_thread(lambda: self._hasher.hash(_normalised(password)))

    async def unusable(self) -> str:
        """A hash whose password nobody knows, at the full cost: for accounts that have none yet.

        Raises:
            Overloaded: Too many hashes wait already.
        """
        return await self._in_thread(lambda: self._hasher.hash(secrets.token_urlsafe(32)))

    def violations(self, password: str, *, username: str) -> tuple[Violation, ...]:
        """The rules that a new password breaks."""
        length = len(_normalised(password))
        if length < self._min_length:
            limit = f"at least {self._min_length} characters"
            return (Violation("password", f"{length} characters", limit, "choose a longer one"),)
        if length > MAX_LENGTH:
            limit = f"at most {MAX_LENGTH} characters"
            return (Violation("password", f"{length} characters", limit, "choose a shorter one"),)
        if not _withstands(_normalised(password), username):
            advice = "choose one that is not made of common passwords, repeats, rows of keys,"
            return (Violation("password", advice=f"{advice} or the name of the user or service"),)
        return ()

    def close(self) -> None:
        """End the threads once they are idle."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _verify(self, stored: str | None, password: str) -> Verification:
        text = _normalised(password)
        try:
            self._hasher.verify(stored or self._nobodys, text)
        except (Argon2Error, InvalidHashError):
            return Verification(right=False)
        if stored is None:  # cannot be: nobody knows that password
            return Verification(right=False)
        return Verification(right=True, outdated=self._is_outdated(stored))

    def _is_outdated(self, stored: str) -> bool:
        """Of another kind than today's, or cheaper in any way. One that costs more stays."""
        found, today = extract_parameters(stored), self._todays
        return (found.type, found.version) != (today.type, today.version) or any(
            getattr(found, cost) < getattr(today, cost)
            for cost in ("time_cost", "memory_cost", "salt_len", "hash_len")
        )

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._in_progress >= self._capacity:
            raise Overloaded("too many log-ins at once", retry_after_s=RETRY_AFTER_S)
        self._in_progress += 1
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        # The thread works on where the caller leaves; it is counted until it is done.
        future.add_done_callback(self._done)
        return await asyncio.shield(future)

    def _done(self, future: "asyncio.Future[T]") -> None:
        self._in_progress -= 1
        if not future.cancelled():
            future.exception()  # seen, also where the caller has left


def _normalised(password: str) -> str:
    return unicodedata.normalize("NFKC", password)


def _withstands(password: str, username: str) -> bool:
    """Whether the password needs `MIN_GUESSES`, as zxcvbn counts (Wheeler, USENIX Security 2016).

    A password is not weaker than its beginning, and a long one takes zxcvbn seconds to judge.
    """
    # A megabyte of word lists, needed only where a password is set.
    from zxcvbn import zxcvbn  # type: ignore[import-untyped]  # noqa: PLC0415

    return any(
        zxcvbn(part, user_inputs=[username, "medai", "flow"], max_length=MAX_LENGTH)["guesses"]
        >= MIN_GUESSES
        for part in (password[:ENOUGH], password)
    )
