"""How a version's recorded scores are distributed, in the caller's transaction."""

import json
from bisect import bisect_left
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from registry.card import SCORE_BOUNDS
from storage.tables import InferenceResult

_PAGE = 1000


async def score_counts(
    session: AsyncSession,
    model_id: UUID,
    labels: Sequence[str],
    *,
    since: datetime | None = None,
    until: datetime | None = None,
) -> tuple[int, dict[str, list[int]]]:
    """How many results have scores, and for each label how many lie in each bucket.

    All results with scores count, those that were abstained too, as in the metric. The buckets are
    those of `registry.card.ScoreBaseline`.

    Args:
        session: The caller's.
        model_id: The version.
        labels: Its labels.
        since: Only results from this moment on.
        until: Only results before this moment.
    """
    wanted = select(InferenceResult.scores).where(
        InferenceResult.model_version_id == model_id, InferenceResult.scores.is_not(None)
    )
    if since is not None:
        wanted = wanted.where(InferenceResult.created_at >= since)
    if until is not None:
        wanted = wanted.where(InferenceResult.created_at < until)
    counts = {label: [0] * (len(SCORE_BOUNDS) + 1) for label in labels}
    images = 0
    async for text in await session.stream_scalars(wanted.execution_options(yield_per=_PAGE)):
        scores = json.loads(text or "{}")
        if not scores:
            continue
        images += 1
        for label in labels:
            counts[label][bisect_left(SCORE_BOUNDS, scores[label])] += 1
    return images, counts
