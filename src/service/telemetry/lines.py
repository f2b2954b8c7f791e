"""One log event as one line: JSON for machines, coloured text for people. No value can break or forge a line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

import orjson

if TYPE_CHECKING:
    from datetime import datetime

_DIM, _BOLD, _RESET = "\x1b[2m", "\x1b[1m", "\x1b[0m"
_COLOURS = {"debug": "\x1b[36m", "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[41m"}

# JSON escapes what is below space. These too act on terminals or end lines for some readers: DEL and C1, Unicode's line
# ends, and the marks that turn text around.
_UNSAFE = re.compile("[\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")

_PLAIN = re.compile(r"[^\s\"=]+")


class Line(Protocol):
    """Makes a line of an event whose values are plain already."""

    def __call__(self, at: datetime, level: str, logger: str, event: str, fields: dict[str, object]) -> bytes:
        """Return the line with its end."""


def json_line(at: datetime, level: str, logger: str, event: str, fields: dict[str, object]) -> bytes:
    """Return a JSON object; ``timestamp`` is RFC 3339 in UTC."""
    head = {"timestamp": at, "level": level, "logger": logger, "event": event}
    line = orjson.dumps(head | fields, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)
    if line.isascii() and b"\x7f" not in line:
        return line
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", line.decode()).encode()


class ConsoleLine:
    """Lines for a person; `colours` only where a terminal shows them."""

    def __init__(self, *, colours: bool) -> None:
        self._colours = colours

    def __call__(self, at: datetime, level: str, logger: str, event: str, fields: dict[str, object]) -> bytes:
        """Return the line; an exception's lines follow it, each indented."""
        exception = fields.pop("exception", None)
        parts = [
            self._painted(_DIM, f"{at.astimezone():%H:%M:%S.%f}"[:-3]),
            self._painted(_COLOURS.get(level, ""), f"{level:<8}"),
            self._painted(_BOLD, visible(event)),
            *(f"{self._painted(_DIM, visible(name) + '=')}{_value(value)}" for name, value in fields.items()),
            self._painted(_DIM, visible(logger)),
        ]
        trace = [f"    {visible(line)}" for line in str(exception).split("\n")] if exception else []
        return ("\n".join([" ".join(parts), *trace]) + "\n").encode()

    def _painted(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_RESET}" if self._colours and colour else text


def _value(value: object) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return visible(value)
    return visible(orjson.dumps(value).decode())


def visible(text: str) -> str:
    """Return `text` with every character that is not printable (line ends, ESC, marks of direction) spelled out."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
