"""The events: what each type tells. None may hold a secret, an address or a name: the record outlives the user.

A new type is a class here and, under the same name, a message and an entry of `payload` in the proto; a test compares.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to `subject`. Fields that a subclass adds are its payload: JSON's types only."""

    type: ClassVar[str]

    subject: UUID | None
    """The user it is about."""

    def payload(self) -> dict[str, Any]:
        """Return what is stored beside the subject."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "subject"}


@dataclass(frozen=True, slots=True)
class UserRegistered(Event):
    """Someone made an account for themselves."""

    type = "user.registered"


@dataclass(frozen=True, slots=True)
class UserRegistrationRepeated(Event):
    """Someone tried to register an address that has an account; they were not told."""

    type = "user.registration_repeated"


@dataclass(frozen=True, slots=True)
class UserCreated(Event):
    """An account was made for someone else."""

    type = "user.created"

    roles: tuple[str, ...]
    has_password: bool


@dataclass(frozen=True, slots=True)
class UserUpdated(Event):
    """Fields were changed: their names, never their values."""

    type = "user.updated"

    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UserDisabled(Event):
    """The account may no longer log in. Why stands with the account, and goes with it: it is somebody's own words."""

    type = "user.disabled"


@dataclass(frozen=True, slots=True)
class UserEnabled(Event):
    """The account may log in again."""

    type = "user.enabled"


@dataclass(frozen=True, slots=True)
class UserDeleted(Event):
    """The account was deleted, and can be undeleted."""

    type = "user.deleted"


@dataclass(frozen=True, slots=True)
class UserUndeleted(Event):
    """A deletion was undone."""

    type = "user.undeleted"


@dataclass(frozen=True, slots=True)
class UserErased(Event):
    """The account and everything personal about it are gone for good."""

    type = "user.erased"


@dataclass(frozen=True, slots=True)
class UserPasswordSet(Event):
    """A password was set or changed."""

    type = "user.password_set"

    must_change: bool


@dataclass(frozen=True, slots=True)
class SessionStarted(Event):
    """Someone logged in."""

    type = "session.started"

    session_id: str


@dataclass(frozen=True, slots=True)
class SessionRevoked(Event):
    """A session was ended before its time."""

    type = "session.revoked"

    session_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class UserTokensRevoked(Event):
    """All access tokens of the user issued until now are dead."""

    type = "user.tokens_revoked"

    version: int
    reason: str


@dataclass(frozen=True, slots=True)
class RoleGranted(Event):
    """The user was given a role."""

    type = "role.granted"

    role: str


@dataclass(frozen=True, slots=True)
class RoleRevoked(Event):
    """A role was taken from the user."""

    type = "role.revoked"

    role: str


@dataclass(frozen=True, slots=True)
class RoleCreated(Event):
    """A role was made."""

    type = "role.created"

    role: str
    permissions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RoleUpdated(Event):
    """A role was changed."""

    type = "role.updated"

    role: str
    permissions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RoleDeleted(Event):
    """A role was removed."""

    type = "role.deleted"

    role: str


@dataclass(frozen=True, slots=True)
class KeyStaged(Event):
    """A signing key was published."""

    type = "key.staged"

    key_id: str
    algorithm: str


@dataclass(frozen=True, slots=True)
class KeyActivated(Event):
    """A signing key signs from now on."""

    type = "key.activated"

    key_id: str
    algorithm: str


@dataclass(frozen=True, slots=True)
class KeyRetired(Event):
    """A signing key signs no more, or was removed."""

    type = "key.retired"

    key_id: str
    algorithm: str
    removed: bool


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event as it was recorded. Types that this release does not know stay readable."""

    id: UUID
    type: str
    subject: UUID | None
    actor: UUID | None
    """Who did it; None: nobody was logged in, or the service itself."""
    request_id: str
    source: str
    payload: dict[str, Any]
    create_time: datetime
    position: int = 0
    """Its place in the order of commits; 0 where nobody asked."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events someone wants; None and empty want all."""

    subject: UUID | None = None
    actor: UUID | None = None
    types: frozenset[str] = frozenset()

    def wants(self, event: Recorded) -> bool:
        """Tell whether the event is one of them."""
        return (
            (self.subject is None or event.subject == self.subject)
            and (self.actor is None or event.actor == self.actor)
            and (not self.types or event.type in self.types)
        )
