"""The ops pages of all workers as one: asked of each over its Unix socket, and put together."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector
from prometheus_client.registry import Collector

from service.errors import DependencyUnavailable
from service.telemetry.families import dump, merged, retired
from service.telemetry.ops import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client import Metric

    from service.telemetry.families import Dumped
    from service.workers.crew import Crew
    from service.workers.member import Member

_OK = 200
_GONE, _SILENT = 0, 504
"""In place of a status: nobody listens any more; somebody does and says nothing."""
_PATIENCE = 1.0
"""Seconds a worker may take to answer. Its ops threads answer while its event loop is busy."""
_AT_ONCE = 16


class Numbers(Collector):
    """What the parent's ops port shows. Give it the crew with `of` before anybody asks."""

    def __init__(self, wanted: int) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self._own = CollectorRegistry()
        ProcessCollector(registry=self._own)
        self._crashes = Counter("gatelodge_worker_crashes", "Workers that ended unasked.", ["how"], registry=self._own)
        self._workers = Gauge("gatelodge_workers", "Worker processes by state.", ["state"], registry=self._own)
        self._workers.labels("wanted").set(wanted)
        self._crew: Crew | None = None
        self._asking = threading.Lock()
        self._last: dict[Member, list[Dumped]] = {}
        self._gone: list[Dumped] = []
        self._threads = ThreadPoolExecutor(_AT_ONCE, "ops-workers")

    def of(self, crew: Crew) -> None:
        """Show this crew."""
        self._crew = crew

    def crashed(self, how: str) -> None:
        """Count a worker that ended unasked, by exit status or signal."""
        self._crashes.labels(how).inc()

    def ended(self, member: Member) -> None:
        """Keep the last numbers of a worker that is gone: what it said when it had drained, or was last asked."""
        with self._asking:
            last = member.numbers or self._last.pop(member, None)
            self._last.pop(member, None)
            if last is not None:
                self._gone = retired(self._gone, last)

    def collect(self) -> Iterator[Metric]:
        """Give the numbers to Prometheus."""
        with self._asking:
            serving, leaving = self._members()
            self._workers.labels("serving").set(len(serving))
            self._workers.labels("leaving").set(len(leaving))
            self._ask([*serving, *leaving])
            lasting = [("", retired([], self._last[member])) for member in leaving if member in self._last]
            live = [(str(member.number), self._last[member]) for member in serving if member in self._last]
            page = list(merged([*live, *lasting, ("parent", dump(self._own.collect()))], self._gone))
        yield from page

    def alive(self) -> bool:
        """Tell whether the event loop of every worker turns. A crashed one is being replaced and does not count."""
        return all(status in {_OK, _GONE} for status in self._statuses("/healthz"))

    def ready(self) -> bool:
        """Tell whether at least one worker can serve: the kernel gives the others no connections, or they are late."""
        return any(status == _OK for status in self._statuses("/readyz"))

    def jwks(self) -> bytes:
        """Return the public keys, as any worker tells them.

        Raises:
            DependencyUnavailable: none does.

        """
        for member in self._members()[0]:
            status, body = _get(member, "/.well-known/jwks.json")
            if status == _OK:
                return body
        raise DependencyUnavailable("workers")

    def _members(self) -> tuple[tuple[Member, ...], tuple[Member, ...]]:
        if self._crew is None:
            return (), ()
        serving = self._crew.serving()  # first, see `Crew`
        return serving, tuple(member for member in self._crew.leaving() if member not in serving)

    def _statuses(self, path: str) -> Iterator[int]:
        members = self._members()[0]
        return (status for status, _ in self._threads.map(_get, members, [path] * len(members)))

    def _ask(self, members: Sequence[Member]) -> None:
        answers = self._threads.map(_get, members, [FAMILIES] * len(members))
        for member, (status, body) in zip(members, answers, strict=True):
            if status == _OK:
                self._last[member] = json.loads(body)


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("worker", timeout=_PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _get(member: Member, path: str) -> tuple[int, bytes]:
    """Return the status and the body of a worker's page; `_GONE` or `_SILENT` where it does not answer."""
    connection = _Connection(member.ops_socket)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except TimeoutError:
        return _SILENT, b""
    except (OSError, http.client.HTTPException):
        return _GONE, b""
    finally:
        connection.close()
