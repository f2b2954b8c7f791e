"""Field masks of updates (AIP-134, AIP-161)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.errors import FieldViolation, InvalidFields

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from google.protobuf.message import Message

_MOST_TOLD = 10
_MOST_CHARACTERS = 64


def named(mask: Iterable[str], resource: Message, changeable: Sequence[str]) -> frozenset[str]:
    """Return which of the `changeable` fields a mask names: ``*`` all, an empty mask those that `resource` fills.

    Raises:
        InvalidFields: it names a field that such a resource does not have.

    """
    paths = set(mask)
    if not paths:
        return frozenset(name for name in changeable if getattr(resource, name))
    if unknown := sorted(paths - {"*", *resource.DESCRIPTOR.fields_by_name}):
        what = f"names what a {resource.DESCRIPTOR.name.lower()} does not have"
        told = (f"{what}: {path[:_MOST_CHARACTERS]!r}" for path in unknown[:_MOST_TOLD])
        raise InvalidFields(*(FieldViolation("update_mask", text) for text in told))
    return frozenset(changeable if "*" in paths else paths.intersection(changeable))
