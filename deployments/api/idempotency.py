"""The `Idempotency-Key` header: the same request sent twice is one inference.

    same key, same request     the recorded answer again, `Idempotency-Replayed: true`
    same key, another request  409 `idempotency-conflict`
    failed on our side         not what the key stands for: the request is worked on again

A request is the image, the model, the frame and the patient; a batch is its images in order. Keys
belong to a user, and those of batches are apart from those of single images.

Rules this file keeps: what stands for a key is a row of the results and nothing else, so it lasts
as long as the result does and holds for every gateway; the unique index over (user, key) decides
between two that come at once. In one gateway the second waits for the first, so that it need not
be computed only to be thrown away.
"""

import asyncio
import hashlib
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final
from uuid import UUID

import orjson
from starlette.requests import Request
from starlette.types import Scope

from deployments.api.batch_form import MAX_IMAGES
from deployments.inference.refusals import refusal_again
from deployments.inference.service import Answer, ImageRequest, InferenceService
from registry.card import ModelCard
from registry.catalogue import Served
from registry.contract import ModelRef, Outcome, Principal, Verdict
from registry.errors import (
    Conflict,
    IdempotencyConflict,
    Internal,
    MedAIError,
    ValidationFailed,
    Violation,
    leaves,
)
from storage.database import Database, Session
from storage.models import ModelRepository
from storage.results import ResultRepository, StoredResult

HEADER: Final = "Idempotency-Key"
_HEADER: Final = b"idempotency-key"  # as ASGI spells it
REPLAYED: Final = "Idempotency-Replayed"
MAX_KEY: Final = 128
_KEY = re.compile(rf"[\x21-\x7e]{{1,{MAX_KEY}}}")
_IN_A_THREAD: Final = 2**20  # bytes; hashing more would hold up every other request
_ERRORS: Final = {leaf.code: leaf for leaf in leaves()}
PARAMETER: Final = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "The same key and request again get the same recorded answer.",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY, "pattern": "^[!-~]+$"},
}
REPLAYED_HEADER: Final = {
    REPLAYED: {
        "description": "`true`: recorded before, and given again.",
        "schema": {"type": "string", "enum": ["true"]},
    }
}


def key_of(request: Request) -> str | None:
    """What stands for the key that the request comes with, if it does: its SHA-256, in hex.

    A caller may make his keys of a patient's name or number, so the key itself is not kept.

    Raises:
        ValidationFailed: It is not 1 to 128 visible ASCII characters, or there are two.
    """
    keys = request.headers.getlist(HEADER)
    if not keys:
        return None
    if len(keys) > 1 or not _KEY.fullmatch(keys[0]):
        limit = f"1 to {MAX_KEY} visible ASCII characters, once"
        raise ValidationFailed("the key is not one", (Violation(f"header.{HEADER}", limit=limit),))
    return hashlib.sha256(keys[0].encode()).hexdigest()


class Replays:
    """Answers requests, those that were answered before from their record. One a gateway.

    Args:
        service: Answers the others.
        database: Where results are.
    """

    def __init__(self, service: InferenceService, database: Database) -> None:
        self._service = service
        self._database = database
        self._locks: dict[tuple[UUID, str], asyncio.Lock] = {}
        self._waiting: Counter[tuple[UUID, str]] = Counter()

    def admit(self, scope: Scope) -> None:
        """Refuse early what cannot be worked on now; reading it would cost those who can be.

        A request with a key is let through: its answer may be there already.

        Raises:
            Overloaded: The house is full.
        """
        if all(name != _HEADER for name, _ in scope["headers"]):
            self._service.admission.expect()

    async def infer(self, request: ImageRequest, principal: Principal) -> tuple[Answer, bool]:
        """Answer one image; whether the answer was recorded before.

        Raises:
            IdempotencyConflict: The key was used for another request.
            MedAIError: What `InferenceService.infer` raises.
        """
        key = request.idempotency_key
        if key is None:
            return await self._service.infer(request, principal), False
        keyed = replace(request, request_digest=await digest_of([request]))
        async with self._alone(principal, key):
            earlier = await self._earlier([keyed], [key], principal)
            if earlier:
                return earlier[key], True
            try:
                return await self._service.infer(keyed, principal), False
            except Conflict:  # another gateway was faster
                earlier = await self._earlier([keyed], [key], principal)
                if not earlier:
                    raise Internal("the key is taken, and nobody has it") from None
                return earlier[key], True

    async def infer_many(
        self, requests: Sequence[ImageRequest], principal: Principal
    ) -> tuple[list[Answer | MedAIError], bool]:
        """Answer a batch; whether every answer was recorded before.

        Raises:
            IdempotencyConflict: The key was used for another batch.
            MedAIError: What `InferenceService.infer_many` raises.
        """
        key = requests[0].idempotency_key
        if key is None:
            return await self._service.infer_many(requests, principal), False
        digest = await digest_of(requests)
        keyed = [
            replace(request, idempotency_key=batch_key(key, number), request_digest=digest)
            for number, request in enumerate(requests)
        ]
        places = [batch_key(key, number) for number in range(MAX_IMAGES)]
        async with self._alone(principal, places[0]):
            earlier = await self._earlier(keyed, places, principal)
            fresh = [request for request in keyed if request.idempotency_key not in earlier]
            ended = await self._service.infer_many(fresh, principal) if fresh else []
            if any(isinstance(one, Conflict) for one in ended):  # another gateway was faster
                earlier |= await self._earlier(keyed, places, principal)
        answered = dict(zip((request.idempotency_key for request in fresh), ended, strict=True))
        outcomes = [
            earlier.get(str(request.idempotency_key)) or answered[request.idempotency_key]
            for request in keyed
        ]
        return outcomes, not fresh

    @asynccontextmanager
    async def _alone(self, principal: Principal, key: str) -> AsyncIterator[None]:
        """In this gateway, one request at a time works on a key."""
        owned = (principal.user_id, key)
        lock = self._locks.setdefault(owned, asyncio.Lock())
        self._waiting[owned] += 1
        try:
            async with lock:
                yield
        finally:
            self._waiting[owned] -= 1
            if not self._waiting[owned]:
                del self._waiting[owned], self._locks[owned]

    async def _earlier(
        self, requests: Sequence[ImageRequest], keys: Sequence[str], principal: Principal
    ) -> dict[str, Answer]:
        """By key: what was recorded for these requests. Raises `IdempotencyConflict`."""

        async def found(
            session: Session,
        ) -> tuple[dict[str, StoredResult], dict[ModelRef, ModelCard]]:
            stored = await ResultRepository(session).by_keys(principal.user_id, keys)
            repository = ModelRepository(session)
            return stored, {
                model: (await repository.version(model.name, model.version)).card
                for model in {one.model: None for one in stored.values()}
            }

        stored, cards = await self._database.read(found)
        digest = requests[0].request_digest
        if any(one.request_digest != digest for one in stored.values()):
            raise IdempotencyConflict(
                "the key was used before, for another request",
                (Violation(f"header.{HEADER}", advice="use a new key for every new request"),),
            )
        return {key: replayed(one, cards[one.model]) for key, one in stored.items()}


def batch_key(key: str, number: int) -> str:
    """What image `number` of a batch is recorded under. No single image's key has a space."""
    return f"batch {hashlib.sha256(key.encode()).hexdigest()} {number}"


async def digest_of(requests: Sequence[ImageRequest]) -> bytes:
    """SHA-256 of what is asked: the images, and for each its model, frame and patient."""
    if sum(len(request.body) for request in requests) > _IN_A_THREAD:
        return await asyncio.to_thread(_digest, requests)
    return _digest(requests)


def _digest(requests: Sequence[ImageRequest]) -> bytes:
    asked = [
        [
            hashlib.sha256(request.body).hexdigest(),
            request.model,
            request.frame,
            request.patient,
        ]
        for request in requests
    ]
    return hashlib.sha256(b"medaiflow/request/v1\n" + orjson.dumps(asked)).digest()


def replayed(stored: StoredResult, card: ModelCard) -> Answer:
    """The answer that was recorded. Of the times, those that were."""
    error = _error(stored, card)
    verdict = Verdict(
        outcome=stored.outcome,
        facts=stored.facts,
        validation=stored.validation,
        prediction=stored.prediction,
        confidence=stored.confidence,
        scores=stored.scores,
        threshold=card.confidence_threshold if error is None else None,
        needs_review=stored.needs_review,
        reasons=stored.reasons,
        gate=stored.gate,
        patient=stored.patient,
        error=error,
        inference_ms=stored.inference_ms,
    )
    timings = {"preprocess": stored.preprocessing_ms, "inference": stored.inference_ms}
    served = Served(stored.model, card, "")
    return Answer(stored.result_id, stored.created_at, served, verdict, stored.receipt, timings)


def _error(stored: StoredResult, card: ModelCard) -> MedAIError | None:
    """The recorded refusal. Where no rule of the image was measured, only its kind is recorded."""
    code, validation = stored.error_code, stored.validation
    if code is None:
        return None
    if validation is not None and not validation.is_valid:
        return refusal_again(validation, card.constraints, code)
    kind = _ERRORS.get(code, Internal)
    refused = stored.outcome is Outcome.REJECTED
    return kind("refused before, for the same reason" if refused else "")
