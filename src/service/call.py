"""The call being served: what every room may know of it, without knowing gRPC.

Set once by the request-id interceptor; read by logs, the database (deadline and mutation) and the access rules
(principal).
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from service.errors import CredentialsMissing

if TYPE_CHECKING:
    from uuid import UUID

    from service.access import Principal


@dataclass(frozen=True, slots=True)
class RequestKey:
    """What a repeated request is known by."""

    caller: str
    """The principal's subject; for callers without one, what no two requests but repeats have in common."""
    request_id: UUID
    """The request's own ``request_id``, not the call's."""
    method: str
    fingerprint: bytes
    """Tells one request from another: 32 bytes of a keyed hash."""


class Uncommitted(Protocol):
    """A change that has been made and waits for the answer to be kept with it."""

    async def commit(self, answer: bytes) -> None:
        """Keep the answer and make the change last."""

    async def roll_back(self) -> None:
        """Undo the change."""


@dataclass(slots=True)
class Mutation:
    """What the call changes. A mutation changes the database in one transaction, the last thing it does there."""

    key: RequestKey | None
    """None where the caller gave no ``request_id``."""
    begun: bool = False
    """Whether the transaction has begun, or is committed."""
    transaction: Uncommitted | None = None
    """Set when the change is made; only where there is a key."""


class Answered(Exception):
    """The same request was answered before, with `answer`: nothing is left to be done. Let it pass."""

    def __init__(self, answer: bytes) -> None:
        super().__init__()
        self.answer = answer


@dataclass(slots=True)
class Call:
    """One RPC in progress."""

    request_id: str
    """From the caller's ``x-request-id`` or made here; matches ``[A-Za-z0-9._-]{1,64}``."""
    method: str
    """Full name without the leading slash: ``gatelodge.users.v1.UserService/GetUser``."""
    source: str = ""
    """Where it comes from, as gRPC writes a peer, ``ipv4:127.0.0.1:5000``; ``unix`` on a Unix socket; port 0 where a
    trusted proxy told it."""
    user_agent: str = ""
    """The caller's ``user-agent``: printable, at most 256 characters, proof of nothing."""
    peer_identity: str | None = None
    """The name in the peer's verified certificate; None without mutual TLS."""
    deadline: float | None = None
    """When the work must be done, on the ``time.monotonic`` clock, seconds. None: no deadline (streams)."""
    principal: Principal | None = None
    """Who calls; None until the access interceptor has run, and on public methods without a token."""
    mutation: Mutation | None = None
    """What a call of a mutating method changes; None for the others."""
    facts: dict[str, object] = field(default_factory=dict)
    """What a layer wants on the access-log line. Never anything secret."""

    def remaining(self) -> float | None:
        """Seconds left until the deadline, at least 0; None without a deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


_current: ContextVar[Call | None] = ContextVar("gatelodge_call", default=None)


def current() -> Call | None:
    """Return the call being served by this task, or None outside of one (background tasks, start-up)."""
    return _current.get()


def principal() -> Principal:
    """Return who makes the call being served.

    Raises:
        CredentialsMissing: nobody is logged in, or there is no call.

    """
    call = _current.get()
    if call is None or call.principal is None:
        raise CredentialsMissing
    return call.principal


def enter(call: Call) -> None:
    """Make `call` the current one for the rest of this task."""
    _current.set(call)
