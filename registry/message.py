"""What is common to the values that travel between processes with every request.

A frozen dataclass with slots pickles through two functions of the `dataclasses` module that look
its fields up anew for every object. A verdict holds a dozen objects and is pickled twice on its
way: that was 4 % of the CPU of a request. `Message` pickles as the class and its values.
"""

from collections.abc import Callable
from dataclasses import fields
from functools import cache
from operator import attrgetter
from typing import Any


class Message:
    """Base of the dataclasses in `registry.contract` and `registry.events`.

    Unpickling calls the constructor, so every field must be one of its parameters.
    """

    __slots__ = ()

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        """The class, and its constructor's arguments."""
        return type(self), _values_of(type(self))(self)  # type: ignore[arg-type]  # mypy: no hash


@cache
def _values_of(kind: type[Any]) -> Callable[[object], tuple[Any, ...]]:
    names = [field.name for field in fields(kind)]
    if len(names) > 1:
        return attrgetter(*names)

    def only(message: object) -> tuple[Any, ...]:
        return (getattr(message, names[0]),)

    return only
