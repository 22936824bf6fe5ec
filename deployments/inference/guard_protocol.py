"""What travels between the service and the guarded process: JSON headers with raw bytes behind.

    message = header length (u32) || payload length (u64) || header (JSON) || payload

Not pickle: the guarded process may have been taken over by the file it decoded, and unpickling its
answer would hand the service over too. An answer is parsed into known fields of known types, and
what does not fit is a broken file.
"""

import struct
from dataclasses import dataclass

import numpy as np
from pydantic import TypeAdapter, ValidationError

from configs.settings import LimitSettings
from deployments.inference.decoded import PatientFacts
from deployments.inference.prepare import Prepared, Work
from deployments.inference.quality import Measures
from registry.card import InputSpec
from registry.contract import ImageFacts
from registry.errors import Rejected, UndecodableImage, Violation, leaves

PREFIX = struct.Struct("!IQ")
MAX_HEADER_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class _Request:
    media_type: str
    frame: int | None
    sha256: str
    specs: tuple[InputSpec, ...]
    limits: LimitSettings
    soon_s: float | None


@dataclass(frozen=True, slots=True)
class _Facts:
    """`Prepared` without its tensors, whose shapes both sides know from the specs."""

    facts: ImageFacts
    patient: PatientFacts
    measures: Measures
    decode_ms: float
    measure_ms: float
    preprocess_ms: float


@dataclass(frozen=True, slots=True)
class _Refusal:
    code: str
    detail: str
    violations: tuple[Violation, ...]


@dataclass(frozen=True, slots=True)
class _Answer:
    """`again`: whether the process that answers may be asked once more."""

    again: bool
    prepared: _Facts | None = None
    refusal: _Refusal | None = None


_REQUEST = TypeAdapter(_Request)
_ANSWER = TypeAdapter(_Answer)
_REFUSALS = {leaf.code: leaf for leaf in leaves(Rejected)}


def pack_work(work: Work, limits: LimitSettings, *, soon_s: float | None) -> bytes:
    """Prefix and header of a request; the file itself follows.

    Args:
        work: What is to be done.
        limits: The most pixels and frames.
        soon_s: How much of a processor's time it may take, in seconds; None for a slow file, which
            is held to the process's own limits only, and has the process for itself.
    """
    request = _Request(work.media_type, work.frame, work.sha256, work.specs, limits, soon_s)
    return _pack(_REQUEST.dump_json(request), len(work.body))


def unpack_work(header: bytes, body: bytes) -> tuple[Work, LimitSettings, float | None]:
    """The request, in the guarded process: work, limits and `soon_s`, as they were packed."""
    request = _REQUEST.validate_json(header)
    work = Work(body, request.media_type, request.frame, request.sha256, request.specs)
    return work, request.limits, request.soon_s


def pack_prepared(prepared: Prepared, *, again: bool) -> bytes:
    """A whole answer with its tensors."""
    facts = _Facts(
        facts=prepared.facts,
        patient=prepared.patient,
        measures=prepared.measures,
        decode_ms=prepared.decode_ms,
        measure_ms=prepared.measure_ms,
        preprocess_ms=prepared.preprocess_ms,
    )
    payload = b"".join(tensor.tobytes() for tensor in prepared.tensors)
    return _pack(_ANSWER.dump_json(_Answer(again, prepared=facts)), len(payload)) + payload


def pack_refusal(error: Rejected) -> bytes:
    """A whole answer that refuses the file: its process is not used again."""
    refusal = _Refusal(error.code, error.detail, error.violations)
    return _pack(_ANSWER.dump_json(_Answer(again=False, refusal=refusal)), 0)


def unpack_answer(header: bytes, payload: bytes, work: Work) -> tuple[Prepared, bool]:
    """The answer to `work`, and whether its process may be asked once more.

    Raises:
        Rejected: The file was refused.
        UndecodableImage: The answer is not one that our own code gives.
    """
    try:
        answer = _ANSWER.validate_json(header, strict=True)
    except ValidationError:
        raise _senseless() from None
    if answer.refusal is not None and answer.refusal.code in _REFUSALS:
        raise _REFUSALS[answer.refusal.code](answer.refusal.detail, answer.refusal.violations)
    parts = answer.prepared
    if parts is None or parts.facts.sha256 != work.sha256:
        raise _senseless()
    shapes = [(spec.channels, spec.height, spec.width) for spec in work.specs]
    ends = np.cumsum([channels * height * width for channels, height, width in shapes])
    flat = np.frombuffer(payload, np.uint8)
    if flat.size != ends[-1]:
        raise _senseless()
    prepared = Prepared(
        facts=parts.facts,
        patient=parts.patient,
        measures=parts.measures,
        tensors=tuple(
            part.reshape(shape)
            for part, shape in zip(np.split(flat, ends[:-1]), shapes, strict=True)
        ),
        decode_ms=parts.decode_ms,
        measure_ms=parts.measure_ms,
        preprocess_ms=parts.preprocess_ms,
    )
    return prepared, answer.again


def _pack(header: bytes, payload_bytes: int) -> bytes:
    return PREFIX.pack(len(header), payload_bytes) + header


def _senseless() -> UndecodableImage:
    return UndecodableImage("the decoder's answer made no sense")
