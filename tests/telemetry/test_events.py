"""The keys' forms: none lets free text through."""

import math
from uuid import UUID

import pytest

from deployments.telemetry.events import KEYS, LogEvent
from registry.contract import Role

# What people write into fields: no key takes it.
FREE_TEXT = (
    "DOE^JOHN",
    "Doe, John",
    "JOHN DOE",
    "MRN 4711-0815",
    "Patient has pneumonia.",
    "j\u00f6hn",
    "doe@example.org",
    "C:\\doe\\image.dcm",
    "a\nfake line",
    "",
)
# A single word or number looks like a constant of ours: these keys must never be filled from a
# request, and the rest take none.
BARE = ("doe", "12345678", "1956-03-04", "04.03.1956", "/data/doe/image.dcm")
CONSTANT = {
    *("action", "backend", "check", "code", "component", "error", "kid", "logger", "model"),
    *("outcome", "permission", "reason", "replica", "route", "software", "version"),
}


@pytest.mark.parametrize("key", sorted(KEYS))
def test_no_key_takes_what_people_write(key: str) -> None:
    assert [text for text in FREE_TEXT if KEYS[key](text) is not None] == []


@pytest.mark.parametrize("key", sorted(KEYS.keys() - CONSTANT))
def test_only_keys_of_constants_take_a_bare_word(key: str) -> None:
    assert [text for text in BARE if KEYS[key](text) is not None] == []


@pytest.mark.parametrize(
    ("key", "value", "written"),
    [
        ("status", 200, 200),
        ("status", True, None),
        ("status", "200", None),
        ("duration_ms", 1.23456, 1.235),
        ("duration_ms", math.nan, None),
        ("duration_ms", math.inf, None),
        ("request_id", UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (
            "request_id",
            "00000000-0000-0000-0000-000000000001",
            "00000000-0000-0000-0000-000000000001",
        ),
        ("request_id", "00000000000000000000000000000001", None),
        ("role", Role.ADMIN, "admin"),
        ("route", "/results/{result_id}", "/results/{result_id}"),
        ("route", "/results/4711 DOE", None),
        ("trace", "a.b:1 < c:2", "a.b:1 < c:2"),
        ("code", "x" * 257, None),
        ("pid", 12, 12),
    ],
)
def test_a_value_is_written_only_in_its_keys_form(key: str, value: object, written: object) -> None:
    assert KEYS[key](value) == written


def test_what_is_written_is_plain_text_not_an_enumeration() -> None:
    assert type(KEYS["role"](Role.ADMIN)) is str


def test_an_events_name_is_that_of_its_constant() -> None:
    assert [event for event in LogEvent if event.value != event.name.lower()] == []
