"""Exceptions as text: the whole chain, bounded, without row values."""

from __future__ import annotations

from typing import TypeVar

import psycopg
import psycopg.errors
import pytest
from pydantic import BaseModel, ValidationError

from service.telemetry.exceptions import describe, render_exception

Failure = TypeVar("Failure", bound=Exception)


def _raised(error: Failure, cause: Exception | None = None) -> Failure:
    with pytest.raises(type(error)) as caught:
        raise error from cause
    return caught.value


def _database_error() -> psycopg.Error:
    """Make one as the server does, with its detail in the text."""
    text = 'duplicate key value violates "users_email"\nDETAIL:  Key (email)=(ada@secret.example) already exists.'
    return psycopg.errors.UniqueViolation(text)


def test_the_chain_is_told_outermost_first_with_each_stack() -> None:
    text = render_exception(_raised(RuntimeError("outer"), _raised(ValueError("middle"), _raised(KeyError("inner")))))
    heads = [line for line in text.split("\n") if not line.startswith(" ")]
    assert heads == ["RuntimeError: outer", "caused by: ValueError: middle", "caused by: KeyError: 'inner'"]
    assert text.count("in _raised") == 3


def test_what_was_being_handled_is_told_too() -> None:
    def second(_: str) -> int:
        raise RuntimeError("second")

    def first() -> int:
        try:
            return int("x")
        except ValueError:
            return second("unguarded")

    with pytest.raises(RuntimeError) as caught:
        first()
    assert "while handling: ValueError: invalid literal" in render_exception(caught.value)


def test_row_values_in_a_database_errors_text_are_dropped_everywhere_in_the_chain() -> None:
    group = ExceptionGroup("several", [_raised(RuntimeError("x"), _raised(_database_error()))])
    for error in (_database_error(), _raised(RuntimeError("x"), _database_error()), _raised(group)):
        text = render_exception(error)
        assert "secret.example" not in text
        assert "psycopg.errors.UniqueViolation: sqlstate 23505" in text


def test_a_failed_connection_keeps_its_text() -> None:
    text = describe(psycopg.OperationalError("connection failed: no route to host\nMultiple attempts"))
    assert text == "psycopg.OperationalError: connection failed: no route to host\\nMultiple attempts"


def test_a_validation_errors_input_is_dropped() -> None:
    class Model(BaseModel):
        port: int

    given = {"port": "hunter2"}  # not on the line that raises, which the stack shows
    with pytest.raises(ValidationError) as caught:
        Model.model_validate(given)
    assert "hunter2" not in render_exception(caught.value)


def test_an_exception_whose_text_cannot_be_made_is_still_told() -> None:
    class Stubborn(Exception):
        def __str__(self) -> str:
            raise RecursionError

    assert "Stubborn: (its message cannot be made)" in render_exception(_raised(Stubborn()))


def test_groups_circles_and_endless_chains_end() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert render_exception(first).count("ValueError") == 2

    error: Exception = ValueError("deepest")
    for _ in range(1000):
        error = _raised(RuntimeError("x" * 5000), error)
    assert len(render_exception(error)) < 17_000

    group: ExceptionGroup[Exception] = ExceptionGroup("g", [ValueError(str(n)) for n in range(50)])
    for _ in range(10):
        group = ExceptionGroup("g", [group, ValueError("beside")])
    text = render_exception(group)
    assert "… deeper" in text
    assert "  | ValueError: beside" in text


def test_a_deep_recursion_is_told_in_a_few_lines() -> None:
    def dig(depth: int) -> int:
        return dig(depth + 1)

    with pytest.raises(RecursionError) as caught:
        dig(0)
    assert len(render_exception(caught.value)) < 4000
