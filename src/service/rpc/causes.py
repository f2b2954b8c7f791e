"""An unexpected exception as text for the log: its whole chain, without what must not be there.

Frames are shown with their source lines and never with local variables. Messages are kept, on one line and cut, with
the call's own secrets taken out, but for database errors: PostgreSQL repeats the offending values in them (``DETAIL:
Key (email)=(…)``, ``invalid input syntax for type uuid: "…"``), so those show their SQLSTATE and constraint instead.
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

from service.rpc.secrets import hide

if TYPE_CHECKING:
    from collections.abc import Iterator

_MESSAGE_CHARACTERS = 300
_FRAMES = 30
_DEPTH = 10
_DATABASE = ("psycopg", "psycopg_pool")


def type_name(error: BaseException) -> str:
    """Return the exception's class with its module: ``builtins`` left out."""
    cls = type(error)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def whole_chain(error: BaseException, secrets: frozenset[str] = frozenset()) -> str:
    """Return `error`, what it was raised from and what groups hold, innermost cause last, without `secrets`."""
    return "\n".join(_lines(error, "", _DEPTH, secrets))


def _lines(error: BaseException, relation: str, depth: int, secrets: frozenset[str]) -> Iterator[str]:
    yield f"{relation}{type_name(error)}: {_message(error, secrets)}"
    yield from _frames(error)
    if depth == 0:
        return
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions[:_DEPTH]:
            yield from _lines(member, "with: ", depth - 1, secrets)
    if error.__cause__ is not None:
        yield from _lines(error.__cause__, "caused by: ", depth - 1, secrets)
    elif error.__context__ is not None and not error.__suppress_context__:
        yield from _lines(error.__context__, "while handling: ", depth - 1, secrets)


def _frames(error: BaseException) -> Iterator[str]:
    for frame in traceback.extract_tb(error.__traceback__, limit=-_FRAMES):
        yield f"  {frame.filename}:{frame.lineno} in {frame.name}: {frame.line}"


def _message(error: BaseException, secrets: frozenset[str]) -> str:
    if type(error).__module__.partition(".")[0] in _DATABASE:
        constraint = getattr(getattr(error, "diag", None), "constraint_name", None)
        return f"SQLSTATE {getattr(error, 'sqlstate', None)}" + (f", constraint {constraint}" if constraint else "")
    try:
        text = error.message if isinstance(error, BaseExceptionGroup) else str(error)
    except Exception:  # noqa: BLE001 - any class may have a broken __str__
        return "<its text failed>"
    # Escaped, so that a cause is one line whatever it quotes.
    return hide(text, secrets)[:_MESSAGE_CHARACTERS].encode("unicode_escape").decode("ascii")
