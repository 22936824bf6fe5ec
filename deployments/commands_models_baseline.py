"""`medai models baseline`: the distribution of recorded scores, as a section of a card."""

from datetime import UTC, datetime
from typing import Annotated

import typer
import yaml

from configs.settings import Settings
from deployments.commands import complete, opened
from deployments.inference.recorder import utc_now
from registry.card import ScoreBaseline
from registry.errors import ValidationFailed, Violation
from storage.models import ModelRepository
from storage.score_counts import score_counts

MIN_IMAGES = 100  # `ScoreBaseline.images`

Moment = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"])]


def baseline(
    name: Annotated[str, typer.Argument(help="The model's name.")],
    source: Annotated[str, typer.Option(help="Which images these are, for the card.")],
    version: Annotated[
        str | None, typer.Argument(help="The version; by default the one that serves.")
    ] = None,
    since: Moment = None,
    until: Moment = None,
) -> None:
    """Print a card's `baseline` from recorded results. Times are UTC.

    A card never changes: put the section into the card of the next version, which may be the same
    file under another number.
    """
    found = complete(_measured(name, version, source, _utc(since), _utc(until)))
    section = {"baseline": found.model_dump(mode="json")}
    print(  # noqa: T201  # for a file
        yaml.safe_dump(section, sort_keys=False, allow_unicode=True, default_flow_style=None),
        end="",
    )


async def _measured(
    name: str, version: str | None, source: str, since: datetime | None, until: datetime | None
) -> ScoreBaseline:
    settings = Settings.load()
    async with opened(settings) as database, database.reading() as session:
        models = ModelRepository(session)
        if version is None:
            served = (await models.catalogue(settings.model_dir)).active(name)
            model, card = served.model, served.card
        else:
            known = await models.version(name, version)
            model, card = known.model, known.card
        images, counts = await score_counts(
            session, model.id, card.output.labels, since=since, until=until
        )
    if images < MIN_IMAGES:
        raise ValidationFailed(
            "too few results have scores",
            (
                Violation(
                    "images",
                    str(images),
                    f"at least {MIN_IMAGES}",
                    "infer the validation data first",
                ),
            ),
        )
    return ScoreBaseline(
        source=source,
        taken_on=utc_now().date(),
        images=images,
        counts={label: tuple(column) for label, column in counts.items()},
    )


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)
