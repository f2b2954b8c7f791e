"""The numbers of the Prometheus page, pushed to a collector over OTLP. One set of instruments serves both."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from typing import TYPE_CHECKING, cast

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from service.telemetry.exporter_warnings import calm
from service.telemetry.otlp_names import attributes, name_and_unit
from service.telemetry.tracing import resource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from opentelemetry.sdk.resources import Resource
    from prometheus_client import CollectorRegistry
    from prometheus_client import Metric as Family
    from prometheus_client.samples import Sample

    from service.telemetry.otlp import Identity

_EXPORT_TIMEOUT = 5.0
_SCOPE = InstrumentationScope("gatelodge")


def pusher(endpoint: str, interval: float, registry: CollectorRegistry, who: Identity) -> Pusher:
    """Return what pushes `registry` to the collector at `endpoint` every `interval` seconds."""
    calm()
    exporter = OTLPMetricExporter(
        endpoint=endpoint,
        insecure=endpoint.startswith("http://"),
        timeout=_EXPORT_TIMEOUT,
    )
    return Pusher(exporter, registry, resource(who), interval=interval)


class Pusher:
    """Pushes all numbers every `interval` seconds, from a thread. A collector that is away costs a warning a minute."""

    def __init__(
        self,
        exporter: OTLPMetricExporter,
        registry: CollectorRegistry,
        who: Resource,
        *,
        interval: float,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._exporter = exporter
        self._registry = registry
        self._who = who
        self._interval = interval
        self._clock = clock
        self._start = clock()

    async def run(self) -> None:
        """Push until cancelled."""
        while True:
            await asyncio.sleep(self._interval)
            await asyncio.to_thread(self.push)

    def push(self) -> bool:
        """Push once. Blocks, some seconds at most; False if the collector did not take it."""
        families = self._registry.collect()
        metrics = list(converted(families, start=self._start, now=self._clock()))
        data = MetricsData([ResourceMetrics(self._who, [ScopeMetrics(_SCOPE, metrics, "")], "")])
        return self._exporter.export(data) is MetricExportResult.SUCCESS

    def close(self) -> None:
        """Push a last time and close the connection. Blocks like `push`."""
        self.push()
        self._exporter.shutdown()


def converted(families: Iterable[Family], *, start: int, now: int) -> Iterator[Metric]:
    """Turn Prometheus's metric families into OTLP's, with their numbers counted from `start` (both in ns)."""
    for family in families:
        name, unit = name_and_unit(family.name)
        data = _data(family, start, now)
        if data is not None:
            yield Metric(name, family.documentation, unit, data)


def _data(family: Family, start: int, now: int) -> Sum | Gauge | Histogram | None:
    if family.type == "histogram":
        return Histogram(list(_histograms(family.samples, start, now)), AggregationTemporality.CUMULATIVE)
    if family.type == "counter":
        totals = [sample for sample in family.samples if sample.name.endswith("_total")]
        return Sum(_points(totals, start, now), AggregationTemporality.CUMULATIVE, is_monotonic=True)
    if family.type in {"gauge", "info", "unknown"}:
        return Gauge(_points(family.samples, start, now))
    return None


def _points(samples: Iterable[Sample], start: int, now: int) -> list[NumberDataPoint]:
    return [NumberDataPoint(attributes(sample.labels), start, now, sample.value) for sample in samples]


def _histograms(samples: Iterable[Sample], start: int, now: int) -> Iterator[HistogramDataPoint]:
    buckets: defaultdict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = defaultdict(list)
    sums: dict[tuple[tuple[str, str], ...], float] = {}
    for sample in samples:
        labels = tuple((name, value) for name, value in sample.labels.items() if name != "le")
        if sample.name.endswith("_bucket"):
            buckets[labels].append((float(sample.labels["le"]), sample.value))
        elif sample.name.endswith("_sum"):
            sums[labels] = sample.value
    for labels, cumulative in buckets.items():
        yield _histogram(dict(labels), sorted(cumulative), sums.get(labels, 0.0), start, now)


def _histogram(
    labels: Mapping[str, str],
    cumulative: list[tuple[float, float]],
    total: float,
    start: int,
    now: int,
) -> HistogramDataPoint:
    counts = [int(count) for _, count in cumulative]
    unknown = cast("float", None)  # Prometheus keeps no extremes, and OTLP may go without
    return HistogramDataPoint(
        attributes=attributes(labels),
        start_time_unix_nano=start,
        time_unix_nano=now,
        count=counts[-1],
        sum=total,
        bucket_counts=[count - before for count, before in zip(counts, [0, *counts], strict=False)],
        explicit_bounds=[bound for bound, _ in cumulative[:-1]],
        min=unknown,
        max=unknown,
    )
