"""How many replicas: by the calls that Serve makes and those it does not see, together."""

import pytest
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from deployments.autoscaling import LOCAL_CALLS, calls_on_their_way

DEPLOYMENT = DeploymentID("Validator", "medai")


def context(*, by_handle: float, local: list[float], target: float) -> AutoscalingContext:
    """What Serve tells a policy."""
    replicas = [ReplicaID(str(number), DEPLOYMENT) for number in range(len(local))]
    return AutoscalingContext(
        deployment_id=DEPLOYMENT,
        deployment_name="Validator",
        app_name="medai",
        current_num_replicas=1,
        target_num_replicas=1,
        running_replicas=replicas,
        total_num_requests=by_handle,
        total_queued_requests=0.0,
        aggregated_metrics={LOCAL_CALLS: dict(zip(replicas, local, strict=True))} if local else {},
        raw_metrics=None,
        capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=8,
        policy_state={},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=None,
        config=AutoscalingConfig(target_ongoing_requests=target),
    )


@pytest.mark.parametrize(
    ("by_handle", "local", "target", "replicas"),
    [
        (0.0, [], 1, 0),
        (3.0, [], 1, 3),
        (0.0, [1.6, 0.8], 1, 3),
        (1.0, [1.6, 0.8], 1, 4),
        (1.0, [1.6, 0.8], 2, 2),
    ],
)
def test_the_calls_of_every_way_count(
    by_handle: float, local: list[float], target: float, replicas: int
) -> None:
    wanted, state = calls_on_their_way(context(by_handle=by_handle, local=local, target=target))

    assert wanted == replicas
    assert state == {}
