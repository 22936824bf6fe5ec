"""The distribution of recorded scores, on both databases."""

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from uuid_utils.compat import uuid7

from registry.card import SCORE_BOUNDS
from registry.contract import Verdict
from storage.score_counts import score_counts

if TYPE_CHECKING:
    from conftest import Site

LABELS = ("normal", "pneumonia")


async def test_scores_lie_in_the_bucket_whose_bound_they_do_not_exceed(
    site: "Site", verdicts: dict[str, Verdict]
) -> None:
    predicted = verdicts["predicted"]
    for score in (0.0, 0.05, 0.051, 0.99, 1.0):
        scores = {"normal": score, "pneumonia": 1 - score}
        await site.record(site.inference(replace(predicted, scores=scores)))
    await site.record(site.inference(verdicts["failed"]))  # it has no scores

    async with site.database.reading() as session:
        images, counts = await score_counts(session, site.model.id, LABELS)

    normal = dict(zip(SCORE_BOUNDS, counts["normal"], strict=False))
    assert images == sum(counts["normal"]) == sum(counts["pneumonia"]) == 5
    assert (normal[0.05], normal[0.1], normal[0.99], normal[1.0]) == (2, 1, 1, 1)


async def test_only_results_of_the_version_and_of_the_time_count(
    site: "Site", verdicts: dict[str, Verdict]
) -> None:
    scored = replace(verdicts["predicted"], scores={"normal": 0.3, "pneumonia": 0.7})
    early = site.clock()
    for days in (0, 1, 2):
        await site.record(site.inference(scored, created_at=early + timedelta(days=days)))

    async with site.database.reading() as session:
        second, _ = await score_counts(
            session,
            site.model.id,
            LABELS,
            since=early + timedelta(days=1),
            until=early + timedelta(days=2),
        )
        others, _ = await score_counts(session, uuid7(), LABELS)

    assert (second, others) == (1, 0)
