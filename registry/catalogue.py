"""Which version of which model answers. An immutable picture of the registry at one moment."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from uuid import UUID

from registry.card import ModelCard
from registry.contract import ModelRef
from registry.errors import ModelHalted, NotFound, Violation


@dataclass(frozen=True, slots=True)
class Served:
    """An active version: what it is, what its card says, and its file (absolute path)."""

    model: ModelRef
    card: ModelCard
    path: str


@dataclass(frozen=True, slots=True)
class Shadow:
    """A challenger that scores, unheard, a share of what the version `answering` scores."""

    id: UUID
    answering: UUID
    challenger: Served
    share: float


class Catalogue:
    """The active versions by name, staged ones and challengers beside them, and what is halted.

    Args:
        served: The active versions.
        staged: Versions that replicas load so that they can become active.
        halts: The reason for each halted name.
        shadows: The challenger of each name that has one.
    """

    def __init__(
        self,
        served: Iterable[Served],
        *,
        staged: Iterable[Served] = (),
        halts: Mapping[str, str] | None = None,
        shadows: Iterable[Shadow] = (),
    ) -> None:
        self._by_name = {version.model.name: version for version in served}
        self._staged = {version.model.name: version for version in staged}
        self._shadows = {shadow.challenger.model.name: shadow for shadow in shadows}
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

    def shadow(self, name: str) -> Shadow | None:
        """The challenger of `name`, if it has one."""
        return self._shadows.get(name)

    def wanted(self, name: str) -> tuple[Served, ...]:
        """What a replica of `name` should hold: the active and staged version, and a challenger."""
        shadow = self._shadows.get(name)
        challenger = None if shadow is None else shadow.challenger
        versions = (self._by_name.get(name), self._staged.get(name), challenger)
        return tuple({one.model.id: one for one in versions if one is not None}.values())

    def versions(self) -> tuple[Served, ...]:
        """Every active and staged version, and every challenger."""
        challengers = (shadow.challenger for shadow in self._shadows.values())
        return (*challengers, *self._staged.values(), *self._by_name.values())

    def gate_of(self, served: Served) -> Served | None:
        """The gate of `served`, if its card names one. Raises `NotFound`, or `ModelHalted`."""
        return None if served.card.gate is None else self.answering(served.card.gate.model)
