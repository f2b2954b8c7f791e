"""Every metric the service has, in a registry of its own. Built once by ``app.py``; features get what they fill."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, Histogram, Info, ProcessCollector

from service.telemetry.job_metrics import JobMetrics
from service.telemetry.readings import HashQueue, HashReadings, PoolReadings, PoolStats
from service.telemetry.rpc_metrics import MethodMetrics, RpcMetrics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["HashQueue", "MethodMetrics", "Metrics", "PoolStats", "RpcMetrics", "measure_loop_lag"]

_HANGS_AFTER = 10.0
"""Seconds without a turn of the event loop."""
_LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_HASH_BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """The instruments. Labels take few values by construction: outcomes are the caller's fixed words, never input."""

    def __init__(self, *, version: str, commit: str) -> None:
        self.registry = CollectorRegistry()
        self._beat = time.monotonic()
        self.rpc = RpcMetrics()
        self.registry.register(self.rpc)
        self.jobs = JobMetrics(self.registry)
        self._logins = self._counter("gatelodge_logins", "Logins by outcome.", "outcome")
        self._refreshes = self._counter("gatelodge_refreshes", "Uses of refresh tokens by outcome.", "outcome")
        self._attempts_refused = self._counter(
            "gatelodge_password_attempts_refused", "Attempts at passwords that came too soon.", "scope"
        )
        self._registrations = self._counter("gatelodge_registrations", "Registrations by outcome.", "outcome")
        self._crashes = self._counter("gatelodge_background_task_crashes", "Crashes of background tasks.", "task")
        self._health = Gauge(
            "gatelodge_health",
            "1 while the gRPC health service says SERVING.",
            ["service"],
            registry=self.registry,
        )
        self._clock_offset = Gauge(
            "gatelodge_clock_offset_seconds",
            "How far the database's clock, which is used, is ahead of this machine's.",
            registry=self.registry,
        )
        self._expiry: Gauge | None = None
        self._loop_lag = self._histogram(
            "gatelodge_event_loop_lag_seconds",
            "How late the event loop wakes a sleeper.",
            _LAG_BUCKETS,
        )
        self._revocation_lag = self._histogram(
            "gatelodge_revocation_lag_seconds",
            "Time from a revocation to its being known here.",
            _LAG_BUCKETS,
        )
        self._revocations_fresh = Gauge(
            "gatelodge_revocations_fresh",
            "1 while tokens are checked from memory; 0: the revocations known here are stale, the database is asked.",
            registry=self.registry,
        )
        self._hashing = self._histogram(
            "gatelodge_password_hash_duration_seconds",
            "Time a password hash took, without its wait.",
            _HASH_BUCKETS,
        )
        Info("gatelodge_build", "What runs.", registry=self.registry).info({"version": version, "commit": commit})
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def login(self, outcome: str) -> None:
        """Count a login by how it ended, in words that tell nobody who has an account."""
        self._logins.labels(outcome).inc()

    def refresh(self, outcome: str) -> None:
        """Count the use of a refresh token by how it ended."""
        self._refreshes.labels(outcome).inc()

    def attempt_refused(self, scope: str) -> None:
        """Count an attempt at a password that the throttle refused: for its account, source, device or devices."""
        self._attempts_refused.labels(scope).inc()

    def registration(self, outcome: str) -> None:
        """Count a registration, in words that tell nobody who has an account."""
        self._registrations.labels(outcome).inc()

    def crash(self, task: str) -> None:
        """Count a crash of a background task."""
        self._crashes.labels(task).inc()

    def health(self, service: str, serving: bool) -> None:  # noqa: FBT001 - what the health board tells
        """Tell what the gRPC health service says of `service`; the empty name is the whole server."""
        self._health.labels(service).set(serving)

    def clock_offset(self, seconds: float) -> None:
        """Tell how far the database's clock is ahead of this machine's."""
        self._clock_offset.set(seconds)

    def certificate_expires(self, at: float) -> None:
        """Tell when the TLS certificate in use expires, Unix seconds. Without TLS there is no such metric."""
        if self._expiry is None:
            self._expiry = Gauge(
                "gatelodge_tls_certificate_expiry_timestamp_seconds",
                "When the TLS certificate in use expires, Unix time.",
                registry=self.registry,
            )
        self._expiry.set(at)

    def loop_lag(self, seconds: float) -> None:
        """Count one measurement of `measure_loop_lag`."""
        self._loop_lag.observe(seconds)
        self._beat = time.monotonic()

    def loop_runs(self) -> bool:
        """Tell whether the event loop has been measured lately; a loop that hangs is not. From any thread."""
        return time.monotonic() - self._beat < _HANGS_AFTER

    def password_hash(self, seconds: float) -> None:
        """Count the time one hash took. From any thread."""
        self._hashing.observe(seconds)

    def argon2_bindings(self, name: str) -> None:
        """Tell which build of argon2 computes the hashes. Called once."""
        Info("gatelodge_argon2", "What hashes passwords.", registry=self.registry).info({"bindings": name})

    def revocation_lag(self, seconds: float) -> None:
        """Count how long a revocation took to be known here."""
        self._revocation_lag.observe(seconds)

    def revocations_fresh(self, fresh: bool) -> None:  # noqa: FBT001 - a gauge of two values
        """Tell whether the revocations known here are up to date."""
        self._revocations_fresh.set(fresh)

    def watch_pool(self, stats: Callable[[], PoolStats]) -> None:
        """Show the connection pool that `stats` tells of. Called once."""
        self.registry.register(PoolReadings(stats))

    def watch_hashing(self, stats: Callable[[], HashQueue]) -> None:
        """Show the password hashers. Called once."""
        self.registry.register(HashReadings(stats))

    def _counter(self, name: str, text: str, label: str) -> Counter:
        return Counter(name, text, [label], registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, buckets=buckets, registry=self.registry)


async def measure_loop_lag(
    tell: Callable[[float], None],
    *,
    interval: float = 0.25,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Tell every `interval` seconds how many seconds late the loop woke this task. Runs until cancelled."""
    while True:
        due = clock() + interval
        await sleep(interval)
        tell(max(0.0, clock() - due))
