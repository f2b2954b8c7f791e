"""The numbers of several processes as one page.

The rule: counters and histograms are added up, over the processes that are gone as well, so that a sum never falls when
a worker is replaced. Gauges are shown for each process, told apart by the label ``worker``: only who asks knows whether
their sum, their largest or each is meant. Build information is the same in all and shown once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from prometheus_client.core import Metric

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

Dumped: TypeAlias = "list[Any]"
"""A metric family as JSON can carry it: name, text, type, unit, [[sample's name, labels, value], …]."""

_ADDED = frozenset({"counter", "histogram", "summary", "gaugehistogram"})
_ALIKE = frozenset({"info"})


def dump(families: Iterable[Metric]) -> list[Dumped]:
    """Return `families` as JSON can carry them."""
    return [
        [of.name, of.documentation, of.type, of.unit, [[one.name, one.labels, one.value] for one in of.samples]]
        for of in families
    ]


def merged(processes: Sequence[tuple[str, list[Dumped]]], gone: list[Dumped]) -> Iterator[Metric]:
    """Return the families of all `processes`, each with its ``worker`` label, and of those that are `gone`."""
    groups: dict[str, list[tuple[str, Dumped]]] = {}
    for worker, families in (*processes, ("", gone)):
        for family in families:
            groups.setdefault(family[0], []).append((worker, family))
    for name, group in groups.items():
        _, text, kind, unit, _ = group[0][1]
        metric = Metric(name, text, kind, unit)
        for sample in _samples(kind, group):
            metric.add_sample(*sample)
        yield metric


def retired(gone: list[Dumped], families: Iterable[Dumped]) -> list[Dumped]:
    """Return `gone` with what must outlive another process: its counters and histograms."""
    lasting = [family for family in families if family[2] in _ADDED]
    return dump(merged([("", lasting)], gone))


def _samples(kind: str, group: Sequence[tuple[str, Dumped]]) -> Iterator[tuple[str, dict[str, str], float]]:
    if kind in _ALIKE:
        yield from ((name, labels, value) for name, labels, value in group[0][1][4])
    elif kind in _ADDED:
        yield from _sums(group)
    else:
        for worker, family in group:
            yield from ((name, labels | {"worker": worker}, value) for name, labels, value in family[4])


def _sums(group: Sequence[tuple[str, Dumped]]) -> Iterator[tuple[str, dict[str, str], float]]:
    sums: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for _, family in group:
        for name, labels, value in family[4]:
            key = (name, tuple(labels.items()))
            if name.endswith("_created"):  # a moment, not an amount: the first
                sums[key] = min(sums.get(key, value), value)
            else:
                sums[key] = sums.get(key, 0) + value
    for (name, labels), value in sums.items():
        yield name, dict(labels), value
