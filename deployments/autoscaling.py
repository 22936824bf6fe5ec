"""How many replicas a deployment shall have: Serve's own rule, over all the calls there are.

Serve counts the calls that its handles make. Those of one machine go over a socket past it
(`deployments.local_replicas`), so each replica reports them as a number of its own.

`serve_config.yaml` names the policy of each deployment that scales; its bounds, delays and factors
are applied to it as to Serve's. It runs in Serve's controller: nothing here may be slow to import.
"""

import math
from typing import Any, Final

from ray.serve.config import AutoscalingContext

LOCAL_CALLS: Final = "local_calls"


def calls_on_their_way(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """As many replicas as there are calls on their way for `target_ongoing_requests` of each.

    Args:
        context: What Serve knows: its own calls, and what the replicas report, both over
            `look_back_period_s`.

    Returns:
        The number of replicas, and the policy's state, of which it has none.
    """
    reported = (context.aggregated_metrics or {}).get(LOCAL_CALLS, {})
    calls = context.total_num_requests + sum(reported.values())
    assert context.config is not None  # a deployment without one is not asked
    return math.ceil(calls / context.config.get_target_ongoing_requests()), {}
