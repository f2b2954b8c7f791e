"""Checking passwords when there is no room for it."""

from __future__ import annotations

from typing import Any

import pytest

from service.auth.checking import Attempt, PasswordCheck
from service.auth.passwords import Password
from service.errors import Overloaded


class Full:
    """A hasher whose queue is full."""

    def expect_room(self) -> None:
        raise Overloaded("password_hashing", retry_after=1.0)


class Untouched:
    """Fails whoever uses it."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


async def test_an_attempt_that_cannot_be_hashed_is_neither_counted_nor_looked_up() -> None:
    nothing: Any = Untouched()
    hasher: Any = Full()
    check = PasswordCheck(database=nothing, hasher=hasher, throttle=nothing, devices=nothing)
    attempt = Attempt("ada@example.com", Password.parse("correct horse battery"), "127.0.0.1", None)
    with pytest.raises(Overloaded):
        await check(attempt)
