"""What never gets into a log line, and that logging never fails."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
import psycopg.errors
import pytest
from pydantic import SecretStr
from tests.telemetry.desk import Desk

from service.telemetry.logging import logger

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class _Login:
    email: str
    password: str


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize(
    "fields",
    [
        {"password": "hunter2"},
        {"new_password": "hunter2"},
        {"Authorization": "Bearer hunter2"},
        {"refresh-token": "hunter2"},
        {"nested": {"list": [{"client_secret": "hunter2"}]}},
        {"value": SecretStr("hunter2")},
        {"value": _Login("a@b.c", "hunter2")},
        {"value": b"hunter2"},
        {"value": "authorization: Bearer hunter2"},
        {"value": "postgresql://keeper:hunter2@db/x"},
        {"value": "host=db password=hunter2"},
        {"value": "eyJhbGciOiJFUzI1NiJ9.hunter2.hunter2"},
        {"value": "$argon2id$v=19$m=1,t=1,p=1$hunter2$hunter2"},
        {"error": ValueError("Bearer hunter2")},
    ],
)
def test_secrets_get_into_no_line(fields: dict[str, object], form: str) -> None:
    desk = Desk()
    desk.set_up(format=form)
    logger("x").info("spoken", **fields)
    logging.getLogger("x").info("spoken", extra=fields)
    assert desk.text.count("spoken") == 2
    assert "hunter2" not in desk.text
    desk.close()


def test_fields_that_only_sound_secret_are_kept(desk: Desk) -> None:
    logger("x").info("event", token_type="Bearer", tokens_cached=3, password_x=None)
    (line,) = desk.lines
    assert (line["token_type"], line["tokens_cached"], line["password_x"]) == ("Bearer", 3, None)


NASTY = 'a\r\nb\x00c\x1b[2Jd\u2028e\u202ef\x9bg\x85h\x7fi"k=v\ud800'


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("colours", [False, True])
def test_no_value_name_or_event_can_break_or_forge_a_line(form: str, *, colours: bool) -> None:
    desk = Desk()
    desk.stream.isatty = lambda: colours  # type: ignore[method-assign]
    desk.set_up(format=form)
    logger(NASTY).warning(NASTY, **{NASTY: NASTY, "list": [NASTY], "map": {NASTY: NASTY}})
    desk.bridge("%s", NASTY)
    text = desk.text
    assert text.count("\n") == 2
    assert len(text.splitlines()) == 2
    for mark in "\r\x00\u2028\u202e\x9b\x85\x7f\ud800":
        assert mark not in text
    assert "\x1b[2J" not in text
    assert ("\x1b" in text) is (colours and form == "console")
    desk.close()


def _stubborn() -> Exception:
    class Stubborn(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    return Stubborn()


class _Rude:
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


@pytest.mark.parametrize(
    "speak",
    [
        lambda: logger("x").info("spoken", value=_Rude(), error=_stubborn()),
        lambda: logger("x").info("spoken", exc_info=_stubborn()),
        lambda: logger("x").info("spoken", value=2**80, other=float("nan"), more={1: {2: {3: {4: {5: {6: 7}}}}}}),
    ],
)
def test_logging_never_raises_and_always_says_something(desk: Desk, speak: Callable[[], None]) -> None:
    speak()
    assert desk.lines[0]["event"] == "spoken"


def test_row_values_in_an_exception_among_a_messages_arguments_are_dropped(desk: Desk) -> None:
    error = psycopg.errors.UniqueViolation("duplicate\nDETAIL:  Key (email)=(ada@secret.example) already exists.")
    logging.getLogger("psycopg.pool").warning("discarding connection: %s", error)
    logger("x").warning("spoken", error=error)
    assert "secret.example" not in desk.text
    assert desk.text.count("sqlstate 23505") == 2


@pytest.mark.parametrize(("message", "args"), [("spoken %s %s", ("one",)), ("spoken %s", (_Rude(),)), (_Rude(), ())])
def test_a_librarys_message_that_cannot_be_made_is_a_line_all_the_same(
    desk: Desk, message: object, args: tuple[object, ...]
) -> None:
    desk.bridge(message, *args)
    assert "arguments do not fit" in desk.lines[0]["event"]


@pytest.mark.parametrize("level", ["DEBUG", "INFO"])
def test_header_values_that_grpc_quotes_are_dropped(level: str) -> None:
    desk = Desk()
    desk.set_up(level=level)
    library = logging.getLogger("grpc._cython.cygrpc")
    try:
        b"hunter2\xff".decode()
    except UnicodeDecodeError:
        library.exception("Invalid encoding on %s", b"hunter2\xff")
    library.error("something else")
    spoken = [(line["level"], line["event"]) for line in desk.lines]
    dropped = [("debug", "a peer sent metadata that is not text")] if level == "DEBUG" else []
    assert spoken == [*dropped, ("error", "something else")]
    assert "hunter2" not in desk.text
    desk.close()
    assert not library.filters
