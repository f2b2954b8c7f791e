"""The values of the roles feature: none of them can hold a bad value."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from service.errors import FieldViolation, InvalidFields, RoleNotFound

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

MOST_PERMISSIONS = 256
"""How many permissions a role may have."""
_MOST_CHARACTERS = 500
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_PERMISSION = re.compile(r"[a-z][a-z0-9_]*(?:[.][a-z][a-z0-9_]*)+")
_PERMISSION_CHARACTERS = 100


@dataclass(frozen=True, slots=True)
class RoleName:
    """What a role is called: lower case letters, digits, ``_`` and ``-``, at most 63, beginning with a letter."""

    text: str

    @classmethod
    def parse(cls, text: str, *, field: str = "role.name") -> Self:
        """Read the name of a role to be made.

        Raises:
            InvalidFields: naming `field`, with what is wrong.

        """
        if not _NAME.fullmatch(text):
            rule = "must be at most 63 lower case letters, digits, _ and -, beginning with a letter"
            raise InvalidFields(FieldViolation(field, rule))
        return cls(text)

    @classmethod
    def existing(cls, text: str) -> Self:
        """Read the name of a role that is looked for. What is no name names no role.

        Raises:
            RoleNotFound: the text is not a name.

        """
        try:
            return cls.parse(text)
        except InvalidFields as error:
            raise RoleNotFound from error

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, order=True)
class Permission:
    """What may be done, ``users.read`` style."""

    name: str

    @classmethod
    def parse(cls, text: str, *, field: str = "role.permissions") -> Self:
        """Read a permission's name.

        Raises:
            InvalidFields: naming `field`, with what is wrong.

        """
        if len(text) > _PERMISSION_CHARACTERS or not _PERMISSION.fullmatch(text):
            raise InvalidFields(FieldViolation(field, "must be at most 100 characters, users.read style"))
        return cls(text)

    @property
    def namespace(self) -> str:
        """The first part of its name, which says whose it is."""
        return self.name.partition(".")[0]

    def __str__(self) -> str:
        return self.name


def permissions_of(texts: Iterable[str], *, field: str = "role.permissions") -> frozenset[Permission]:
    """Read the permissions of a role; one that is named twice counts once.

    Raises:
        InvalidFields: naming `field`, if one is bad or there are more than 256.

    """
    permissions = frozenset(Permission.parse(text, field=field) for text in texts)
    if len(permissions) > MOST_PERMISSIONS:
        raise InvalidFields(FieldViolation(field, f"must be at most {MOST_PERMISSIONS}"))
    return permissions


@dataclass(frozen=True, slots=True)
class Description:
    """What a role is for: at most 500 characters, no control characters but line breaks and tabs; may be empty."""

    text: str

    @classmethod
    def parse(cls, text: str, *, field: str = "role.description") -> Self:
        """Read a description.

        Raises:
            InvalidFields: naming `field`, with what is wrong.

        """
        if len(text) > _MOST_CHARACTERS:
            raise InvalidFields(FieldViolation(field, f"must be at most {_MOST_CHARACTERS} characters"))
        if any(unicodedata.category(character) in {"Cc", "Cs"} and character not in "\n\t" for character in text):
            raise InvalidFields(FieldViolation(field, "must not contain control characters"))
        return cls(text)


@dataclass(frozen=True, slots=True)
class NewRole:
    """A role about to be made."""

    name: RoleName
    description: Description
    permissions: frozenset[Permission]


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be different about a role; None leaves it as it is."""

    description: Description | None = None
    permissions: frozenset[Permission] | None = None


@dataclass(frozen=True, slots=True)
class Role:
    """One role, as stored."""

    name: str
    description: str
    permissions: tuple[str, ...]
    """Sorted. Empty for `admin`, which holds every permission there is."""
    built_in: bool
    version: int
    """Counts up with every change; the etag is made from it."""
    create_time: datetime
    update_time: datetime

    @property
    def etag(self) -> str:
        """The resource's etag (AIP-154), a quoted strong validator."""
        return f'"{self.version}"'
