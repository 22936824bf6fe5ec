"""Which version of which model answers. An immutable picture of the registry at one moment."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from registry.card import ModelCard
from registry.contract import ModelRef
from registry.errors import ModelHalted, NotFound, Violation


@dataclass(frozen=True, slots=True)
class Served:
    """An active version: what it is, what its card says, and its file (absolute path)."""

    model: ModelRef
    card: ModelCard
    path: str


class Catalogue:
    """The active versions by name, the staged ones beside them, and what is halted.

    Args:
        served: The active versions.
        staged: Versions that replicas load so that they can become active.
        halts: The reason for each halted name.
    """

    def __init__(
        self,
        served: Iterable[Served],
        *,
        staged: Iterable[Served] = (),
        halts: Mapping[str, str] | None = None,
    ) -> None:
        self._by_name = {version.model.name: version for version in served}
        self._staged = {version.model.name: version for version in staged}
        self.halts: Mapping[str, str] = dict(halts or {})

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

    def answering(self, name: str) -> Served:
        """The version of `name` that may answer. Raises `NotFound`, or `ModelHalted`."""
        served = self.active(name)
        if name in self.halts:
            raise ModelHalted(
                f"{name} is halted",
                (Violation("model", self.halts[name], advice="ask an administrator"),),
            )
        return served

    def wanted(self, name: str) -> tuple[Served, ...]:
        """What a replica of `name` should hold: the active and the staged version."""
        versions = (self._by_name.get(name), self._staged.get(name))
        return tuple(version for version in versions if version is not None)

    def versions(self) -> tuple[Served, ...]:
        """Every active and staged version."""
        return (*self._staged.values(), *self._by_name.values())

    def gate_of(self, served: Served) -> Served | None:
        """The gate of `served`, if its card names one. Raises `NotFound`, or `ModelHalted`."""
        return None if served.card.gate is None else self.answering(served.card.gate.model)
