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


class Filling:
    """A hasher whose queue fills up while the attempt is counted."""

    def expect_room(self) -> None:
        pass

    async def verify(self, *_: object) -> None:
        raise Overloaded("password_hashing", retry_after=1.0)


class Counting:
    """A throttle, and a database without accounts."""

    def __init__(self) -> None:
        self.counted = 0

    async def reserve(self, *_: object) -> int:
        self.counted += 1
        return 1

    async def release(self, reservation: int) -> None:
        self.counted -= reservation

    async def optional(self, *_: object, **__: object) -> None:
        pass


def attempt() -> Attempt:
    return Attempt("ada@example.com", Password.parse("correct horse battery"), "127.0.0.1", None)


async def test_an_attempt_that_there_was_room_for_when_it_was_counted_only_is_given_back() -> None:
    hasher: Any = Filling()
    counting: Any = Counting()
    check = PasswordCheck(database=counting, hasher=hasher, throttle=counting, devices=counting)
    with pytest.raises(Overloaded):
        await check(attempt())
    assert counting.counted == 0


async def test_an_attempt_that_cannot_be_hashed_is_neither_counted_nor_looked_up() -> None:
    nothing: Any = Untouched()
    hasher: Any = Full()
    check = PasswordCheck(database=nothing, hasher=hasher, throttle=nothing, devices=nothing)
    with pytest.raises(Overloaded):
        await check(attempt())
