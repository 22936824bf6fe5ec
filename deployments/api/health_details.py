"""How this gateway and its host stand, for administrators: numbers that are at hand at any moment.

Nothing here waits: no query, no call to another process, so that an answer comes also while the
service is saturated. What other processes know of themselves is in the metrics.
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, Field

from registry.catalogue import Catalogue
from storage.database import Database


class ConnectionDetails(BaseModel):
    """The connections to the database."""

    model_config = ConfigDict(extra="forbid")

    circuit: str = Field(examples=["closed"])
    open: int = Field(ge=0, examples=[10])
    in_use: int = Field(ge=0, examples=[2])
    fault: str | None = Field(examples=["SQLSTATE 08006"])


class ServedModel(BaseModel):
    """A version that answers under its name."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(examples=["cxr-pneumonia"])
    version: str = Field(examples=["1.0.0"])


class ReplicaCount(BaseModel):
    """The replicas of one deployment."""

    model_config = ConfigDict(extra="forbid")

    running: int = Field(ge=0, examples=[2])
    wanted: int = Field(ge=0, examples=[2], description="by the topology and the present load")


class ReplicaDetails(BaseModel):
    """The replicas of the whole application, on every node."""

    model_config = ConfigDict(extra="forbid")

    deployments: dict[str, ReplicaCount] | None = Field(description="null where it is not known")
    reason: str | None = Field(description="why it is not known, or was not at the last asking")
    age_s: float | None = Field(ge=0, description="how old the counts are")


class HealthDetails(BaseModel):
    """One gateway, its process and its host."""

    model_config = ConfigDict(extra="forbid")

    cpu_percent: float = Field(ge=0, description="of one core, by this process, since last asked")
    host_cpu_percent: float = Field(ge=0, description="of all cores, since last asked")
    memory_rss_bytes: int = Field(ge=0, description="of this process")
    memory_available_bytes: int = Field(ge=0, description="of the host")
    disk_free_bytes: int = Field(ge=0, description="where the state is kept")
    requests_in_progress: int = Field(ge=0)
    queues: dict[str, int] = Field(description="what waits for another deployment")
    database: ConnectionDetails
    models: list[ServedModel]
    replicas: ReplicaDetails


class HostView:
    """Tells the details of one gateway.

    Args:
        home: The directory that holds all state.
        database: Whose connections.
        catalogue: Gives the present picture of the active versions.
        in_progress: How many requests for inference are worked on.
        queues: How much waits, by the name of what it waits for.
        replicas: The last count of the replicas; must not wait for anybody.
    """

    def __init__(
        self,
        home: Path,
        database: Database,
        catalogue: Callable[[], Catalogue],
        in_progress: Callable[[], int],
        queues: Mapping[str, Callable[[], int]],
        replicas: Callable[[], ReplicaDetails],
    ) -> None:
        # Made at the first start; until then, what it will be made in tells the same.
        self._home = next(place for place in (home, *home.parents) if place.exists())
        self._database = database
        self._catalogue = catalogue
        self._in_progress = in_progress
        self._queues = queues
        self._replicas = replicas
        self._process = psutil.Process()
        self._process.cpu_percent()  # the first call only begins to measure
        psutil.cpu_percent()

    def details(self) -> HealthDetails:
        """The details at this moment."""
        state, catalogue = self._database.state(), self._catalogue()
        served = [catalogue.active(name).model for name in catalogue.names]
        return HealthDetails(
            cpu_percent=self._process.cpu_percent(),
            host_cpu_percent=psutil.cpu_percent(),
            memory_rss_bytes=self._process.memory_info().rss,
            memory_available_bytes=psutil.virtual_memory().available,
            disk_free_bytes=shutil.disk_usage(self._home).free,
            requests_in_progress=self._in_progress(),
            queues={name: depth() for name, depth in self._queues.items()},
            database=ConnectionDetails(
                circuit=str(state.circuit),
                open=state.size,
                in_use=state.checked_out,
                fault=state.fault,
            ),
            models=[ServedModel(name=model.name, version=model.version) for model in served],
            replicas=self._replicas(),
        )
