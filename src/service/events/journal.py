"""The journal: where every change writes down what it did, in its own transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote
from uuid import UUID

from service import call
from service.events.statements import INSERT

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.db import Connection
    from service.events.model import Event

_MOST_CHARACTERS = 64


class Journal:
    """Records events. `new_id` makes UUIDv7s."""

    def __init__(self, *, new_id: Callable[[], UUID]) -> None:
        self._new_id = new_id

    async def record(self, conn: Connection, event: Event) -> None:
        """Write `event` in the caller's transaction: both are there or neither."""
        await INSERT.execute(conn, **self.entry(event))

    def entry(self, event: Event) -> dict[str, Any]:
        """Return what is written of `event`, for a statement that writes it together with the change itself.

        Who did it, in which call and from where is taken from the call being served; outside of one, nobody did.
        """
        current = call.current()
        principal = current.principal if current else None
        return {
            "event_id": self._new_id(),
            "type": event.type,
            "subject": event.subject,
            "actor": UUID(principal.subject) if principal else None,
            "request_id": current.request_id if current else "",
            "source": host(current.source) if current else "",
            "payload": event.payload(),
        }


def host(peer: str) -> str:
    """Return the address without port of a peer as gRPC writes it: ``ipv6:%5B::1%5D:5000`` → ``::1``."""
    kind, _, rest = unquote(peer).partition(":")
    return rest.rpartition(":")[0].strip("[]")[:_MOST_CHARACTERS] if kind in {"ipv4", "ipv6"} else kind[:16]
