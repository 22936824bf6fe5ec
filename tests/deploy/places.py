"""Which places the settings name: what has to be there again after a restart."""

import re
from pathlib import Path

from pydantic import BaseModel

from configs.settings import Settings


def named_places(settings: Settings) -> dict[str, Path]:
    """Every path that is set, by section and field, and every one that follows from them.

    The home itself is none: what is in it is named.
    """
    derived = {
        name: getattr(settings, name)
        for name, member in vars(Settings).items()
        if isinstance(member, property)
    }
    fields = {
        f"{name}.{field}": value
        for name, section in settings
        if isinstance(section, BaseModel)
        for field, value in section
    }
    return {name: value for name, value in (derived | fields).items() if isinstance(value, Path)}


def variables(text: str) -> dict[str, str]:
    """Every `MEDAI_NAME=value` of a text, whatever stands around it."""
    return dict(re.findall(r"\b(MEDAI_[A-Z_]+)=(\S+)", text))
