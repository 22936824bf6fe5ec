"""From a directory with a card and a model file to a registered version.

    read        card.yaml is a valid card, the file's SHA-256 is the one it names
    examine     the graph keeps the rules of `registry.inspection`, the golden case passes
    install     the file is copied to `<model_dir>/<sha256>.onnx`, mode 0400
    events      what is recorded, in the steps of `registry.lifecycle`

A file reaches the model directory only after it was examined, and under a name that is its hash.
"""

import hashlib
import os
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import yaml
from pydantic import ValidationError
from uuid_utils.compat import uuid7

from deployments.inference.onnx import OnnxSession
from deployments.inference.onnx_file import inspect_file
from registry.card import ModelCard
from registry.contract import ModelRef
from registry.errors import InvalidModel, Violation
from registry.events import CLI, AuditAction, AuditEvent, ModelTransition, NewModelVersion
from registry.inspection import check_graph
from registry.lifecycle import ModelStatus

CARD = "card.yaml"
READ_ONLY = 0o400
BUNDLED_BY = "medai-flow"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A card and its file, whose hash has been checked. `path` is where the file lies now."""

    card: ModelCard
    path: Path
    size_bytes: int

    @property
    def stored_as(self) -> str:
        """The file's name in the model directory."""
        return f"{self.card.sha256}.onnx"


def read_candidate(directory: Path) -> Candidate:
    """The card and file of a directory. Raises `InvalidModel`, naming every fault of the card."""
    try:
        document = yaml.safe_load((directory / CARD).read_text("utf-8"))
    except OSError:
        raise InvalidModel(
            f"{directory.name} has no readable {CARD}",
            (Violation("card", advice=f"give a directory that holds {CARD} and the model file"),),
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" near line {mark.line + 1}" if mark else ""
        raise InvalidModel(f"{CARD} is not YAML{place}") from None
    try:
        card = ModelCard.model_validate(document)
    except ValidationError as error:
        faults = tuple(
            Violation(".".join(str(part) for part in fault["loc"]), advice=fault["msg"])
            for fault in error.errors()
        )
        raise InvalidModel(f"{CARD} has {len(faults)} fault(s)", faults) from None
    path = directory / card.file
    try:
        content = path.read_bytes()
    except OSError:
        raise InvalidModel(f"the model file {card.file} that the card names is missing") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != card.sha256:
        raise InvalidModel(
            "the file is not the one the card describes",
            (Violation("sha256", digest, card.sha256, f"put the file's own hash into {CARD}"),),
        )
    return Candidate(card, path, len(content))


def examine(candidate: Candidate) -> None:
    """See that the model is fit to be registered.

    Raises:
        InvalidModel: A rule is broken, or the golden case gives other scores.
        ForbiddenOperator: The graph uses an operator outside the allow-list.
    """
    check_graph(inspect_file(candidate.path), candidate.card)
    session = OnnxSession(str(candidate.path), candidate.card, candidate.card.sha256)
    try:
        session.golden()
    finally:
        session.close()


def install(candidate: Candidate, model_dir: Path) -> None:
    """Copy the file to where replicas load it from; nothing happens where it is there already."""
    model_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = model_dir / candidate.stored_as
    if target.exists():
        return
    descriptor, name = tempfile.mkstemp(dir=model_dir, prefix=".incoming-")
    with os.fdopen(descriptor, "wb") as file:
        file.write(candidate.path.read_bytes())
        file.flush()
        os.fsync(descriptor)
        os.fchmod(descriptor, READ_ONLY)
    Path(name).rename(target)


def registration_events(candidate: Candidate, *, by: str) -> tuple[ModelRef, list[AuditEvent]]:
    """What is recorded of a version that was examined: registered, then validated."""
    card = candidate.card
    model = ModelRef(uuid7(), card.name, card.version, card.sha256)
    registered = AuditEvent(
        event_id=uuid7(),
        action=AuditAction.MODEL_REGISTERED,
        description="A model version was registered.",
        actor=CLI,
        changes=(
            NewModelVersion(
                model=model,
                card=card.model_dump_json(),
                path=candidate.stored_as,
                size_bytes=candidate.size_bytes,
                clinical_domain=card.clinical_domain,
                confidence_threshold=card.confidence_threshold,
                registered_by=by,
            ),
        ),
    )
    return model, [
        registered,
        step(model, ModelStatus.REGISTERED, ModelStatus.VALIDATED, by=by),
    ]


_STEPS = {
    ModelStatus.VALIDATED: (AuditAction.MODEL_VALIDATED, "A model version passed its checks."),
    ModelStatus.APPROVED: (AuditAction.MODEL_APPROVED, "A model version was approved."),
    ModelStatus.ACTIVE: (AuditAction.MODEL_ACTIVATED, "A model version was put in service."),
    ModelStatus.RETIRED: (AuditAction.MODEL_RETIRED, "A model version was retired."),
}


def step(model: ModelRef, before: ModelStatus, after: ModelStatus, *, by: str) -> AuditEvent:
    """The event of one step in a version's life."""
    action, description = _STEPS[after]
    return AuditEvent(
        event_id=uuid7(),
        action=action,
        description=description,
        actor=CLI,
        changes=(ModelTransition(model, before, after, by),),
    )


def bundled_directories() -> list[Path]:
    """The models that come with the package."""
    return sorted(
        Path(str(directory))
        for directory in (resources.files("registry") / "bundled").iterdir()
        if directory.is_dir()
    )
