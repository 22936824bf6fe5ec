"""What an operator may set in `serve_config.yaml` beyond Ray Serve's own keys.

`args` goes to the builder (`deployments.app.build`): which models there are. `user_config` of a
deployment is one of the tuning sections here: it changes a running replica without a restart.
Unknown keys are refused; Ray itself would ignore them.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from registry.card import ModelName

MODEL_PREFIX = "OnnxModel:"


class Section(BaseModel):
    """A part of the file. Frozen; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class HopTuning(Section):
    """How requests are gathered into one call to the next deployment.

    An idle hop sends at once. While `max_in_flight` calls are on their way requests gather, at
    most `max_batch_size` a call; beyond `max_queue` waiting the caller gets 503.
    """

    max_batch_size: int = Field(default=16, ge=1, le=512)
    max_in_flight: int = Field(default=2, ge=1, le=64)
    max_queue: int = Field(default=512, ge=1, le=100_000)


class GatewayTuning(Section):
    """`user_config` of `Gateway`."""

    validator: HopTuning = HopTuning()
    audit: HopTuning = HopTuning(max_batch_size=128, max_in_flight=1, max_queue=2048)


class ValidatorTuning(Section):
    """`user_config` of `Validator`."""

    threads: int = Field(default=1, ge=1, le=64)  # images decoded side by side in one replica
    decoder_processes: int = Field(default=1, ge=1, le=16)  # slow files decoded at once


class ModelTuning(Section):
    """`user_config` of `OnnxModel:<name>`: dynamic batching."""

    max_batch_size: int = Field(default=16, ge=1, le=1024)
    max_queue: int = Field(default=512, ge=1, le=100_000)


class AuditTuning(Section):
    """`user_config` of `AuditWriter`."""

    max_group_size: int = Field(default=256, ge=1, le=2048)  # records in one transaction


class ModelOptions(Section):
    """One model of `args.models`."""

    threads: Annotated[int, Field(ge=1, le=256)] = 1  # ONNX Runtime's; threads x replicas <= cores


class BuildArgs(Section):
    """`args` of the application."""

    models: dict[ModelName, ModelOptions] = Field(min_length=1)
    revision: str = ""  # change it to restart every replica


TUNINGS: dict[str, type[Section]] = {
    "Gateway": GatewayTuning,
    "Validator": ValidatorTuning,
    "AuditWriter": AuditTuning,
}


def tuning_of(deployment: str) -> type[Section] | None:
    """The `user_config` schema of a deployment; None for a name there is not."""
    return ModelTuning if deployment.startswith(MODEL_PREFIX) else TUNINGS.get(deployment)
