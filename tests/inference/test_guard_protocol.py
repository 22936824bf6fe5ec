"""The protocol: what is sent arrives, and what does not fit is a broken file."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.settings import LimitSettings
from deployments.inference.guard_protocol import (
    PREFIX,
    pack_prepared,
    pack_refusal,
    pack_work,
    unpack_answer,
    unpack_work,
)
from deployments.inference.prepare import Work, prepare
from registry.errors import (
    ImageTooLarge,
    MedAIError,
    Rejected,
    UndecodableImage,
    ValidationFailed,
    Violation,
    leaves,
)
from tests.inference.files import LIMITS, film_jpeg
from tests.inference.guards import SPECS

BODY = film_jpeg()
WORK = Work(BODY, "image/jpeg", 1, hashlib.sha256(BODY).hexdigest(), SPECS)
PREPARED = prepare(WORK, LIMITS)
LEAVES = sorted(leaves(Rejected), key=lambda leaf: leaf.__name__)


def split(message: bytes) -> tuple[bytes, bytes]:
    header, payload = PREFIX.unpack(message[: PREFIX.size])
    assert len(message) == PREFIX.size + header + payload
    return message[PREFIX.size : PREFIX.size + header], message[PREFIX.size + header :]


def test_work_arrives_as_it_was_sent() -> None:
    limits = LimitSettings(max_pixels=5000)
    packed = pack_work(WORK, limits, soon_s=0.25)

    header, payload_bytes = PREFIX.unpack(packed[: PREFIX.size])

    assert payload_bytes == len(BODY)
    assert len(packed) == PREFIX.size + header
    assert unpack_work(packed[PREFIX.size :], BODY) == (WORK, limits, 0.25)


@pytest.mark.parametrize("again", [True, False])
def test_an_answer_arrives_as_it_was_sent(*, again: bool) -> None:
    header, payload = split(pack_prepared(PREPARED, again=again))

    prepared, may_be_asked = unpack_answer(header, payload, WORK)

    assert may_be_asked is again
    assert replace(prepared, tensors=()) == replace(PREPARED, tensors=())
    for ours, theirs in zip(prepared.tensors, PREPARED.tensors, strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("leaf", LEAVES)
def test_every_refusal_arrives_with_its_reasons(leaf: type[MedAIError]) -> None:
    error = leaf("detail", (Violation("rule", "1", "2", "advice"),))
    assert isinstance(error, Rejected)
    header, payload = split(pack_refusal(error))

    with pytest.raises(leaf) as refusal:
        unpack_answer(header, payload, WORK)

    assert type(refusal.value) is leaf
    assert (refusal.value.detail, refusal.value.violations) == (error.detail, error.violations)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{}",
        b"[" * 5000,
        b'{"again": true}',
        b'{"again": "yes", "prepared": null}',
        b'{"again": false, "refusal": {"code": "internal", "detail": "", "violations": []}}',
        b'{"again": false, "refusal": {"code": "none", "detail": 7, "violations": []}}',
        b'{"again": true, "prepared": {"facts": {"sha256": "", "size_bytes": -1}}}',
    ],
)
def test_an_answer_of_another_form_is_a_broken_file(header: bytes) -> None:
    with pytest.raises(UndecodableImage, match="no sense"):
        unpack_answer(header, b"", WORK)


def test_an_answer_about_another_file_is_a_broken_file() -> None:
    header, payload = split(pack_prepared(PREPARED, again=True))

    with pytest.raises(UndecodableImage):
        unpack_answer(header, payload, replace(WORK, sha256="0" * 64))


@pytest.mark.parametrize("change", [-1, 1])
def test_tensors_of_another_size_are_a_broken_file(change: int) -> None:
    header, payload = split(pack_prepared(PREPARED, again=True))

    with pytest.raises(UndecodableImage):
        unpack_answer(header, payload[:change] if change < 0 else payload + b"x", WORK)


@given(st.binary(max_size=300), st.binary(max_size=50))
def test_no_answer_raises_anything_else(header: bytes, payload: bytes) -> None:
    with pytest.raises((UndecodableImage, ImageTooLarge, ValidationFailed)):
        unpack_answer(header, payload, WORK)
