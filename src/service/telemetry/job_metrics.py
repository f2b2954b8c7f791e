"""The background jobs' instruments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 1800.0)


class JobMetrics:
    """How often jobs ran in this process, how that ended, how long it took.

    And when they last succeeded, for all this process knows: the latest of all replicas is the truth.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._runs = Counter(
            "gatelodge_job_runs", "Runs of background jobs by outcome.", ["job", "outcome"], registry=registry
        )
        self._duration = Histogram(
            "gatelodge_job_duration_seconds", "Time a run took.", ["job"], buckets=_BUCKETS, registry=registry
        )
        self._success = Gauge(
            "gatelodge_job_last_success_timestamp_seconds",
            "When the job last succeeded, Unix time; 0 if it never did. The largest among the replicas counts.",
            ["job"],
            registry=registry,
        )

    def known(self, job: str, at: float) -> None:
        """Note that the job exists and last succeeded at `at`, Unix seconds; 0: never."""
        for outcome in ("success", "failure", "lost"):
            self._runs.labels(job, outcome)
        self._duration.labels(job)
        self._success.labels(job).set(at)

    def ran(self, job: str, outcome: str, seconds: float) -> None:
        """Count a run that took `seconds`; `outcome` is ``success``, ``failure`` or ``lost``."""
        self._runs.labels(job, outcome).inc()
        self._duration.labels(job).observe(seconds)
        if outcome == "success":
            self._success.labels(job).set_to_current_time()
