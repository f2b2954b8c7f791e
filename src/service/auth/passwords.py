"""Passwords as values, and what a new one must be (NIST SP 800-63B-4 §3.1.1.2)."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Self

from service.errors import FieldViolation, InvalidFields

PASSWORD_MAX_CHARACTERS = 256
"""Code points. Also what keeps Unicode normalisation cheap: it is quadratic on combining marks."""


@dataclass(frozen=True, slots=True, repr=False)
class Password:
    """A password as given, NFC-normalised. Prints as stars; `reveal` is for the hasher alone."""

    _text: str

    @classmethod
    def parse(cls, text: str, *, field: str = "password") -> Self:
        """Read a password of at most 256 code points.

        Raises:
            InvalidFields: naming `field`; the password itself is never in the text.

        """
        if len(text) > PASSWORD_MAX_CHARACTERS:
            raise InvalidFields(FieldViolation(field, f"must be at most {PASSWORD_MAX_CHARACTERS} characters"))
        if not text.isprintable() and any(unicodedata.category(character) == "Cs" for character in text):
            raise InvalidFields(FieldViolation(field, "must be Unicode text"))
        return cls(unicodedata.normalize("NFC", text))

    def reveal(self) -> bytes:
        """Return the password's UTF-8 bytes."""
        return self._text.encode()

    def __len__(self) -> int:
        return len(self._text)

    def __repr__(self) -> str:
        return "Password(***)"


@dataclass(frozen=True, slots=True)
class PasswordPolicy:
    """What a new password must be: long enough, and nothing about its composition."""

    min_characters: int
    """Code points after NFC normalisation."""

    def parse(self, text: str, *, field: str = "password") -> Password:
        """Read a new password.

        Raises:
            InvalidFields: naming `field` and saying what the password must be.

        """
        password = Password.parse(text, field=field)
        if len(password) < self.min_characters:
            raise InvalidFields(FieldViolation(field, f"must be at least {self.min_characters} characters"))
        return password
