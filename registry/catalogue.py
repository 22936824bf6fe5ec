"""Which version of which model answers. An immutable picture of the registry at one moment."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from registry.card import ModelCard
from registry.contract import ModelRef
from registry.errors import NotFound, Violation


@dataclass(frozen=True, slots=True)
class Served:
    """An active version: what it is, what its card says, and its file (absolute path)."""

    model: ModelRef
    card: ModelCard
    path: str


class Catalogue:
    """The active versions by name."""

    def __init__(self, served: Iterable[Served]) -> None:
        self._by_name = {version.model.name: version for version in served}

    @property
    def names(self) -> tuple[str, ...]:
        """The names that have an active version, in alphabetical order."""
        return tuple(sorted(self._by_name))

    def active(self, name: str) -> Served:
        """The version of `name` that serves. Raises `NotFound`, naming near misses."""
        try:
            return self._by_name[name]
        except KeyError:
            near = get_close_matches(name, self.names, n=1)
            advice = f"did you mean {near[0]}?" if near else "GET /models lists the names"
            raise NotFound(
                "no active version of this model", (Violation("model", advice=advice),)
            ) from None

    def gate_of(self, served: Served) -> Served | None:
        """The gate model of `served`, if its card names one. Raises `NotFound`."""
        return None if served.card.gate is None else self.active(served.card.gate.model)
