"""Counts of replicas for `/health`: what the controller said last, or a reason."""

from collections.abc import Mapping
from typing import Any

from deployments.replica_counts import MAX_AGE_S, ReplicaCounts

SAID = {
    "Gateway": {"target_num_replicas": 1, "replicas": [{"state": "RUNNING"}]},
    "Validator": {
        "target_num_replicas": 2,
        "replicas": [{"state": "RUNNING"}, {"state": "STARTING"}, {"state": "STOPPING"}],
    },
}


class Controller:
    """Answers what it is set to, or fails."""

    def __init__(self) -> None:
        self.away = False
        self.now = 100.0

    def ask(self) -> Mapping[str, Any]:
        if self.away:
            raise TimeoutError
        return SAID

    def counts(self) -> ReplicaCounts:
        return ReplicaCounts(self.ask, clock=lambda: self.now)


async def test_only_running_replicas_count_as_running() -> None:
    controller = Controller()
    counts = controller.counts()

    await counts.refresh()
    controller.now += 2

    assert counts().model_dump() == {
        "deployments": {
            "Gateway": {"running": 1, "wanted": 1},
            "Validator": {"running": 1, "wanted": 2},
        },
        "reason": None,
        "age_s": 2.0,
    }


async def test_before_the_first_answer_there_is_a_reason_and_no_count() -> None:
    said = Controller().counts()()

    assert (said.deployments, said.reason) == (None, "not asked yet")


async def test_while_the_controller_is_away_the_last_counts_stay_for_a_while() -> None:
    controller = Controller()
    counts = controller.counts()
    await counts.refresh()
    controller.away = True

    controller.now += MAX_AGE_S
    await counts.refresh()
    recent = counts()
    controller.now += 1
    old = counts()

    assert recent.deployments is not None
    assert recent.reason == "Serve's controller did not answer (TimeoutError)"
    assert (old.deployments, old.age_s, old.reason) == (None, None, recent.reason)
