"""The values of the users feature: none of them can hold a bad value."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Self
from uuid import UUID

from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email

from service.errors import FieldViolation, InvalidFields, UserNotFound

if TYPE_CHECKING:
    from datetime import datetime

EMAIL_MAX_CHARACTERS = 254
"""RFC 5321 §4.5.3.1, as counted by RFC 3696 erratum 1690. Also what keeps Unicode normalisation cheap."""
DISPLAY_NAME_MAX_CHARACTERS = 200

# The library refuses names that the public internet cannot deliver to; a company's own mail servers can.
SPECIAL_USE_DOMAIN_NAMES[:] = [name for name in SPECIAL_USE_DOMAIN_NAMES if name not in {"local", "test"}]


class UserState(StrEnum):
    """What an account may do."""

    ACTIVE = "active"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class Email:
    """An email address: as it was typed, and in the canonical form that makes it unique."""

    typed: str
    canonical: str
    """NFC; the local part case-folded; the domain as lower-case IDNA 2008 A-labels (``docs/decisions`` says why)."""

    @classmethod
    def parse(cls, text: str, *, field: str = "email") -> Self:
        """Read an address of at most 254 characters. No network look-up; internal domains are welcome.

        Raises:
            InvalidFields: naming `field`, with what is wrong.

        """
        if len(text) > EMAIL_MAX_CHARACTERS:
            raise InvalidFields(FieldViolation(field, f"must be at most {EMAIL_MAX_CHARACTERS} characters"))
        try:
            parts = validate_email(text, strict=True, check_deliverability=False, globally_deliverable=False)
        except EmailNotValidError as error:
            raise InvalidFields(FieldViolation(field, str(error))) from error
        local = unicodedata.normalize("NFC", parts.local_part.casefold())
        return cls(typed=text, canonical=f"{local}@{parts.ascii_domain.lower()}")


_INVISIBLE = frozenset({"Cc", "Cs", "Zl", "Zp"})
_DECEIVING = frozenset("\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
"""Zero-width and bidirectional controls, with which a name can look like another. Joiners, which scripts need, stay."""


@dataclass(frozen=True, slots=True)
class DisplayName:
    """What people call a user: at most 200 characters, NFC, nothing invisible, no blanks around; may be empty."""

    text: str

    @classmethod
    def parse(cls, text: str, *, field: str = "display_name") -> Self:
        """Read a display name.

        Raises:
            InvalidFields: naming `field`, with what is wrong.

        """
        if len(text) > DISPLAY_NAME_MAX_CHARACTERS:
            raise InvalidFields(FieldViolation(field, f"must be at most {DISPLAY_NAME_MAX_CHARACTERS} characters"))
        if any(unicodedata.category(character) in _INVISIBLE or character in _DECEIVING for character in text):
            raise InvalidFields(FieldViolation(field, "must not contain control or invisible characters"))
        return cls(unicodedata.normalize("NFC", text).strip()[:DISPLAY_NAME_MAX_CHARACTERS])


@dataclass(frozen=True, slots=True)
class UserId:
    """A user's id, a UUID."""

    value: UUID

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an id. What is no id names no user.

        Raises:
            UserNotFound: the text is not a UUID.

        """
        try:
            return cls(UUID(text))
        except ValueError as error:
            raise UserNotFound from error

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True, slots=True)
class NewUser:
    """An account about to be made."""

    email: Email
    display_name: DisplayName
    roles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class User:
    """One account, as stored."""

    id: UserId
    email: str
    email_canonical: str
    display_name: str
    state: UserState
    disable_reason: str
    """Why an operator disabled the account. For operators only."""
    roles: tuple[str, ...]
    email_verified: bool
    version: int
    """Counts up with every change; the etag is made from it."""
    create_time: datetime
    update_time: datetime
    delete_time: datetime | None
    purge_time: datetime | None
    """When a deleted account is removed for good."""

    @property
    def etag(self) -> str:
        """The resource's etag (AIP-154), a quoted strong validator."""
        return f'"{self.version}"'

    @property
    def may_log_in(self) -> bool:
        """Whether the account is active and not deleted."""
        return self.state is UserState.ACTIVE and self.delete_time is None
