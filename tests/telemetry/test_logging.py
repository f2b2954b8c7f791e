"""The shape of log lines: who, when, in which call, at which level."""

from __future__ import annotations

import asyncio
import logging
import time
import warnings
from datetime import UTC, datetime

from opentelemetry.sdk.trace import TracerProvider
from tests.telemetry.desk import Desk

from service import call
from service.telemetry.logging import PlainLog, logger


def test_a_line_says_when_who_and_what(desk: Desk) -> None:
    logger("gatelodge.access").info("call", code="OK", duration_ms=1.5)
    (line,) = desk.lines
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "gatelodge.access",
        "event": "call",
        "service": "gatelodge",
        "version": "1.2.3",
        "code": "OK",
        "duration_ms": 1.5,
    }


def test_a_plain_line_is_the_line_that_the_same_event_gives_otherwise(desk: Desk) -> None:
    logger("gatelodge.access").warning("call", code="OK", duration_ms=1.5)
    PlainLog("gatelodge.access").log(logging.WARNING, "call", {"code": "OK", "duration_ms": 1.5})
    usual, plain = desk.lines
    assert plain.pop("timestamp") >= usual.pop("timestamp")
    assert plain == usual


def test_a_plain_line_that_cannot_be_made_says_so_and_stops_nothing(desk: Desk) -> None:
    log = PlainLog("gatelodge.access")
    log.log(logging.INFO, "call", {"bad": object()})
    log.log(logging.INFO, "call", {"code": "OK"})
    bad, good = desk.lines
    assert (bad["level"], bad["event"], bad["reason"]) == ("error", "a log line could not be made", "TypeError")
    assert good["code"] == "OK"


def test_a_plain_line_has_the_time_of_its_event(desk: Desk) -> None:
    before = datetime.now(UTC)
    PlainLog("gatelodge.access").log(logging.INFO, "call", {})
    after = datetime.now(UTC)
    time.sleep(0.01)
    (line,) = desk.lines
    assert before <= datetime.fromisoformat(line["timestamp"]) <= after


def test_a_plain_line_obeys_the_level_of_its_logger(desk: Desk) -> None:
    PlainLog("gatelodge.access").log(logging.DEBUG, "call", {})
    assert desk.text == ""


def test_the_standard_librarys_loggers_end_in_the_same_lines(desk: Desk) -> None:
    logging.getLogger("psycopg.pool").warning("lost %d of %s", 2, "ten", extra={"pool": "main"})
    (line,) = desk.lines
    assert (line["level"], line["logger"], line["event"], line["pool"]) == (
        "warning",
        "psycopg.pool",
        "lost 2 of ten",
        "main",
    )


def test_a_line_carries_the_calls_id_and_the_spans(desk: Desk) -> None:
    async def serve() -> None:
        call.enter(call.Call("req-1", "a.B/C"))
        with TracerProvider(shutdown_on_exit=False).get_tracer("t").start_as_current_span("s"):
            logger("x").info("inside")

    asyncio.run(serve())
    (line,) = desk.lines
    assert line["request_id"] == "req-1"
    assert len(line["trace_id"]) == 32
    assert len(line["span_id"]) == 16


def test_levels_hold_for_both_kinds_of_logger_and_by_name() -> None:
    desk = Desk()
    desk.set_up(level="WARNING", levels={"loud": "DEBUG", "loud.quiet": "ERROR"})
    for name in ("other", "loud", "loud.quiet.child"):
        logger(name).info("structlog")
        logging.getLogger(name).info("stdlib")
    assert [(line["logger"], line["event"]) for line in desk.lines] == [("loud", "structlog"), ("loud", "stdlib")]
    desk.close()
    assert logging.getLogger("loud").level == logging.NOTSET


def test_setting_up_anew_moves_loggers_that_exist_already(desk: Desk) -> None:
    early = logger("early")
    early.info("one")
    other = Desk()
    other.set_up()
    early.info("two")
    logging.getLogger("early").info("three")
    assert [line["event"] for line in desk.lines] == ["one"]
    assert [line["event"] for line in other.lines] == ["two", "three"]
    other.close()


def test_an_exceptions_stack_is_logged_without_local_variables(desk: Desk) -> None:
    def fail() -> None:
        hidden = "local" + "-" + "value"
        raise ValueError("bad" + hidden[:0])

    try:
        fail()
    except ValueError:
        logger("x").exception("failed")
        logging.getLogger("x").exception("failed too")
    for line in desk.lines:
        assert line["level"] == "error"
        assert line["exception"].startswith("ValueError: bad\n  File ")
        assert "in fail" in line["exception"]
        assert "local-value" not in line["exception"]


def test_warnings_of_python_are_lines_too(desk: Desk) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn("old\nway", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(capture=False)
    assert desk.lines[0]["logger"] == "py.warnings"
