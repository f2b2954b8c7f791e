"""The names of settings: as a path, dotted (files) and as a variable (environment), and the nearest to a wrong one."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, get_origin

from pydantic import BaseModel, SecretStr

from service.settings.tree import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pydantic.fields import FieldInfo

PREFIX = "APP_"
NESTING = "__"
RESERVED = frozenset({"APP_ENV", "APP_CONFIG_DIR", "APP_SECRETS_DIR"})
"""Variables that say where settings come from. They are read from the environment alone."""


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """The name of one setting."""

    path: tuple[str, ...]

    @property
    def dotted(self) -> str:
        """As in files and messages: ``database.url``."""
        return ".".join(self.path)

    @property
    def variable(self) -> str:
        """As in the environment: ``APP_DATABASE__URL``."""
        return PREFIX + NESTING.join(self.path).upper()

    @property
    def file(self) -> str:
        """As in the secrets directory: ``database__url``."""
        return NESTING.join(self.path)

    def __str__(self) -> str:
        return f"{self.dotted} ({self.variable})"


def _walk(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[Key, FieldInfo]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _walk(kind, (*path, name))
        else:
            yield Key((*path, name)), field


@cache
def known() -> Mapping[Key, FieldInfo]:
    """Return every setting there is, in the tree's order."""
    return dict(_walk(Settings))


@cache
def settable() -> frozenset[Key]:
    """Return what the sources may set: all but ``env``."""
    return frozenset(key for key in known() if key.path != ("env",))


@cache
def variables() -> Mapping[str, Key]:
    """Return what the sources may set, by its name in the environment."""
    return {key.variable: key for key in settable()}


@cache
def sections() -> frozenset[tuple[str, ...]]:
    """Return the paths of the groups of settings."""
    return frozenset(key.path[:length] for key in known() for length in range(1, len(key.path)))


def is_table(key: Key) -> bool:
    """Tell whether the setting is itself a mapping, given as JSON where only text is possible."""
    return get_origin(known()[key].annotation) is dict


def is_list(key: Key) -> bool:
    """Tell whether the setting is a list, given as JSON where only text is possible."""
    return get_origin(known()[key].annotation) is tuple


def is_secret(key: Key) -> bool:
    """Tell whether the setting's value must not be shown."""
    return SecretStr.__name__ in str(known()[key].annotation)


def owner(path: Iterable[object]) -> Key | None:
    """Return the setting a path of a validation error lies in; None for a whole section."""
    parts = tuple(str(part) for part in path)
    candidates = (Key(parts[:length]) for length in range(len(parts), 0, -1))
    return next((key for key in candidates if key in known()), None)


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the one of `names`, all in lower case, that `name` is most likely meant to be, or None."""
    return next(iter(difflib.get_close_matches(name.lower(), sorted(names), n=1, cutoff=0.6)), None)
