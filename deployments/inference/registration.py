"""From a directory with a card and a model file to a registered version.

    read        card.yaml is a valid card, the file's SHA-256 is the one it names
    examine     the graph keeps the rules of `registry.inspection`, and gives its golden case in a
                limited process (`inference.trial`)
    install     the file is copied to `<model_dir>/<sha256>.onnx`, mode 0400
    events      what is recorded, in the steps of `registry.lifecycle`

A file reaches the model directory only after it was examined, and under a name that is its hash.
"""

import hashlib
import os
import tempfile
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import ValidationError
from uuid_utils.compat import uuid7

from deployments.inference.trial import try_model
from deployments.inference.trial_protocol import Order
from registry.card import ModelCard
from registry.contract import ModelRef
from registry.errors import InvalidModel, Violation
from registry.events import CLI, AuditAction, AuditEvent, ModelTransition, NewModelVersion
from registry.lifecycle import ModelStatus

CARD = "card.yaml"
MAX_CARD_BYTES = 1 << 20
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

    @classmethod
    def of(cls, card: ModelCard, path: Path) -> Self:
        """A card and a file. Raises `InvalidModel` where the file is not the one it describes."""
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            size_bytes = path.stat().st_size
        except OSError:
            raise InvalidModel(
                f"the model file {card.file} that the card names is missing"
            ) from None
        if digest != card.sha256:
            raise InvalidModel(
                "the file is not the one the card describes",
                (Violation("sha256", digest, card.sha256, f"put the file's own hash into {CARD}"),),
            )
        return cls(card, path, size_bytes)


def read_candidate(directory: Path, card_file: Path | None = None) -> Candidate:
    """The card and file of a directory; the card may lie elsewhere.

    Raises:
        InvalidModel: The card is missing or has faults, all of which are named; or the file is
            missing, or another one.
    """
    card = read_card(card_file or directory / CARD)
    return Candidate.of(card, directory / card.file)


def read_card(path: Path, *, quotes: bool = True) -> ModelCard:
    """A card.

    Args:
        path: The file.
        quotes: Whether a field that no card has is named. Its name is its author's text, which goes
            to the author's terminal and nowhere else.

    Raises:
        InvalidModel: It is none; every fault is named.
    """
    try:
        if path.stat().st_size > MAX_CARD_BYTES:
            raise InvalidModel(f"{path.name} is too large for a card")
        document = yaml.safe_load(path.read_text("utf-8"))
    except OSError:
        raise InvalidModel(
            f"{path.parent.name} has no readable {path.name}",
            (Violation("card", advice=f"give a directory that holds {CARD} and the model file"),),
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" near line {mark.line + 1}" if mark else ""
        raise InvalidModel(f"{path.name} is not YAML{place}") from None
    try:
        return ModelCard.model_validate(document)
    except ValidationError as error:
        faults = tuple(
            Violation(_place(fault, quotes=quotes), advice=fault["msg"]) for fault in error.errors()
        )
        raise InvalidModel(f"{path.name} has {len(faults)} fault(s)", faults) from None


def _place(fault: Any, *, quotes: bool) -> str:
    foreign = fault["type"] == "extra_forbidden" and not quotes
    place = fault["loc"][:-1] if foreign else fault["loc"]
    return ".".join(str(part) for part in place) or "card"


def examine(candidate: Candidate, *, within_s: float | None = None) -> None:
    """See that the model is fit to be registered: every check of `medai models check`.

    Args:
        candidate: What to try.
        within_s: How long that may take, where that is not as long as on the host.

    Raises:
        InvalidModel: A rule is broken, the file cannot be run within the limits, or the golden case
            gives other scores.
        ForbiddenOperator: The graph uses an operator outside the allow-list.
    """
    order = Order(str(candidate.path.absolute()), candidate.card)
    try_model(order if within_s is None else replace(order, wall_s=within_s)).require()


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
