"""A password is a value that never prints, and a new one must be long enough."""

import time

import pytest

from service.auth.blocklist import Blocklist
from service.auth.passwords import Password, PasswordPolicy
from service.errors import InvalidFields

POLICY = PasswordPolicy(15, Blocklist.load(names=("gatelodge",)))


def test_a_password_never_prints() -> None:
    password = Password.parse("hunter2-hunter2-hunter2")
    assert "hunter2" not in f"{password} {password!r} {[password]}"


def test_a_password_is_normalised_so_that_every_keyboard_types_the_same_one() -> None:
    assert Password.parse("Cafe\u0301").reveal() == Password.parse("Café").reveal()


def test_length_is_counted_in_code_points() -> None:
    assert len(POLICY.parse("снег идёт в июле")) == 16
    with pytest.raises(InvalidFields) as caught:
        POLICY.parse("\N{PILE OF POO}" * 14)
    assert caught.value.violations[0].description == "must be at least 15 characters"


def test_composition_does_not_matter() -> None:
    for password in (
        "quietlanternundermarble",
        "QUIET LANTERN MARBLE",
        "тихий фонарь под дождём",
        "🐸🎺🌋🧊🪁🥨🚲🧭🎠🦉🪐🧵🥁🛶🍋",
    ):
        POLICY.parse(password)


def test_an_endless_password_is_refused_before_it_is_normalised() -> None:
    start = time.thread_time()
    with pytest.raises(InvalidFields):
        Password.parse("\u0301" * 200_000)
    assert time.thread_time() - start < 0.01


def test_a_refusal_never_repeats_the_password() -> None:
    with pytest.raises(InvalidFields) as caught:
        POLICY.parse("hunter2")
    assert "hunter2" not in str(caught.value) + str(caught.value.violations)
