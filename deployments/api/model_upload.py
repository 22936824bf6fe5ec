"""`POST /admin/models`: a model version comes over HTTP and is registered as on the host.

1. receive   card and file into a directory of their own, no longer than the limits say
2. examine   every check of `medai models check`, in a process that may die of it
3. store     the file goes to the model directory, under its hash
4. record    registered and validated, by the administrator who sent it

One at a time in each gateway: a model takes disk while it is received, and memory and a processor
while it is tried. What was received whole is examined to its end also where its sender leaves, and
what is refused leaves nothing but an audit entry.

The file reaches the model directory of the gateway that answers. Where nodes share none, copy it to
the others before the version is activated (docs/operations.md).
"""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from configs.settings import LimitSettings
from deployments.api.completion import to_completion
from deployments.api.exchange import principal_of, request_id_of
from deployments.api.guard import guarded_router
from deployments.api.model_form import CARD, MAX_CARD_BYTES, MODEL, receive_model
from deployments.api.models import ModelDetails, details
from deployments.api.multipart import boundary_of
from deployments.api.permissions import Permission, requires
from deployments.api.problems import problems
from deployments.api.trail import Trail
from deployments.api.uploads import FORM, FORM_OVERHEAD, refuse_encoded
from deployments.inference.model_life import By, ModelLife
from deployments.inference.registration import Candidate, read_card
from registry import errors
from registry.errors import Internal, MedAIError, Overloaded, UnsupportedMediaType, Violation
from registry.events import Actor, AuditAction
from storage.database import Database
from storage.models import ModelRepository, RegisteredModel

# Together below the 60 s after which Ray Serve ends a request (serve_config.yaml).
RECEIVE_WITHIN_S: Final = 30.0
EXAMINE_WITHIN_S: Final = 20.0
RETRY_AFTER_S: Final = 10
INCOMING: Final = ".upload-"
LEFT_BEHIND_S: Final = 3600.0  # a directory as old as this is of a gateway that was killed
MAX_VIOLATIONS: Final = 50
PROBLEMS: Final = problems(
    errors.BadRequest,
    errors.MalformedMultipart,
    errors.RequestTimeout,
    errors.Conflict,
    errors.PayloadTooLarge,
    errors.UnsupportedMediaType,
    errors.ValidationFailed,
    errors.InvalidModel,
    errors.ForbiddenOperator,
    errors.Overloaded,
    errors.AuditUnavailable,
    errors.DatabaseUnavailable,
)
REQUEST_BODY: Final[dict[str, Any]] = {
    "required": True,
    "content": {
        FORM: {
            "schema": {
                "type": "object",
                "required": [CARD, MODEL],
                "additionalProperties": False,
                "properties": {
                    CARD: {
                        "type": "string",
                        "format": "binary",
                        "description": "The card, YAML; its `sha256` is that of the file.",
                    },
                    MODEL: {
                        "type": "string",
                        "format": "binary",
                        "description": "The ONNX file.",
                    },
                },
            }
        }
    },
}
LOCATION: Final[dict[str, Any]] = {
    "Location": {
        "description": "Where the version is read.",
        "schema": {"type": "string", "format": "uri-reference"},
    }
}


def routes(uploads: "ModelUploads", database: Database) -> APIRouter:
    """The routes of this file."""
    router = guarded_router("administration")

    @router.post(
        "/admin/models",
        summary="Register a model version",
        status_code=201,
        responses={201: {"headers": LOCATION}, **PROBLEMS},
        openapi_extra={"requestBody": REQUEST_BODY},
    )
    @requires(
        Permission.MODELS_MANAGE,
        max_body_bytes=uploads.max_body_bytes,
        body_timeout_s=RECEIVE_WITHIN_S,
    )
    async def register(request: Request, response: Response) -> ModelDetails:
        """Reads, loads and runs the file as `medai models check` does, and records the version.

        It answers only once another administrator has approved it and it was activated. A model
        that is too large or too slow for this route is registered on the host.
        """
        found = await uploads.register(request)
        versions = await database.read(lambda session: ModelRepository(session).listed())
        response.headers["Location"] = f"/models/{found.model.id}"
        return details(found, versions)

    return router


class ModelUploads:
    """Registers what is sent. One a gateway.

    Args:
        life: Examines, stores and records.
        trail: Records what is refused.
        model_dir: Where model files are; what is received lies there meanwhile.
        limits: The largest model.
    """

    def __init__(
        self, life: ModelLife, trail: Trail, model_dir: Path, limits: LimitSettings
    ) -> None:
        self._life = life
        self._trail = trail
        self._model_dir = model_dir
        self._max_model_bytes = limits.max_model_bytes
        self._busy = False

    @property
    def max_body_bytes(self) -> int:
        """The largest body: a model, a card, and the form around them."""
        return self._max_model_bytes + MAX_CARD_BYTES + FORM_OVERHEAD

    async def register(self, request: Request) -> RegisteredModel:
        """Register the model of a request.

        Raises:
            Overloaded: Another one is being received or examined.
            UnsupportedMediaType: The body is no form.
            MalformedMultipart: See `model_form.receive_model`; also its `PayloadTooLarge` and
                `ValidationFailed`.
            InvalidModel: A rule of the card, the graph or the trial is broken; every one is named.
            ForbiddenOperator: The graph uses an operator outside the allow-list.
            Conflict: There is such a version already.
            AuditUnavailable: It could not be recorded, so it is not registered.
            Internal: The files cannot be written.
        """
        refuse_encoded(request)
        boundary = boundary_of(request.headers.get("content-type", ""))
        if boundary is None:
            raise UnsupportedMediaType(
                "the body is of no type this route takes",
                (Violation("content-type", limit=FORM, advice="send card and model as a form"),),
            )
        with ExitStack() as stack:
            stack.enter_context(self._turn())
            with _stored():
                directory = stack.enter_context(await asyncio.to_thread(_incoming, self._model_dir))
                incoming = Path(directory)
                await receive_model(
                    request.stream(),
                    boundary,
                    card=incoming / "card.yaml",
                    model=incoming / "model.onnx",
                    max_model_bytes=self._max_model_bytes,
                )
            principal = principal_of(request)
            by = By(Actor.user(principal), f"user:{principal.user_id}", request_id_of(request))
            # From here on the turn and the directory are the work's, which outlives a caller who
            # leaves.
            return await to_completion(self._examined(stack.pop_all(), incoming, by))

    async def _examined(self, held: ExitStack, incoming: Path, by: By) -> RegisteredModel:
        try:
            with _stored():
                candidate = await asyncio.to_thread(_candidate, incoming)
                return await self._life.register(candidate, by, within_s=EXAMINE_WITHIN_S)
        except errors.Rejected as error:
            await self._trail.attempt(
                AuditAction.MODEL_REGISTERED,
                "A model that was sent was not registered.",
                by.actor,
                request_id=by.request_id,
                context={
                    "code": error.code,
                    "broken": [fault.rule for fault in error.violations[:MAX_VIOLATIONS]],
                },
            )
            error.violations = error.violations[:MAX_VIOLATIONS]
            raise
        finally:
            await asyncio.to_thread(held.close)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if self._busy:
            raise Overloaded(
                "another model is being received or examined", retry_after_s=RETRY_AFTER_S
            )
        self._busy = True
        try:
            yield
        finally:
            self._busy = False


def _candidate(incoming: Path) -> Candidate:
    card = read_card(incoming / "card.yaml", quotes=False)
    return Candidate.of(card, incoming / "model.onnx")


def _incoming(model_dir: Path) -> tempfile.TemporaryDirectory[str]:
    """A directory for what comes, beside where it shall go; also clears what was left behind."""
    model_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    for old in model_dir.glob(f"{INCOMING}*"):
        with suppress(OSError):  # another gateway clears it, too
            if time.time() - old.stat().st_mtime > LEFT_BEHIND_S:
                shutil.rmtree(old, ignore_errors=True)
    return tempfile.TemporaryDirectory(prefix=INCOMING, dir=model_dir, ignore_cleanup_errors=True)


@contextmanager
def _stored() -> Iterator[None]:
    """Raises `Internal` where the disk does not take what is written to it."""
    try:
        yield
    except MedAIError:
        raise
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise Internal(f"the model cannot be stored on this node: {reason}") from None
