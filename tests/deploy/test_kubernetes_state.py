"""What a pod finds at its next start: keys, anchors, models, and a directory for its sockets.

Settings are loaded from the manifests' own environment. The first container's commands are run, in
directories laid out and filled as a kubelet does it, with the keys that the handbook's commands
make; only the paths' root is another.
"""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from configs.settings import Settings
from deployments.inference.pseudonym import Pseudonyms
from deployments.local_replicas import folder_of
from storage.signing_keys import load_keys
from tests.deploy.places import named_places
from tests.deploy.promql import ROOT
from tests.deploy.test_kubernetes import BY_NAME, PODS, WORKERS

HANDBOOK = (ROOT / "docs" / "operations.md").read_text()
OF_THE_RECORDS = {"MEDAI_DATABASE__URL": "postgresql+asyncpg://medai_app:x@db/medai"}  # a secret
FILLED_BY_KUBELET = 0o440  # of a secret's files, which belong to root and the pod's group
OF_EMPTY_DIRECTORIES = 0o2777  # emptyDir, once fsGroup has been applied


def settings_of(role: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    [container] = PODS[role]["spec"]["containers"]
    for source in container["envFrom"]:
        data = BY_NAME["ConfigMap", source["configMapRef"]["name"]]["data"]
        for name, value in data.items():
            if name.startswith("MEDAI_"):
                monkeypatch.setenv(name, value)
    for name, value in OF_THE_RECORDS.items():
        monkeypatch.setenv(name, value)
    return Settings.load()


def mount_of(container: dict[str, Any], place: Path) -> dict[str, Any] | None:
    """The container's mount that `place` is on; None where it is on the root file system."""
    around = [one for one in container["volumeMounts"] if place.is_relative_to(one["mountPath"])]
    return max(around, key=lambda one: len(one["mountPath"]), default=None)


def volume_at(role: str, place: Path) -> dict[str, Any]:
    """The pod's volume that `place` is on, in the container that works."""
    spec = PODS[role]["spec"]
    [container] = spec["containers"]
    mount = mount_of(container, place)
    assert mount is not None, place
    return next(one for one in spec["volumes"] if one["name"] == mount["name"])


def claim_at(role: str, place: Path) -> str:
    """The claim that keeps `place` when the pod is gone."""
    name: str = volume_at(role, place)["persistentVolumeClaim"]["claimName"]
    return name


def keys_of_the_handbook(directory: Path) -> dict[str, Path]:
    """What its commands make, and the secret that each of them becomes."""
    [block] = re.findall(
        r"^```sh\n([^`]*?openssl genpkey.*?)^```", HANDBOOK, re.MULTILINE | re.DOTALL
    )
    subprocess.run(["bash", "-euc", block], cwd=directory, check=True, timeout=20)
    secrets = re.findall(r"create secret generic (\S+) --from-file=(\S+)", HANDBOOK)
    return {name: directory / path for name, path in secrets}


def start(role: str, root: Path, secrets: dict[str, Path]) -> None:
    """Lay out the first container's mounts under `root`, and run it to its end."""
    spec = PODS[role]["spec"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    [container] = spec["initContainers"]
    for mount in container["volumeMounts"]:
        place = root / mount["mountPath"].lstrip("/")
        place.mkdir(parents=True)
        place.chmod(OF_EMPTY_DIRECTORIES)
        secret = volumes[mount["name"]].get("secret")
        if secret is not None:
            fill(place, secrets[secret["secretName"]])
    shell, option = container["command"]
    [script] = container["args"]
    subprocess.run(
        [shell, option, script.replace("/tmp/", f"{root}/tmp/")],  # noqa: S108  # of a pod
        cwd=root / container["workingDir"].lstrip("/"), check=True, timeout=20,
    )  # fmt: skip


def fill(place: Path, source: Path) -> None:
    """A secret's volume: links to files in a directory that is exchanged as a whole."""
    data = place / "..data"
    data.mkdir()
    for file in sorted(source.iterdir()) if source.is_dir() else [source]:
        if file.is_file():
            shutil.copyfile(file, data / file.name)
            (data / file.name).chmod(FILLED_BY_KUBELET)
            (place / file.name).symlink_to(f"..data/{file.name}")


@pytest.mark.parametrize("role", PODS)
def test_every_place_that_a_setting_names_is_mounted(
    role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    [container] = PODS[role]["spec"]["containers"]
    places = named_places(settings_of(role, monkeypatch))

    lost = {name for name, place in places.items() if mount_of(container, place) is None}

    assert {"anchor_file", "log_key_dir", "model_dir"} <= places.keys()
    assert lost == set()


@pytest.mark.parametrize("role", PODS)
def test_anchors_and_models_outlive_every_pod_and_every_node(
    role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(role, monkeypatch)
    workers = settings_of("workers", monkeypatch)

    for place in (settings.anchor_file, settings.model_dir):
        claim = BY_NAME["PersistentVolumeClaim", claim_at(role, place)]
        assert claim["spec"]["accessModes"] == ["ReadWriteMany"], place
    assert WORKERS["replicas"] > 1  # else a volume of one node would do
    assert claim_at(role, settings.anchor_file) == claim_at("workers", workers.anchor_file)
    assert claim_at(role, settings.anchor_file) != claim_at(role, settings.model_dir)
    assert settings.anchor_file.parent != settings.home_dir


@pytest.mark.parametrize(("role", "may_not"), [("workers", False), ("upgrade", True)])
def test_only_where_the_audit_writer_may_run_can_anchors_be_added(
    role: str, may_not: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    [container] = PODS[role]["spec"]["containers"]

    mount = mount_of(container, settings_of(role, monkeypatch).anchor_file)

    assert mount is not None
    assert mount.get("readOnly", False) is may_not


@pytest.mark.parametrize("role", PODS)
def test_a_pod_starts_with_the_keys_that_the_handbook_makes(
    role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, root = settings_of(role, monkeypatch), tmp_path / "root"
    (tmp_path / "site").mkdir()

    start(role, root, keys_of_the_handbook(tmp_path / "site"))

    def within(place: Path) -> Path:
        return root / place.relative_to("/")

    tokens = load_keys(within(settings.key_dir), generate=False)
    log = load_keys(within(settings.log_key_dir), generate=False)
    assert log.private.public_key() not in tokens.public.values()
    version = settings.privacy.pseudonym_key_version
    Pseudonyms.from_file(within(settings.pseudonym_key_file), version=version)


@pytest.mark.parametrize("role", PODS)
def test_keys_are_written_to_no_disk_and_by_no_service(
    role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    [container] = PODS[role]["spec"]["containers"]
    settings = settings_of(role, monkeypatch)

    for place in (settings.key_dir, settings.log_key_dir, settings.pseudonym_key_file):
        assert volume_at(role, place)["emptyDir"]["medium"] == "Memory", place
        mount = mount_of(container, place)
        assert mount is not None
        assert mount["readOnly"] is True, place


@pytest.mark.parametrize("role", ["head", "workers"])
def test_replicas_of_a_pod_find_a_directory_for_their_sockets(
    role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, root = settings_of(role, monkeypatch), tmp_path / "root"
    (tmp_path / "site").mkdir()
    start(role, root, keys_of_the_handbook(tmp_path / "site"))
    monkeypatch.setattr(tempfile, "tempdir", str(root / "tmp"))

    folder = folder_of(settings.home_dir)

    assert folder is not None
    assert folder.parent == root / "tmp"
