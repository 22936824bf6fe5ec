"""Passwords: verified in threads, equally slow for everybody, refused where easily guessed."""

import asyncio
import threading

import pytest
from argon2 import PasswordHasher, extract_parameters

from configs.settings import AuthSettings
from deployments.api.passwords import LANES, MAX_LENGTH, MEMORY_KIB, TIME_COST, Passwords
from registry.errors import Overloaded, ValidationFailed

GOOD = "grüner Tee um Mitternacht"
SMALL_KIB = 64


@pytest.fixture
def passwords() -> Passwords:
    return Passwords(AuthSettings(), memory_kib=SMALL_KIB)


def test_the_cost_is_that_of_the_design() -> None:
    parameters = extract_parameters(Passwords(AuthSettings())._nobodys)

    assert (parameters.time_cost, parameters.memory_cost, parameters.parallelism) == (3, 65536, 1)
    assert (TIME_COST, MEMORY_KIB, LANES) == (3, 65536, 1)
    assert parameters.type.name == "ID"


async def test_the_right_password_is_right(passwords: Passwords) -> None:
    stored = await passwords.hash(GOOD, username="rivera")

    assert (await passwords.verify(stored, GOOD)).right
    assert not (await passwords.verify(stored, GOOD + " ")).right
    assert not (await passwords.verify(stored, GOOD.upper())).right


async def test_the_same_characters_are_the_same_password(passwords: Passwords) -> None:
    composed = "gr\u00fcner Tee um Mitternacht"
    decomposed = "gru\u0308ner Tee um Mitternacht"

    stored = await passwords.hash(composed, username="rivera")

    assert (await passwords.verify(stored, decomposed)).right


async def test_every_character_counts(passwords: Passwords) -> None:
    long = "a quite long sentence of words, " * 4
    stored = await passwords.hash(long[:MAX_LENGTH], username="rivera")

    assert not (await passwords.verify(stored, long[: MAX_LENGTH - 1])).right


async def test_an_unknown_user_has_no_right_password(passwords: Passwords) -> None:
    assert not (await passwords.verify(None, GOOD)).right


async def test_an_unknown_user_costs_the_same_hash(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified = []
    real = PasswordHasher.verify

    def spy(self: PasswordHasher, stored: str, password: str) -> bool:
        verified.append(extract_parameters(stored))
        return real(self, stored, password)

    monkeypatch.setattr(PasswordHasher, "verify", spy)
    stored = await passwords.hash(GOOD, username="rivera")

    await passwords.verify(stored, "wrong")
    await passwords.verify(None, "wrong")

    assert verified[0] == verified[1]


async def test_a_spoilt_hash_is_no_error(passwords: Passwords) -> None:
    assert not (await passwords.verify("$argon2id$nonsense", GOOD)).right


async def test_a_hash_of_less_cost_is_told_once_the_password_is_known() -> None:
    weak = Passwords(AuthSettings(), memory_kib=SMALL_KIB)
    stronger = Passwords(AuthSettings(), memory_kib=2 * SMALL_KIB)
    stored = await weak.hash(GOOD, username="rivera")

    assert not (await stronger.verify(stored, "wrong")).outdated
    assert (await stronger.verify(stored, GOOD)).outdated
    assert not (await weak.verify(stored, GOOD)).outdated


@pytest.mark.parametrize(
    "easy",
    [
        "passwordpassword",
        "Password1234567!",
        "qwertyuiopasdfgh",
        "123456789012345",
        "aaaaaaaaaaaaaaaaaaaa",
        "iloveyouiloveyou",
        "maria.riveramaria",  # the user's own name
        "medaiflowmedaiflow",
        "x" * MAX_LENGTH,
    ],
)
def test_an_easily_guessed_password_is_refused(passwords: Passwords, easy: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        passwords.hash_now(easy, username="maria.rivera")

    assert easy not in str(caught.value)


@pytest.mark.parametrize(
    "good",
    [
        "correct horse battery staple",  # no digit, no capital, no sign: none is asked for
        "kX9#vmQz81ppLw7",
        GOOD,
        "лошадь верно батарея скрепка",
        "seven blue tractors sing at dawn " * 3,
    ],
)
def test_no_kind_of_character_is_asked_for(passwords: Passwords, good: str) -> None:
    assert passwords.violations(good, username="rivera") == ()


def test_length_is_counted_in_characters(passwords: Passwords) -> None:
    (short,) = passwords.violations("kX9#vmQz81ppLw", username="rivera")
    (long,) = passwords.violations("ab" * 65, username="rivera")

    assert (short.measured, short.limit) == ("14 characters", "at least 15 characters")
    assert (long.measured, long.limit) == ("130 characters", "at most 128 characters")


async def test_a_full_queue_is_told_at_once_and_empties_again() -> None:
    settings = AuthSettings(password_threads=1, password_queue=1)
    passwords = Passwords(settings, memory_kib=SMALL_KIB)
    release = threading.Event()
    held = [asyncio.ensure_future(passwords._in_thread(release.wait)) for _ in range(2)]
    await asyncio.sleep(0)

    with pytest.raises(Overloaded) as caught:
        await passwords.verify(None, GOOD)

    assert caught.value.retry_after_s == 1
    release.set()
    await asyncio.gather(*held)
    assert not (await passwords.verify(None, GOOD)).right
    passwords.close()


async def test_a_caller_who_leaves_keeps_his_place_until_the_thread_is_done() -> None:
    settings = AuthSettings(password_threads=1, password_queue=1)
    passwords = Passwords(settings, memory_kib=SMALL_KIB)
    release = threading.Event()
    left = asyncio.ensure_future(passwords._in_thread(release.wait))
    await asyncio.sleep(0)

    left.cancel()
    await asyncio.gather(left, return_exceptions=True)

    assert passwords._in_progress == 1
    release.set()
    await passwords.verify(None, GOOD)
    assert passwords._in_progress == 0
