"""Passwords as values, and what a new one must be (NIST SP 800-63B-4 §3.1.1.2)."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from service.errors import FieldViolation, InvalidFields

if TYPE_CHECKING:
    from collections.abc import Iterable

    from service.auth.blocklist import Blocklist, Weight

PASSWORD_MAX_CHARACTERS = 256
"""Code points. Also what keeps Unicode normalisation cheap: it is quadratic on combining marks."""
LEAST_POINTS = 8
"""What a new password must be worth, in random letters: 38 bits, ages at the 144 guesses a day the throttle takes."""


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
    """What a new password must be: long enough and hard to predict, and nothing about its composition."""

    min_characters: int
    """Code points after NFC normalisation."""
    blocklist: Blocklist

    def parse(self, text: str, *, field: str = "password", about: Iterable[str] = ()) -> Password:
        """Read a new password of someone of whom `about` is known: address and name, as far as the caller gave them.

        Raises:
            InvalidFields: naming `field` and saying what the password must be.

        """
        password = Password.parse(text, field=field)
        if len(password) < self.min_characters:
            raise InvalidFields(FieldViolation(field, f"must be at least {self.min_characters} characters"))
        weight = self.blocklist.weigh(text, about)
        if weight.points < LEAST_POINTS:
            raise InvalidFields(FieldViolation(field, _too_easy(weight)))
        return password


def _too_easy(weight: Weight) -> str:
    """Say what was held against a password, in words that hold for many others."""
    patterns = ", ".join(pattern.value for pattern in weight.patterns) or "what is left out of account"
    return (
        f"is too easy to guess: without {patterns} it is worth fewer than {LEAST_POINTS} characters; "
        "several uncommon words make a good one"
    )
