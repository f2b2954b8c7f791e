"""Exceptions as text for logs: the whole chain with its stacks, and no local variables, row values or secrets."""

from __future__ import annotations

import re
import traceback
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REDACTED: Final = "[redacted]"

_MESSAGE = 1000
_FRAMES = 30
_CHAIN = 10
_GROUP = 10
_GROUP_DEPTH = 4

_MARKS = ("eyJ", "://", "earer ", "$argon2", "assword")
"""What every pattern below contains: looked for first, because most texts have none of it."""

_SECRETS = re.compile(
    r"""
    eyJ[\w-]{4,}\.[\w-]+(?:\.[\w-]*)*          # a JSON web token
    | (?P<bearer>\b[Bb]earer\s+)\S+
    | (?P<url>://[^\s/:@]*:)[^\s/@]+(?=@)      # a password in a URL
    | \$argon2\w+\$[^\s'"]+
    | (?P<setting>\b[Pp]assword\s*=\s*)\S+     # a password in a connection string
    """,
    re.VERBOSE,
)


def scrub(text: str) -> str:
    """Return `text` without the secrets that can be told by their form."""
    if not any(mark in text for mark in _MARKS):
        return text
    return _SECRETS.sub(lambda m: "".join(part or "" for part in m.groups()) + REDACTED, text)


def render_exception(
    error: BaseException, *, limit: int = 16_000, clean: Callable[[str], str] = lambda text: text
) -> str:
    """Return the chain of `error`, outermost first, with stacks, cut at about `limit` characters. Never raises.

    `clean` takes out of each message what only the caller knows to be secret.
    """
    parts: list[str] = []
    size = 0
    for part in _chain(error, "", 0, set(), clean):
        parts.append(part[: max(0, limit - size)])
        size += len(part)
        if size > limit:
            parts.append("… cut")
            break
    return "\n".join(parts)


def type_name(error: BaseException) -> str:
    """Return the exception's class with its module; ``builtins`` is left out."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def describe(error: BaseException, clean: Callable[[str], str] = lambda text: text) -> str:
    """Return type and message of `error` on one line; `clean` as in `render_exception`. Never raises."""
    name = type_name(error)
    try:
        message = clean(_message(error))
    except Exception:  # noqa: BLE001 - whatever an exception's own code does, it must be loggable
        message = "(its message cannot be made)"
    line = scrub(message[:_MESSAGE]).replace("\r", "\\r").replace("\n", "\\n")
    return f"{name}: {line}" if line else name


def _message(error: BaseException) -> str:
    # Known by their names: this room may import neither the database nor what others validate with.
    families = {f"{base.__module__.partition('.')[0]}.{base.__qualname__}" for base in type(error).__mro__}
    if "psycopg.Error" in families:
        return _database_message(error, connecting="psycopg.OperationalError" in families)
    if "pydantic_core.ValidationError" in families:
        return "invalid"  # its text repeats the input
    return str(error)


def _database_message(error: BaseException, *, connecting: bool) -> str:
    """Keep names alone: PostgreSQL's texts hold row values (``Key (email)=(…) exists``, failing rows, parameters)."""
    sqlstate = getattr(error, "sqlstate", None)
    if sqlstate is None:
        # Without a state it comes from the client's side. Of those only failures to connect are free of values.
        return str(error) if connecting else "from the client library"
    diagnosis = getattr(error, "diag", None)
    names = ("constraint_name", "table_name", "column_name")
    found = [f"{name} {value}" for name in names if (value := getattr(diagnosis, name, None))]
    return ", ".join([f"sqlstate {sqlstate}", *found])


def _chain(error: BaseException, indent: str, depth: int, seen: set[int], clean: Callable[[str], str]) -> Iterator[str]:
    current: BaseException | None = error
    lead = ""
    while current is not None and id(current) not in seen:
        if len(seen) >= _CHAIN * _GROUP:
            yield f"{indent}… more"
            return
        seen.add(id(current))
        yield f"{indent}{lead}{describe(current, clean)}"
        yield from _stack(current, indent)
        if isinstance(current, BaseExceptionGroup):
            yield from _group(current, indent, depth, seen, clean)
        lead, current = _next(current)


def _next(error: BaseException) -> tuple[str, BaseException | None]:
    if error.__cause__ is not None:
        return "caused by: ", error.__cause__
    return "while handling: ", None if error.__suppress_context__ else error.__context__


def _group(
    group: BaseExceptionGroup[BaseException], indent: str, depth: int, seen: set[int], clean: Callable[[str], str]
) -> Iterator[str]:
    if depth >= _GROUP_DEPTH:
        yield f"{indent}  … deeper"
        return
    for member in group.exceptions[:_GROUP]:
        yield from _chain(member, f"{indent}  | ", depth + 1, seen, clean)
    if len(group.exceptions) > _GROUP:
        yield f"{indent}  … {len(group.exceptions) - _GROUP} more"


def _stack(error: BaseException, indent: str) -> Iterator[str]:
    frames = traceback.StackSummary.extract(traceback.walk_tb(error.__traceback__), limit=-_FRAMES)
    for entry in frames.format():
        for line in entry.rstrip().split("\n"):
            yield indent + line
