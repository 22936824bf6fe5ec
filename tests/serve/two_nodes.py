"""Two Ray nodes on this machine and the service on them. Run by `test_two_nodes.py`.

    RAY_TMPDIR=... python two_nodes.py TOPOLOGY FIRST_METRICS_PORT SECOND_METRICS_PORT

Ends the second node abruptly at the first line on standard input, everything at the second.
One HAProxy is all there is: two could not share the port of one machine.
"""

import sys
from pathlib import Path

import ray
import yaml
from ray import serve
from ray.cluster_utils import Cluster
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

STORE_BYTES = 100 * 2**20


def main(topology: Path, first_port: int, second_port: int) -> None:
    """Start, serve, lose a node, end."""
    schema = ServeDeploySchema.model_validate(yaml.safe_load(topology.read_text()))
    common = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={**common, "metrics_export_port": first_port},
    )
    second = cluster.add_node(**common, metrics_export_port=second_port)
    ray.init(address=cluster.address, namespace="serve", log_to_driver=False)
    serve.start(
        proxy_location=schema.proxy_location,
        http_options=schema.http_options.model_dump(),
        logging_config=schema.logging_config,
    )
    client = _get_global_client()
    assert client is not None
    client.deploy_apps(schema, _blocking=True)
    sys.stdin.readline()
    cluster.remove_node(second, allow_graceful=False)
    sys.stdin.readline()
    serve.shutdown()
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
