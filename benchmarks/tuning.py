"""The peers' best settings on two cores. What else was tried is in docs/performance.md.

A module of its own because the servers import it: nothing of the bench shall count in their memory.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

# The bare server gets its model's folder by the environment: uvicorn's workers have no arguments.
BARE_MODEL = "BENCH_MODEL"
BARE_WORKERS = 2  # a process a core


@dataclass(frozen=True, slots=True)
class LitServe:
    """LitServe's switches. `batch_timeout` in seconds."""

    max_batch_size: int = 16
    batch_timeout: float = 0.0
    workers_per_device: int = 1
    fast_queue: bool = True
    api_servers: int = 1

    def arguments(self) -> list[str]:
        """As words of a command line."""
        return [f"{name}={value}" for name, value in asdict(self).items()]

    @classmethod
    def of(cls, arguments: Sequence[str]) -> "LitServe":
        """The opposite of `arguments`."""
        given = dict(argument.split("=", 1) for argument in arguments)
        return cls(
            max_batch_size=int(given["max_batch_size"]),
            batch_timeout=float(given["batch_timeout"]),
            workers_per_device=int(given["workers_per_device"]),
            fast_queue=given["fast_queue"] == "True",
            api_servers=int(given["api_servers"]),
        )


# One worker leaves the other core to the HTTP process, which needs as much as a small model does; a
# large model wants both cores.
LITSERVE = {"cxr-pneumonia": LitServe(), "densenet121": LitServe(workers_per_device=2)}
