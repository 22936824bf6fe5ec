"""Kubernetes' manifests: by schema where there is one here, by assertion where there is none.

Core kinds are validated against the schemas of Kubernetes 1.37 (`kubernetes-validate`). The custom
kinds, RayService and PodMonitor, have no schema at hand and no cluster runs here: what matters of
them is asserted below, and that is all that is known of them.
"""

import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.settings import ServerSettings, Settings
from deployments import runtime
from deployments.config_check import read_serve_config
from tests.deploy.promql import PROMETHEUS, ROOT

KUBERNETES = ROOT / "configs" / "kubernetes"
CUSTOM = {"RayService", "PodMonitor", "Kustomization"}
RUN = Path("/tmp/medai-10001")  # noqa: S108  # of a pod; `medai env` prints it there
WRITABLE = {"/tmp", "/dev/shm", "/var/lib/medai/anchors"}  # noqa: S108  # of a pod
READ_ONLY = {"/var/lib/medai/models", "/var/lib/medai/keys"}

SCHEMAS = "kubernetes_validate"
# What Prometheus calls what its operator calls otherwise
KEYS = {"sourceLabels": "source_labels", "targetLabel": "target_label"}
needs_schemas = pytest.mark.skipif(
    importlib.util.find_spec(SCHEMAS) is None,
    reason="the schemas are not here (package kubernetes-validate)",
)


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    for file in sorted(KUBERNETES.glob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text()):
            yield file.name, document


BY_NAME: dict[tuple[str, str], dict[str, Any]] = {
    (document["kind"], document.get("metadata", {}).get("name", "")): document
    for _, document in documents()
}
SERVICE = BY_NAME["RayService", "medai"]["spec"]
CLUSTER = SERVICE["rayClusterConfig"]
HEAD = CLUSTER["headGroupSpec"]
WORKERS = CLUSTER["workerGroupSpecs"][0]
PODS = {
    "head": HEAD["template"],
    "workers": WORKERS["template"],
    "upgrade": BY_NAME["Job", "medai-upgrade"]["spec"]["template"],
}
CORE = [
    (f"{document['kind']} {document['metadata']['name']}", document)
    for _, document in documents()
    if document["kind"] not in CUSTOM
]


def validate(document: dict[str, Any]) -> None:
    """Raises the package's error where a document breaks its schema or has a key too many."""
    importlib.import_module(SCHEMAS).validate(document, "1.37", strict=True)


@needs_schemas
@pytest.mark.parametrize(("name", "document"), CORE, ids=[name for name, _ in CORE])
def test_a_core_object_follows_its_schema(name: str, document: dict[str, Any]) -> None:
    validate(document)


@needs_schemas
@pytest.mark.parametrize("role", PODS)
def test_the_pods_of_custom_objects_follow_the_schema_of_pods(role: str) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "spec": PODS[role]["spec"]}

    validate(pod | {"metadata": {"name": role}})


@needs_schemas
def test_a_misspelt_key_is_found() -> None:
    claim = BY_NAME["PersistentVolumeClaim", "medai-models"]
    wrong = claim | {"spec": claim["spec"] | {"accessMode": ["ReadWriteOnce"]}}

    with pytest.raises(Exception, match="accessMode"):
        validate(wrong)


def test_kustomize_takes_every_file_and_each_object_is_in_the_namespace() -> None:
    listed = set(BY_NAME["Kustomization", ""]["resources"])

    assert listed == {file.name for file in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"}
    for file, document in documents():
        if document["kind"] not in {"Kustomization", "Namespace"}:
            assert document["metadata"]["namespace"] == "medai", file


def test_the_topology_is_one_the_service_takes_and_that_of_the_file_but_for_numbers(
    tmp_path: Path,
) -> None:
    embedded = tmp_path / "serve_config.yaml"
    embedded.write_text(SERVICE["serveConfigV2"])

    [ours] = read_serve_config(embedded).applications
    [usual] = read_serve_config(ROOT / "serve_config.yaml").applications

    assert (ours.name, ours.import_path, ours.route_prefix) == (
        usual.name, usual.import_path, usual.route_prefix,
    )  # fmt: skip
    assert ours.args == usual.args
    assert [one.name for one in ours.deployments] == [one.name for one in usual.deployments]
    assert [one.user_config for one in ours.deployments] == [
        one.user_config for one in usual.deployments
    ]


def test_rays_switches_are_those_of_the_command_line() -> None:
    settings = Settings(server=ServerSettings(host="0.0.0.0"))  # noqa: S104  # of a pod

    assert BY_NAME["ConfigMap", "medai-ray"]["data"] == runtime.flags(settings, RUN)


def test_the_settings_are_a_whole_production_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in BY_NAME["ConfigMap", "medai-settings"]["data"].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MEDAI_DATABASE__URL", "postgresql+asyncpg://medai_app:x@db/medai")

    settings = Settings.load()

    assert settings.profile == "production"
    assert not settings.auth.generate_keys
    assert settings.home_dir == Path("/var/lib/medai")


@pytest.mark.parametrize("role", PODS)
def test_no_container_may_do_what_it_need_not(role: str) -> None:
    spec = PODS[role]["spec"]

    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    for container in (*spec["initContainers"], *spec["containers"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, container["name"]
        assert container["resources"]["limits"]["memory"], container["name"]


@pytest.mark.parametrize("role", PODS)
def test_secrets_come_as_secrets_and_every_volume_is_mounted(role: str) -> None:
    spec = PODS[role]["spec"]
    names = {volume["name"] for volume in spec["volumes"]}
    mounted = {
        mount["name"]
        for container in (*spec["initContainers"], *spec["containers"])
        for mount in container["volumeMounts"]
    }

    assert mounted == names
    for container in spec["containers"]:
        for variable in container["env"]:
            secret = "URL" in variable["name"]
            assert ("valueFrom" in variable) == secret, variable["name"]


@pytest.mark.parametrize("role", ["head", "workers"])
def test_the_root_is_read_only_but_for_what_the_service_writes(role: str) -> None:
    [container] = PODS[role]["spec"]["containers"]

    mounts = {
        mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]
    }
    assert set(mounts) == WRITABLE | READ_ONLY
    assert {path for path, read_only in mounts.items() if read_only} == READ_ONLY


def test_the_head_runs_no_replica_and_its_memory_outlives_it() -> None:
    assert HEAD["rayStartParams"]["num-cpus"] == "0"
    assert CLUSTER["authOptions"] == {"mode": "token"}
    redis = CLUSTER["gcsFaultToleranceOptions"]
    assert redis["redisAddress"]
    assert "secretKeyRef" in redis["redisPassword"]["valueFrom"]


def test_a_change_never_brings_up_a_second_audit_writer() -> None:
    assert SERVICE["upgradeStrategy"] == {"type": "None"}


@pytest.mark.parametrize("role", ["head", "workers"])
def test_every_pod_of_ray_is_probed_and_scraped(role: str) -> None:
    group = HEAD if role == "head" else WORKERS
    [container] = group["template"]["spec"]["containers"]

    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports["metrics"] == ServerSettings().metrics_port
    assert group["rayStartParams"]["metrics-export-port"] == str(ports["metrics"])


def test_a_gateway_stands_on_every_worker() -> None:
    [application] = yaml.safe_load(SERVICE["serveConfigV2"])["applications"]
    gateway = next(one for one in application["deployments"] if one["name"] == "Gateway")

    assert gateway["num_replicas"] == WORKERS["replicas"] == WORKERS["minReplicas"]
    assert gateway["max_replicas_per_node"] == 1


def test_workers_have_time_to_finish_what_they_do() -> None:
    pod = WORKERS["template"]["spec"]
    variables = {one["name"]: one.get("value") for one in pod["containers"][0]["env"]}
    drain_s = int(variables["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])

    assert pod["terminationGracePeriodSeconds"] > drain_s + ServerSettings().drain_s


def test_one_worker_at_a_time_may_be_drained() -> None:
    budget = BY_NAME["PodDisruptionBudget", "medai-workers"]["spec"]

    assert budget["maxUnavailable"] == 1
    labels = WORKERS["template"]["metadata"]["labels"]
    assert budget["selector"]["matchLabels"].items() <= labels.items()


def test_from_outside_only_named_ports_are_open_to_named_namespaces() -> None:
    policy = BY_NAME["NetworkPolicy", "medai"]["spec"]

    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    open_to = {
        rule["from"][0]["namespaceSelector"]["matchLabels"]["medai.example/role"]: {
            port["port"] for port in rule["ports"]
        }
        for rule in policy["ingress"]
        if "namespaceSelector" in rule["from"][0]
    }
    assert open_to == {"ingress": {8000}, "monitoring": {8090, 9101}, "kuberay": {8265, 8000}}
    for pods in PODS.values():
        labels = pods["metadata"]["labels"]
        assert policy["podSelector"]["matchLabels"].items() <= labels.items()


def test_the_monitors_filter_as_prometheus_does() -> None:
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}

    for name in ("medai-nodes", "medai-haproxy"):
        [endpoint] = BY_NAME["PodMonitor", name]["spec"]["podMetricsEndpoints"]
        rules = [
            {KEYS.get(key, key): value for key, value in rule.items()}
            for rule in endpoint["metricRelabelings"]
        ]
        assert rules == jobs[name]["metric_relabel_configs"]
        assert {"targetLabel": "job", "replacement": name} in endpoint["relabelings"]
    limit = BY_NAME["PodMonitor", "medai-nodes"]["spec"]["sampleLimit"]
    assert limit == jobs["medai-nodes"]["sample_limit"]


def test_clients_reach_the_proxies_and_nothing_else() -> None:
    ingress = BY_NAME["Ingress", "medai"]["spec"]

    assert ingress["tls"]
    [path] = ingress["rules"][0]["http"]["paths"]
    assert path["backend"]["service"] == {"name": "medai-serve-svc", "port": {"number": 8000}}
