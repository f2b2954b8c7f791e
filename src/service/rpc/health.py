"""The standard health service."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from grpc_health.v1 import health_pb2

from service.errors import Overloaded, ServiceUnknown

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable

    from service.rpc.interceptors.layer import Context

READINESS = "readiness"
"""Whether this process can serve now: the name for a readiness probe."""
LIVENESS = "liveness"
"""Whether this process should go on living: always SERVING while it can answer at all."""
REVOCATIONS = "revocations"
"""Whether this process knows what was revoked a moment ago. While not, it serves on and asks the database each time."""

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthBoard:
    """What is serving. NOT_SERVING until told otherwise, but for `LIVENESS`.

    Args:
        services: full names of the services offered; ``""``, `READINESS` and `LIVENESS` are added.
        apart: names with a state of their own, which `set_ready` does not set.
        max_watchers: how many may watch at once.
        max_watchers_each: how many of them one connection may have, so that none keeps the others out.
        on_change: is told every name with whether it serves, at first and after each change.

    """

    def __init__(
        self,
        services: Iterable[str],
        *,
        apart: Iterable[str] = (),
        max_watchers: int = 1000,
        max_watchers_each: int = 16,
        on_change: Callable[[str, bool], None] = lambda _name, _serving: None,
    ) -> None:
        self._statuses: dict[str, int] = dict.fromkeys(("", READINESS, *services), NOT_SERVING) | {LIVENESS: SERVING}
        self._together = tuple(self._statuses.keys() - {LIVENESS})
        self._statuses |= dict.fromkeys(apart, NOT_SERVING)
        self._watchers: set[asyncio.Event] = set()
        self._by_peer = Counter[str]()
        self._max_watchers = max_watchers
        self._max_watchers_each = max_watchers_each
        self._draining = False
        self._on_change = on_change
        for name, status in self._statuses.items():
            on_change(name, status == SERVING)

    def set(self, name: str, status: int) -> None:
        """Set one status and tell its watchers at once. Nothing changes any more once the board drains."""
        if not self._draining:
            self._statuses[name] = status
            self._on_change(name, status == SERVING)
            self._tell()

    def set_ready(self, ready: bool) -> None:  # noqa: FBT001 - the one thing it says
        """Set everything but `LIVENESS` and the names apart."""
        for name in self._together:
            self.set(name, SERVING if ready else NOT_SERVING)

    def drain(self) -> None:
        """Set everything but `LIVENESS` to NOT_SERVING, for good."""
        for name in self._statuses.keys() - {LIVENESS}:
            self.set(name, NOT_SERVING)
        self._draining = True

    def ready(self) -> bool:
        """Tell whether the process can serve now. Safe from any thread."""
        return bool(self._statuses[READINESS] == SERVING)

    async def until_ready(self) -> None:
        """Wait until the process can serve."""
        async with aclosing(self.watch(READINESS)) as statuses:
            async for status in statuses:
                if status == SERVING:
                    return

    def statuses(self) -> dict[str, int]:
        """Return every name with its status."""
        return dict(self._statuses)

    async def watch(self, name: str, peer: str = "") -> AsyncGenerator[int, None]:
        """Yield the status of `name` now and after each change; a slow reader skips what has passed meanwhile.

        `peer` is the connection that watches, empty for the process itself.

        Raises:
            Overloaded: there are too many watchers, or too many of this peer's.

        """
        if len(self._watchers) >= self._max_watchers or (peer and self._by_peer[peer] >= self._max_watchers_each):
            raise Overloaded("health_watchers")
        changed, last = asyncio.Event(), None
        self._watchers.add(changed)
        self._by_peer[peer] += 1
        try:
            while True:
                changed.clear()
                status = self._statuses.get(name, SERVICE_UNKNOWN)
                if status != last:
                    last = status
                    yield status
                await changed.wait()
        finally:
            self._watchers.discard(changed)
            self._by_peer[peer] -= 1
            if not self._by_peer[peer]:
                del self._by_peer[peer]

    def _tell(self) -> None:
        for changed in self._watchers:
            changed.set()


class HealthServicer:
    """`grpc.health.v1.Health` on a board.

    The library's own for asyncio has no `List`, answers unknown names without `ErrorInfo`, and holds a lock while it
    writes to a watcher, so that one slow watcher holds up every change.
    """

    def __init__(self, board: HealthBoard) -> None:
        self._board = board

    async def Check(self, request: Any, context: Context) -> Any:  # noqa: N802 - named by the proto
        """Return the status of one name."""
        del context
        status = self._board.statuses().get(request.service)
        if status is None:
            raise ServiceUnknown
        return health_pb2.HealthCheckResponse(status=status)

    async def List(self, request: Any, context: Context) -> Any:  # noqa: N802
        """Return all statuses."""
        del request, context
        statuses = self._board.statuses().items()
        return health_pb2.HealthListResponse(
            statuses={name: health_pb2.HealthCheckResponse(status=status) for name, status in statuses}
        )

    async def Watch(self, request: Any, context: Context) -> AsyncIterator[Any]:  # noqa: N802
        """Stream the status of one name, SERVICE_UNKNOWN while there is no such name."""
        # Closed here and now, or a watcher that is gone would keep its place until the garbage collector comes.
        async with aclosing(self._board.watch(request.service, _connection(context))) as statuses:
            async for status in statuses:
                yield health_pb2.HealthCheckResponse(status=status)


def _connection(context: Context) -> str:
    """Return what tells one connection from another. Over a Unix socket nothing does."""
    peer: str = context.peer()
    return "" if peer.startswith("unix") else peer
