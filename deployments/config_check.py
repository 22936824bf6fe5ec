"""The strict reading of `serve_config.yaml`: what Ray would ignore is refused here.

Ray Serve drops keys it does not know, so that `max_queued_request` or `num_cpu` would silently
change nothing. Every key is compared with Ray's own schema, `args` and each `user_config` with ours
(`configs.topology`), and every fault is named at once, with the nearest right key.
"""

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from ray.serve.schema import ServeDeploySchema

from configs.topology import BuildArgs, tuning_of
from registry.errors import InvalidConfiguration, Violation

IMPORT_PATH = "deployments.app:build"
RAY_ACTOR_OPTIONS = frozenset(
    {
        "accelerator_type",
        "label_selector",
        "memory",
        "num_cpus",
        "num_gpus",
        "resources",
        "runtime_env",
    }
)


def read_serve_config(path: Path) -> ServeDeploySchema:
    """The operators' file. Raises `InvalidConfiguration`, naming every fault."""
    document = _document(path)
    faults = list(_unknown_keys(document, ServeDeploySchema, ""))
    faults += list(_application_faults(document))
    try:
        schema = ServeDeploySchema.model_validate(document)
    except ValidationError as error:
        faults += [_violation("", fault) for fault in error.errors()]
        schema = None
    if faults or schema is None:
        raise InvalidConfiguration(f"{path.name} has {len(faults)} fault(s)", tuple(faults))
    return schema


def applications_of(schema: ServeDeploySchema) -> list[dict[str, Any]]:
    """The applications as the file has them, without Ray's defaults."""
    return [application.model_dump(exclude_unset=True) for application in schema.applications]


def _document(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise InvalidConfiguration(
            f"{path.name} cannot be read: {error.strerror}; name it with --config"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise InvalidConfiguration(f"{path.name} is not YAML{place}") from None
    if not isinstance(document, dict):
        raise InvalidConfiguration(f"{path.name} must be a mapping")
    return document


def _application_faults(document: dict[str, Any]) -> Iterator[Violation]:
    """What Ray's schema cannot know: our builder's arguments, deployments and tuning."""
    applications = document.get("applications")
    if not isinstance(applications, list):
        return
    for index, application in enumerate(applications):
        if not isinstance(application, dict) or application.get("import_path") != IMPORT_PATH:
            continue
        place = f"applications[{application.get('name', index)}]"
        yield from _faults(application.get("args") or {}, BuildArgs, f"{place}.args")
        for deployment in application.get("deployments") or []:
            if isinstance(deployment, dict):
                yield from _deployment_faults(deployment, application, place)


def _deployment_faults(
    deployment: dict[str, Any], application: dict[str, Any], place: str
) -> Iterator[Violation]:
    name = str(deployment.get("name", ""))
    here = f"{place}.deployments[{name}]"
    models = (application.get("args") or {}).get("models") or {}
    known = ["Gateway", "Validator", "AuditWriter", *(f"OnnxModel:{model}" for model in models)]
    tuning = tuning_of(name)
    if name not in known or tuning is None:
        yield Violation(f"{here}.name", "unknown", advice=_nearest(name, known))
        return
    yield from _faults(deployment.get("user_config") or {}, tuning, f"{here}.user_config")
    options = deployment.get("ray_actor_options")
    for key in options if isinstance(options, dict) else ():
        if key not in RAY_ACTOR_OPTIONS:
            advice = _nearest(key, sorted(RAY_ACTOR_OPTIONS))
            yield Violation(f"{here}.ray_actor_options.{key}", "unknown", advice=advice)
    if name == "AuditWriter" and deployment.get("num_replicas", 1) != 1:
        yield Violation(f"{here}.num_replicas", limit="1", advice="the chain has one writer")
    if name == "Gateway" and "autoscaling_config" in deployment:
        advice = "give num_replicas: HAProxy reloads whenever their number changes"
        yield Violation(f"{here}.autoscaling_config", advice=advice)


def _faults(value: Any, schema: type[BaseModel], place: str) -> list[Violation]:
    try:
        schema.model_validate(value)
    except ValidationError as error:
        faults = error.errors()
        unknown = list(_unknown_keys(value, schema, place)) if isinstance(value, dict) else []
        others = [fault for fault in faults if fault["type"] != "extra_forbidden"]
        return unknown + [_violation(place, fault) for fault in others]
    return []


def _unknown_keys(value: Any, annotation: Any, place: str) -> Iterator[Violation]:
    """Walk a document beside the schema that will read it, and name the keys it has not got."""
    schemas = list(_schemas(annotation))
    if isinstance(value, list):
        for index, item in enumerate(value):
            name = item.get("name", index) if isinstance(item, dict) else index
            yield from _unknown_keys(item, annotation, f"{place}[{name}]")
    elif isinstance(value, dict) and schemas:
        fields = {
            (field.alias or name): field
            for schema in schemas
            for name, field in schema.model_fields.items()
        }
        for key, inner in value.items():
            here = f"{place}.{key}".lstrip(".")
            if key in fields:
                yield from _unknown_keys(inner, fields[key].annotation, here)
            else:
                yield Violation(here, "unknown", advice=_nearest(str(key), list(fields)))
    elif isinstance(value, dict) and get_origin(annotation) is dict and get_args(annotation):
        for key, inner in value.items():
            yield from _unknown_keys(inner, get_args(annotation)[1], f"{place}.{key}")


def _schemas(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models a value may be read into: through Optional, unions and lists, not dicts."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in {Union, UnionType, list}:
        for argument in get_args(annotation):
            yield from _schemas(argument)


def _nearest(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else "remove it"


def _violation(place: str, fault: Any) -> Violation:
    where = ".".join([place, *(str(part) for part in fault["loc"])]).strip(".")
    return Violation(where, advice=str(fault["msg"]).removeprefix("Value error, "))
