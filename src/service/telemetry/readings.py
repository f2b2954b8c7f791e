"""Numbers that somebody else keeps, read when Prometheus asks: the database pool's and the hashers'."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from service.telemetry.logging import logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client import Metric

_log = logger("gatelodge.metrics")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class HashQueue:
    """The password hashers at one moment."""

    active: int
    """Hashes being computed."""
    queued: int
    """Hashes waiting for a thread."""
    limit: int
    """How many may wait."""
    refused: int
    """Requests refused since the start because too many waited."""


class PoolStats(Protocol):
    """A connection pool at one moment: what `service.db` tells of its own. Counters begin at the start."""

    @property
    def size(self) -> int: ...  # noqa: D102 - as `service.db.pool.PoolStats` says of each
    @property
    def available(self) -> int: ...  # noqa: D102
    @property
    def waiting(self) -> int: ...  # noqa: D102
    @property
    def min_size(self) -> int: ...  # noqa: D102
    @property
    def max_size(self) -> int: ...  # noqa: D102
    @property
    def requests(self) -> int: ...  # noqa: D102
    @property
    def queued(self) -> int: ...  # noqa: D102
    @property
    def errors(self) -> int: ...  # noqa: D102
    @property
    def wait_seconds(self) -> float: ...  # noqa: D102
    @property
    def connections(self) -> int: ...  # noqa: D102
    @property
    def connection_errors(self) -> int: ...  # noqa: D102
    @property
    def lost(self) -> int: ...  # noqa: D102
    @property
    def up(self) -> bool: ...  # noqa: D102


_POOL_GAUGES: tuple[tuple[str, Callable[[PoolStats], float], str], ...] = (
    ("db_client_connection_max", lambda of: of.max_size, "Most connections the pool may open."),
    ("db_client_connection_idle_min", lambda of: of.min_size, "Connections the pool keeps open."),
    ("db_client_connection_pending_requests", lambda of: of.waiting, "Callers waiting for a connection."),
    ("gatelodge_db_up", lambda of: int(of.up), "0 while the database cannot be reached."),
)

_POOL_COUNTERS: tuple[tuple[str, Callable[[PoolStats], float], str], ...] = (
    ("gatelodge_db_pool_requests", lambda of: of.requests, "Connections asked for."),
    ("gatelodge_db_pool_requests_queued", lambda of: of.queued, "Of those, how many had to wait."),
    ("gatelodge_db_pool_request_errors", lambda of: of.errors, "Of those, how many got none."),
    ("gatelodge_db_pool_wait_seconds", lambda of: of.wait_seconds, "Time spent waiting for a connection."),
    ("gatelodge_db_pool_connections", lambda of: of.connections, "Connections attempted."),
    ("gatelodge_db_pool_connection_errors", lambda of: of.connection_errors, "Attempts that failed."),
    ("gatelodge_db_pool_connections_lost", lambda of: of.lost, "Connections found dead or given back broken."),
)


class PoolReadings(Collector):
    """The connection pool. `stats` is called from the scraping thread: it must be quick and safe there."""

    def __init__(self, stats: Callable[[], PoolStats]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """Give the numbers to Prometheus."""
        stats = _read(self._stats)
        if stats is None:
            return
        count = GaugeMetricFamily("db_client_connection_count", "Connections of the pool.", labels=["state"])
        count.add_metric(["idle"], stats.available)
        count.add_metric(["used"], max(0, stats.size - stats.available))
        yield count
        for name, value, text in _POOL_GAUGES:
            yield GaugeMetricFamily(name, text, value=value(stats))
        for name, value, text in _POOL_COUNTERS:
            yield CounterMetricFamily(name, text, value=value(stats))


class HashReadings(Collector):
    """The password hashers. `stats` is called from the scraping thread: it must be quick and safe there."""

    def __init__(self, stats: Callable[[], HashQueue]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """Give the numbers to Prometheus."""
        stats = _read(self._stats)
        if stats is None:
            return
        yield GaugeMetricFamily("gatelodge_password_hash_active", "Hashes being computed.", value=stats.active)
        yield GaugeMetricFamily("gatelodge_password_hash_queued", "Hashes waiting.", value=stats.queued)
        yield GaugeMetricFamily("gatelodge_password_hash_queue_limit", "How many may wait.", value=stats.limit)
        yield CounterMetricFamily("gatelodge_password_hash_refused", "Hashes refused, too many waiting.", stats.refused)


def _read(stats: Callable[[], T]) -> T | None:
    """Return the numbers; None where they cannot be had, so that one source's fault leaves the page to the others."""
    try:
        return stats()
    except Exception:  # noqa: BLE001 - logged with its stack
        _log.exception("metrics could not be read")
        return None
