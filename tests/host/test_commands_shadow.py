"""`medai models shadow` and `medai models baseline`, given as an operator gives them."""

import asyncio
import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
import yaml
from uuid_utils.compat import uuid7

from configs.settings import DatabaseSettings
from registry.card import ModelCard
from registry.contract import ImageFacts, ModelRef, Outcome, Role, Verdict
from registry.events import CLI, AuditAction, AuditEvent, NewResult, NewUser
from registry.shadow import Tally
from storage.database import Database
from storage.ledger import append_once
from storage.models import ModelRepository
from storage.shadows import ShadowRepository
from tests.host.conftest import Medai
from tests.serve.challengers import NAME, challenger

PASSWORD = "correct horse battery staple lamp"


@pytest.fixture
def approved(medai: Medai, home: Path, tmp_path: Path) -> Path:
    """A home with an approved 1.1.0 beside the active 1.0.0."""
    anna = ("users", "add", "anna", "--role", "admin", "--password-stdin")
    assert medai(*anna, text=PASSWORD).code == 0
    directory = challenger(tmp_path / "1.1.0", "1.1.0", 0.5)
    assert medai("models", "register", str(directory)).code == 0
    by_anna = ("--as", "anna", "--password-stdin")
    assert medai("models", "approve", NAME, "1.1.0", *by_anna, text=PASSWORD).code == 0
    return home


def opened(home: Path) -> Database:
    return Database(DatabaseSettings(), f"sqlite+aiosqlite:///{home / 'medai.db'}")


def test_a_challenger_is_put_in_the_shadow_reported_and_taken_out(
    medai: Medai, approved: Path
) -> None:
    begun = medai("models", "shadow", NAME, "1.1.0", "--share", "0.25")
    asyncio.run(count(approved))
    shown = medai("models", "shadow", NAME, "--report")
    told = json.loads(medai("models", "shadow", NAME, "--report", "--json").out)
    ended = medai("models", "shadow", NAME, "--off", "--json")
    again = medai("models", "shadow", NAME, "--off")

    assert begun.code == 0
    assert "1.1.0 scores 25% of what 1.0.0 answers" in begun.out
    assert "compared 4, dropped 0, failed 1" in shown.out
    assert "agreed in 75.0% (95 % interval 30.1% to 95.4%)" in shown.out
    assert (told["compared"], told["agreed"]) == (4, 3)
    assert json.loads(ended.out)["ended_at"] is not None
    assert again.code == 1
    assert "no challenger" in again.err


async def count(home: Path) -> None:
    """Count four images and a failure, as a replica would."""
    tally = Tally(failed=1)
    for challenger_says in ("NORMAL", "NORMAL", "NORMAL", "PNEUMONIA"):
        tally.compare("NORMAL", challenger_says, 0.01, 4.0)
    database = opened(home)
    async with database.transaction() as session:
        repository = ShadowRepository(session)
        run = await repository.latest(NAME)
        await repository.save(run.id, "replica-1", tally, at=datetime.now(UTC))
    await database.close()


@pytest.mark.parametrize(
    "arguments", [(), ("1.1.0", "--off"), ("--off", "--report"), ("1.1.0", "--report")]
)
def test_a_command_that_says_two_things_or_none_is_wrong_usage(
    medai: Medai, home: Path, arguments: tuple[str, ...]
) -> None:
    assert medai("models", "shadow", NAME, *arguments).code == 2


def test_a_baseline_is_made_from_recorded_results_and_fits_a_card(medai: Medai, home: Path) -> None:
    asyncio.run(infer(home, [0.02] * 60 + [0.97] * 60))

    made = medai("models", "baseline", NAME, "--source", "120 films of a test")
    none = medai("models", "baseline", NAME, "--source", "x", "--until", "2020-01-01")

    assert made.code == 0
    section = yaml.safe_load(made.out)
    assert section["baseline"]["images"] == 120
    assert section["baseline"]["counts"]["PNEUMONIA"][0] == 60
    assert section["baseline"]["counts"]["PNEUMONIA"][11] == 60
    bundled = Path(__file__).parents[2] / "registry" / "bundled" / NAME / "card.yaml"
    card = ModelCard.model_validate(yaml.safe_load(bundled.read_text()) | section)
    assert card.baseline is not None
    assert card.baseline.upto("PNEUMONIA")[0.5] == 0.5
    assert none.code == 1
    assert "images is 0, allowed is at least 100" in none.err


async def infer(home: Path, scores: list[float]) -> None:
    """Record a result for each score, as a running service would."""
    database = opened(home)
    async with database.reading() as session:
        model = (await ModelRepository(session).catalogue(home / "models")).active(NAME).model
    user = uuid7()
    new_user = NewUser(user, "carl", Role.CLINICIAN, "$argon2id$x")
    begin = AuditEvent(uuid7(), AuditAction.USER_CREATED, "A user.", CLI, changes=(new_user,))
    events = [begin, *(inference(model, user, score) for score in scores)]
    await append_once(database, events, software_version="1", now=lambda: datetime.now(UTC))
    await database.close()


def inference(model: ModelRef, user: UUID, score: float) -> AuditEvent:
    facts = ImageFacts(sha256=hashlib.sha256(str(score).encode()).hexdigest(), size_bytes=1)
    verdict = Verdict(
        Outcome.PREDICTED,
        facts,
        prediction="PNEUMONIA",
        confidence=score,
        scores={"NORMAL": 1 - score, "PNEUMONIA": score},
        threshold=0.5,
    )
    result_id, now = uuid7(), datetime.now(UTC) - timedelta(seconds=1)
    result = NewResult(result_id, model, verdict, created_by=user, created_at=now)
    return AuditEvent(result_id, AuditAction.INFERENCE, "An image.", CLI, changes=(result,))
