"""Logs: structlog's and the standard library's loggers end in one pipeline that names, cleans and renders each event.

Get a logger with `logger`, or ``logging.getLogger`` in code that should not know this room. Fields are keyword
arguments, the event a fixed text: ``log.info("user created", user_id=…)``.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final, TextIO, cast

import structlog

from service.telemetry.exceptions import describe
from service.telemetry.library_records import Silencer
from service.telemetry.lines import ConsoleLine, json_line
from service.telemetry.pipeline import Pipeline
from service.telemetry.sink import Sink

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from structlog.typing import FilteringBoundLogger

    from service.settings import Log

_RECORD_FIELDS: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "exception": logging.ERROR,
    "critical": logging.CRITICAL,
}
_NAMES: Final = {level: name for name, level in _LEVELS.items() if name != "exception"}


def logger(name: str) -> FilteringBoundLogger:
    """Return the structlog logger `name`. May be called at import; it follows whatever `configure` sets later."""
    return cast("FilteringBoundLogger", structlog.get_logger(name))


class PlainLog:
    """Logs what is logged with every call: fields that are plain, bounded and free of secrets by construction.

    The safety net under other lines, and structlog, cost three quarters of a line's time. Where something else than
    this room takes structlog's events, they go there.
    """

    def __init__(self, name: str) -> None:
        config = structlog.get_config()
        self._logger = logger(name)
        self._channel = config["logger_factory"](name)
        self._processors = config["processors"]

    def log(self, level: int, event: str, fields: dict[str, object]) -> None:
        """Write one event, if its level, one of the standard library's, is logged."""
        if isinstance(self._channel, Channel) and self._processors == [_process]:
            self._channel.take_plain(level, event, fields)
        else:
            self._logger.log(level, event, **fields)


def configure(settings: Log, *, service: str, version: str, stream: TextIO, worker: int | None = None) -> Logs:
    """Send every logger of the process through one pipeline to `stream`, until the answer is closed.

    `worker` says on each line which of several processes speaks.

    Takes over structlog's and logging's global state, as those libraries have no other. A second call replaces the
    first. Colours only where `stream` is a terminal.
    """
    line = json_line if settings.format == "json" else ConsoleLine(colours=_is_terminal(stream))
    always: dict[str, object] = {"service": service, "version": version} if settings.format == "json" else {}
    pipeline = Pipeline(line, always | ({"worker": worker} if worker is not None else {}))
    return Logs(settings, pipeline, Sink(stream, confession=pipeline.confess))


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:  # closed already
        return False


class Channel:
    """What structlog's loggers write to. Levels are the standard library's, so that both kinds obey one setting."""

    def __init__(self, name: str, pipeline: Pipeline, sink: Sink) -> None:
        self._name = name
        self._levels = logging.getLogger(name)
        self._pipeline = pipeline
        self._sink = sink

    def take(self, method: str, fields: MutableMapping[str, object]) -> None:
        """Write one event, if its level is logged."""
        level = _LEVELS.get(method, logging.INFO)
        if self._levels.isEnabledFor(level):
            self._sink.write(self._pipeline.render(method, self._name, fields), urgent=level >= logging.ERROR)

    def take_plain(self, level: int, event: str, fields: dict[str, object]) -> None:
        """Write one event whose fields need no cleaning, if its level is logged. Nobody may change them any more."""
        if self._levels.isEnabledFor(level):
            line = partial(self._pipeline.render_plain, datetime.now(UTC), _NAMES[level], self._name, event, fields)
            self._sink.write(line, urgent=level >= logging.ERROR)


def _process(channel: Channel, method: str, fields: MutableMapping[str, object]) -> str:
    """Be structlog's only processor: all is done by the channel, and nothing is left for structlog to write."""
    channel.take(method, fields)
    raise structlog.DropEvent


class Bridge(logging.Handler):
    """Takes the standard library's records into the pipeline."""

    def __init__(self, pipeline: Pipeline, sink: Sink) -> None:
        super().__init__()
        self._pipeline = pipeline
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record with its ``extra`` fields."""
        fields = {name: value for name, value in vars(record).items() if name not in _RECORD_FIELDS}
        fields |= {"event": _message(record), "exc_info": record.exc_info}
        line = self._pipeline.render(record.levelname.lower(), record.name, fields)
        self._sink.write(line, urgent=record.levelno >= logging.ERROR)


def _message(record: logging.LogRecord) -> str:
    try:
        if not isinstance(record.args, tuple):
            return record.getMessage()
        # An exception among the arguments would print row values, see `describe`.
        args = tuple(describe(arg) if isinstance(arg, BaseException) else arg for arg in record.args)
        return str(record.msg) % args if args else str(record.msg)
    except Exception:  # noqa: BLE001 - a library's arguments that do not fit, or whose __str__ raises
        return f"{type(record.msg).__name__} message whose arguments do not fit"


class Logs:
    """The logging set up by `configure`. Close it last, so that what others say while closing is written."""

    def __init__(self, settings: Log, pipeline: Pipeline, sink: Sink) -> None:
        root = logging.getLogger()
        for old in [handler for handler in root.handlers if isinstance(handler, Bridge)]:
            root.removeHandler(old)
        self._sink = sink
        self._bridge = Bridge(pipeline, sink)
        self._levels = {"": settings.level, **settings.levels}
        self._former = {name: logging.getLogger(name).level for name in self._levels}
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)
        root.addHandler(self._bridge)
        self._silencer = Silencer()
        logging.captureWarnings(capture=True)
        structlog.configure(
            processors=[_process],
            wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
            logger_factory=lambda *args: Channel(args[0] if args else "", pipeline, sink),
            cache_logger_on_first_use=False,
        )

    def flush(self) -> None:
        """Write out what is buffered, waiting a second at most."""
        self._sink.flush()

    def close(self) -> None:
        """Write out what is buffered and give the standard library's loggers back as they were."""
        logging.getLogger().removeHandler(self._bridge)
        self._silencer.close()
        logging.captureWarnings(capture=False)
        for name, level in self._former.items():
            logging.getLogger(name).setLevel(level)
        self._sink.close()
