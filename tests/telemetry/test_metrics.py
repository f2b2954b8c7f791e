"""The metrics page: what Prometheus reads, and what fills it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from service.telemetry.metrics import HashQueue, Metrics, measure_loop_lag
from service.telemetry.rpc_metrics import OTHER

if TYPE_CHECKING:
    from collections.abc import Awaitable


@dataclass
class _Pool:
    size: int = 5
    available: int = 3
    waiting: int = 4
    min_size: int = 2
    max_size: int = 20
    requests: int = 100
    queued: int = 7
    errors: int = 1
    wait_seconds: float = 0.25
    connections: int = 6
    connection_errors: int = 2
    lost: int = 1
    up: bool = True


@pytest.fixture(name="metrics")
def _metrics() -> Metrics:
    return Metrics(version="1.2.3", commit="abcdef")


def _samples(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    text = generate_latest(metrics.registry).decode()
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in parse(text)
        for sample in family.samples
    }


def test_calls_are_counted_by_method_and_code(metrics: Metrics) -> None:
    method = metrics.rpc.method("a.B/C")
    for code, seconds in (("OK", 0.0009), ("OK", 0.03), ("NOT_FOUND", 99.0)):
        method.started()
        method.finished(code, seconds)
    method.started()
    assert metrics.rpc.method("a.B/C") is method
    read = metrics.registry.get_sample_value
    labels = {"rpc_method": "a.B/C", "rpc_response_status_code": "OK"}
    name = "rpc_server_call_duration_seconds"
    assert read("rpc_server_active_calls", {"rpc_method": "a.B/C"}) == 1
    assert read(f"{name}_count", labels) == 2
    assert read(f"{name}_sum", labels) == pytest.approx(0.0309)
    assert read(f"{name}_bucket", labels | {"le": "0.001"}) == 1
    assert read(f"{name}_bucket", labels | {"le": "0.05"}) == 2
    late = labels | {"rpc_response_status_code": "NOT_FOUND"}
    assert read(f"{name}_bucket", late | {"le": "10.0"}) == 0
    assert read(f"{name}_bucket", late | {"le": "+Inf"}) == 1


def test_names_from_outside_cannot_make_labels_without_end(metrics: Metrics) -> None:
    methods = {id(metrics.rpc.method(f"m{n}")) for n in range(2000)}
    assert len(methods) <= 501
    assert metrics.rpc.method("yet another") is metrics.rpc.method(OTHER)
    method = metrics.rpc.method("m1")
    for n in range(100):
        method.finished(f"CODE{n}", 0.1)
    assert len(method.durations) <= 21


def test_everything_is_readable_in_both_of_prometheuss_formats(metrics: Metrics) -> None:
    metrics.rpc.method("a.B/C").started()
    metrics.login("ok")
    metrics.registration("closed")
    metrics.crash("outbox")
    metrics.health("", serving=True)
    metrics.loop_lag(0.002)
    metrics.password_hash(0.03)
    metrics.argon2_bindings("wheel")
    metrics.watch_pool(_Pool)
    metrics.watch_hashing(lambda: HashQueue(active=1, queued=2, limit=64, refused=3))
    samples = _samples(metrics)
    for name, labels, value in (
        ("gatelodge_logins_total", ("ok",), 1),
        ("gatelodge_registrations_total", ("closed",), 1),
        ("gatelodge_background_task_crashes_total", ("outbox",), 1),
        ("gatelodge_health", ("",), 1),
        ("gatelodge_build_info", ("abcdef", "1.2.3"), 1),
        ("gatelodge_event_loop_lag_seconds_count", (), 1),
        ("gatelodge_password_hash_duration_seconds_count", (), 1),
        ("gatelodge_argon2_info", ("wheel",), 1),
        ("gatelodge_password_hash_active", (), 1),
        ("gatelodge_password_hash_queued", (), 2),
        ("gatelodge_password_hash_queue_limit", (), 64),
        ("gatelodge_password_hash_refused_total", (), 3),
        ("db_client_connection_count", ("idle",), 3),
        ("db_client_connection_count", ("used",), 2),
        ("db_client_connection_max", (), 20),
        ("db_client_connection_pending_requests", (), 4),
        ("gatelodge_db_up", (), 1),
        ("gatelodge_db_pool_wait_seconds_total", (), 0.25),
        ("gatelodge_db_pool_request_errors_total", (), 1),
    ):
        assert samples[name, labels] == value, name
    assert ("process_resident_memory_bytes", ()) in samples
    text = openmetrics.generate_latest(metrics.registry).decode()  # type: ignore[no-untyped-call]
    assert list(parse_openmetrics(text))  # type: ignore[no-untyped-call]


def test_a_source_that_fails_leaves_the_page_to_the_others(metrics: Metrics) -> None:
    def broken() -> _Pool:
        raise RuntimeError("closed")

    metrics.watch_pool(broken)
    metrics.watch_hashing(lambda: HashQueue(active=0, queued=0, limit=1, refused=0))
    assert ("gatelodge_password_hash_queue_limit", ()) in _samples(metrics)


def test_two_registries_know_nothing_of_each_other(metrics: Metrics) -> None:
    metrics.login("ok")
    assert ("gatelodge_logins_total", ("ok",)) not in _samples(Metrics(version="1", commit="x"))


async def test_the_loops_lag_is_how_late_a_sleeper_wakes() -> None:
    lags: list[float] = []
    task = asyncio.create_task(measure_loop_lag(lags.append, interval=0.01))
    await asyncio.sleep(0.05)
    time.sleep(0.1)  # noqa: ASYNC251 - the block that is to be measured
    await asyncio.sleep(0.02)
    task.cancel()
    assert max(lags) > 0.08
    assert min(lags) < 0.05


async def test_the_loops_lag_is_never_negative() -> None:
    now = iter([10.0, 10.1])

    async def no_sleep(_: float) -> None:
        await asyncio.sleep(0)

    lags: list[float] = []
    sleep: Awaitable[None] = measure_loop_lag(lags.append, interval=1.0, sleep=no_sleep, clock=lambda: next(now))
    with pytest.raises(RuntimeError):  # the clock has run out
        await sleep
    assert lags == [0.0]


def test_counting_a_call_costs_a_few_microseconds_at_most(metrics: Metrics) -> None:
    method = metrics.rpc.method("a.B/C")

    def cost() -> float:
        start = time.thread_time()
        for _ in range(5_000):
            method.started()
            method.finished("OK", 0.0012)
        return (time.thread_time() - start) / 5_000

    assert min(cost() for _ in range(5)) < 5e-6  # measured: 0.3 µs; the margin is for a busy machine


def test_a_loop_that_is_no_longer_measured_is_taken_for_hanging(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics(version="1", commit="x")
    metrics.loop_lag(0.001)
    assert metrics.loop_runs()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 11)
    assert not metrics.loop_runs()
