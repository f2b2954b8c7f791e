"""Every metric that the dashboard and the alerts name is on the page of a service that ran and did a little."""

from __future__ import annotations

import asyncio
import urllib.request
from typing import TYPE_CHECKING

import grpc
import promql_parser
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from prometheus_client import Metric
    from tests.app.client import Client

    from service.app import App

AFTER_A_CRASH = {"gatelodge_background_task_crashes_total"}
"""Has no value before the first one."""
PROMETHEUS_OWN = {"up"}


def _selectors(node: object) -> Iterator[promql_parser.VectorSelector]:
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("expr", "lhs", "rhs", "vector_selector", "vs", "args"):
        child = getattr(node, name, None)
        for part in child if isinstance(child, list) else [child]:
            if part is not None and not isinstance(part, str):
                yield from _selectors(part)


def _page(url: str) -> list[Metric]:
    with urllib.request.urlopen(url) as page:
        return list(parse(page.read().decode()))


@pytest.fixture(name="named")
def _named(check: ModuleType) -> dict[str, set[str]]:
    """The metrics named, with the labels asked of each."""
    recorded = {rule["record"] for rule in check.rules() if "record" in rule}
    found: dict[str, set[str]] = {}
    for query in [*check.dashboard_queries(), *(rule["expr"] for rule in check.rules())]:
        for selector in _selectors(promql_parser.parse(query)):
            assert selector.name, query
            labels = {matcher.name for matcher in selector.matchers.matchers}
            found.setdefault(selector.name, set()).update(labels)
    assert len(found) > 20
    return {name: labels for name, labels in found.items() if name not in recorded | PROMETHEUS_OWN}


async def test_every_metric_of_the_dashboard_and_the_alerts_is_one_of_the_services_own(
    app: App, client: Client, named: dict[str, set[str]]
) -> None:
    await client.user()
    with pytest.raises(grpc.aio.AioRpcError):
        await client.login("ada@example.com", "not the right password")
    families = await asyncio.to_thread(_page, f"http://{app.ops_address}/metrics")
    labels: dict[str, set[str]] = {}
    for family in families:
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    declared = {f"{family.name}_total" for family in families if family.type == "counter"}
    there = labels.keys() | declared
    assert named.keys() <= there, "a metric that is named and not there"
    added = {"job", "instance", "exported_job"}  # by Prometheus
    for name in named.keys() - AFTER_A_CRASH:
        assert named[name] - added <= labels[name], f"{name} has no such labels"
