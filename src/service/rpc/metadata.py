"""What a call's headers say, read once: gRPC makes them anew each time it is asked, for some microseconds."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from service.rpc.context import Context


class Headers:
    """The headers of one call by their names, which are in lower case."""

    __slots__ = ("_by_name", "_pairs")

    def __init__(self, pairs: tuple[tuple[str, str | bytes], ...]) -> None:
        self._pairs = pairs
        self._by_name = dict(pairs)

    def values(self, name: str) -> list[str | bytes]:
        """Return the values of a header in the order in which they came."""
        found = self._by_name.get(name)
        if found is None:
            return []
        if len(self._by_name) == len(self._pairs):  # nothing came twice
            return [found]
        return [value for key, value in self._pairs if key == name]

    def texts(self, name: str) -> list[str]:
        """Return the values of a header that are text, in the order in which they came."""
        return [value for value in self.values(name) if isinstance(value, str)]

    def text(self, name: str) -> str | None:
        """Return the first value of a header; None if there is none that is text."""
        if len(self._by_name) == len(self._pairs):
            found = self._by_name.get(name)
            return found if isinstance(found, str) else None
        return next(iter(self.texts(name)), None)


_read: ContextVar[tuple[Any, Headers]] = ContextVar("gatelodge_headers")


def headers_of(context: Context) -> Headers:
    """Return the headers of the call."""
    known = _read.get(None)
    if known is not None and known[0] is context:
        return known[1]
    pairs: Any = context.invocation_metadata() or ()
    headers = Headers(pairs)
    _read.set((context, headers))
    return headers
