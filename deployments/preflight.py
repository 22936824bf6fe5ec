"""What can be known before Ray is started: ports, database, and every model the topology names.

A command of its own: `python -m deployments.preflight serve_config.yaml`.
"""

import asyncio
import sys
from pathlib import Path

import yaml

from configs.settings import Settings
from deployments.inference.catalogue_watch import read_catalogue
from deployments.inference.onnx import OnnxSession
from deployments.ports import refuse_taken_ports
from deployments.reporting import reported
from registry.errors import InvalidConfiguration, MedAIError
from storage import schema


def check(settings: Settings, topology: Path) -> None:
    """Look at all of it.

    Raises:
        InvalidConfiguration: A port is taken, the database is not there or not of this release, or
            the topology names a model that does not serve.
        InvalidModel: A model's file is not the registered one, or its golden case fails.
    """
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


if __name__ == "__main__":
    with reported():
        check(Settings.load(), Path(sys.argv[1]))
