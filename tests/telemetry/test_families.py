"""The numbers of several processes, put together by the rule."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from prometheus_client.registry import Collector

from service.telemetry.families import dump, merged, retired
from service.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from prometheus_client import Metric


class Process:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.calls = Counter("calls", "Calls.", ["code"], registry=self.registry)
        self.took = Histogram("took_seconds", "Time.", ["code"], buckets=(0.1, 1), registry=self.registry)
        self.busy = Gauge("busy", "Busy.", registry=self.registry)
        Info("build", "Build.", registry=self.registry).info({"version": "1"})

    def dumped(self) -> Any:
        return json.loads(json.dumps(dump(self.registry.collect())))


class Page(Collector):
    def __init__(self, processes: Sequence[tuple[str, Any]], gone: Any = ()) -> None:
        self._all = (processes, list(gone))

    def collect(self) -> Iterator[Metric]:
        return merged(*self._all)

    def samples(self) -> dict[str, float]:
        registry = CollectorRegistry()
        registry.register(self)
        openmetrics: Any = generate_openmetrics
        parsed: Any = parse_openmetrics
        assert list(parsed(openmetrics(registry).decode()))
        found = {}
        for family in parse(generate_latest(registry).decode()):
            for one in family.samples:
                found[one.name + ",".join(f"|{name}={value}" for name, value in sorted(one.labels.items()))] = one.value
        return found


def test_counters_and_histograms_are_added_up_and_gauges_are_told_apart() -> None:
    one, two = Process(), Process()
    one.calls.labels("OK").inc(2)
    two.calls.labels("OK").inc(3)
    two.calls.labels("NOT_FOUND").inc()
    one.took.labels("OK").observe(0.05)
    two.took.labels("OK").observe(0.5)
    two.took.labels("NOT_FOUND").observe(5)
    one.busy.set(1)
    two.busy.set(2)
    page = Page([("1", one.dumped()), ("2", two.dumped())]).samples()
    assert page["calls_total|code=OK"] == 5
    assert page["calls_total|code=NOT_FOUND"] == 1
    assert page["took_seconds_bucket|code=OK,|le=0.1"] == 1
    assert page["took_seconds_bucket|code=OK,|le=1.0"] == 2
    assert page["took_seconds_bucket|code=NOT_FOUND,|le=1.0"] == 0
    assert page["took_seconds_count|code=OK"] == 2
    assert page["took_seconds_sum|code=OK"] == pytest.approx(0.55)
    assert (page["busy|worker=1"], page["busy|worker=2"]) == (1, 2)
    assert page["build_info|version=1"] == 1


def test_what_a_process_that_is_gone_had_counted_stays_and_its_gauges_go() -> None:
    one, two = Process(), Process()
    for process in (one, two):
        process.calls.labels("OK").inc()
        process.busy.set(1)
    gone = retired(retired([], one.dumped()), two.dumped())
    page = Page([("1", Process().dumped())], gone).samples()
    assert page["calls_total|code=OK"] == 2
    assert [name for name in page if name.startswith("busy")] == ["busy|worker=1"]
    assert Page([], gone).samples()["calls_total|code=OK"] == 2


def test_the_services_own_numbers_make_a_page_that_parses() -> None:
    dumps = [(str(n), dump(Metrics(version="1", commit="x").registry.collect())) for n in (1, 2)]
    page = Page(dumps).samples()
    assert page["gatelodge_build_info|commit=x,|version=1"] == 1
    assert "process_resident_memory_bytes|worker=2" in page
