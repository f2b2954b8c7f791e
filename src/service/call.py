"""The call being served: what every room may know of it, without knowing gRPC.

Set once by the request-id interceptor; read by logs, the database (deadline) and the access rules (principal).
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from service.errors import CredentialsMissing

if TYPE_CHECKING:
    from service.access import Principal


@dataclass(slots=True)
class Call:
    """One RPC in progress."""

    request_id: str
    """From the caller's ``x-request-id`` or made here; matches ``[A-Za-z0-9._-]{1,64}``."""
    method: str
    """Full name without the leading slash: ``gatelodge.users.v1.UserService/GetUser``."""
    source: str = ""
    """The peer's address as gRPC gives it, ``ipv4:127.0.0.1:5000``."""
    deadline: float | None = None
    """When the work must be done, on the ``time.monotonic`` clock, seconds. None: no deadline (streams)."""
    principal: Principal | None = None
    """Who calls; None until the access interceptor has run, and on public methods without a token."""
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
