"""Secrets that are kept elsewhere: a setting says where, and the value is fetched at the start.

For every setting that is a secret: ``file:/path``, ``vault:<mount>/<path>#<key>``, ``aws-sm:<secret-id>[#<json-key>]``.
What goes wrong becomes a fault among the others. No value is ever in one, nor what a store answered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.settings.faults import Fault
from service.settings.keys import Key, is_secret
from service.settings.stores import STORES, UnresolvedError

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST = 65_536


def scheme(value: object) -> str | None:
    """Return the kind of reference that `value` is, None for a value that is meant as it stands."""
    if not isinstance(value, str):
        return None
    name, colon, _ = value.partition(":")
    return name if colon and name in STORES else None


def resolved(
    values: Mapping[Key, object], origins: Mapping[Key, str]
) -> tuple[dict[Key, object], dict[Key, str], list[Fault]]:
    """Return `values` with every reference replaced, the scheme of each that was one, and what went wrong.

    A setting whose reference leads nowhere is left out.
    """
    found, schemes = dict(values), dict[Key, str]()
    faults: list[Fault] = []
    for key, value in values.items():
        items = value if isinstance(value, list) else [value]
        names = [scheme(item) for item in items] if is_secret(key) else []
        name = next(filter(None, names), None)
        if name is None:
            continue
        schemes[key] = name
        try:
            fetched = [item if of is None else _fetched(of, str(item)) for of, item in zip(names, items, strict=True)]
            found[key] = fetched if isinstance(value, list) else fetched[0]
        except UnresolvedError as error:
            del found[key]
            faults.append(Fault(f"{name}: {error}", key, origins.get(key, "")))
    return found, schemes, faults


def _fetched(name: str, reference: str) -> str:
    text = STORES[name](reference.partition(":")[2])
    if not text:
        raise UnresolvedError("the secret is empty")
    if len(text) > _LONGEST:
        raise UnresolvedError(f"the secret is longer than {_LONGEST} characters")
    return text
