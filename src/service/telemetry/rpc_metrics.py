"""Counts of calls, kept as plain numbers by the event loop and read by whoever scrapes: 1 µs a call and no lock.

Names and labels are OpenTelemetry's semantic conventions for RPC, in their Prometheus form.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

OTHER = "_OTHER"
"""The method of calls to methods that do not exist."""

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Upper bounds, seconds: the conventions' own, and two below them, as most calls here take about a millisecond."""

_MOST_METHODS = 500
_MOST_CODES = 20


class Durations:
    """A histogram that one thread fills. Another may read it: its count always agrees with its buckets."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Return the cumulative counts by upper bound, as Prometheus writes them."""
        bounds = [*(str(bound) for bound in BUCKETS), "+Inf"]
        return list(zip(bounds, accumulate(self.counts), strict=True))


class MethodMetrics:
    """The calls of one method. Fetch it once per method, not per call. For the event loop's thread only."""

    __slots__ = ("active", "durations")

    def __init__(self) -> None:
        self.active = 0
        self.durations: dict[str, Durations] = {}

    def started(self) -> None:
        """A call began."""
        self.active += 1

    def finished(self, code: str, seconds: float) -> None:
        """A call ended with the status `code` (``OK``, ``NOT_FOUND``) after `seconds`."""
        self.active -= 1
        durations = self.durations.get(code)
        if durations is None:
            durations = self._new(code)
        durations.add(seconds)

    def _new(self, code: str) -> Durations:
        # gRPC has 17 codes; whatever else comes is counted as one, so that labels stay few.
        code = code if len(self.durations) < _MOST_CODES else "UNKNOWN"
        return self.durations.setdefault(code, Durations())


class RpcMetrics(Collector):
    """The calls of every method."""

    def __init__(self) -> None:
        self._methods: dict[str, MethodMetrics] = {}

    def method(self, name: str) -> MethodMetrics:
        """Return the numbers of ``package.Service/Method``; `OTHER` for one that does not exist."""
        if name not in self._methods and len(self._methods) >= _MOST_METHODS:
            name = OTHER
        return self._methods.setdefault(name, MethodMetrics())

    def collect(self) -> Iterator[Metric]:
        """Give the numbers to Prometheus."""
        active = GaugeMetricFamily("rpc_server_active_calls", "Calls in progress.", labels=["rpc_method"])
        durations = HistogramMetricFamily(
            "rpc_server_call_duration_seconds",
            "Time from a call's arrival to its status.",
            labels=["rpc_method", "rpc_response_status_code"],
        )
        for name, method in list(self._methods.items()):
            active.add_metric([name], method.active)
            for code, spent in list(method.durations.items()):
                durations.add_metric([name, code], spent.buckets(), spent.total)
        yield active
        yield durations
