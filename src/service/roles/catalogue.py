"""The permissions that this service's own methods need."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from service.errors import FieldViolation, InvalidFields
from service.roles.model import Permission

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_MOST_VIOLATIONS = 10


class Catalogue:
    """The permissions there are. Names that begin otherwise are for other services to define.

    Args:
        methods: by the name of each permission, the methods that need it.

    """

    def __init__(self, methods: Mapping[str, Sequence[str]]) -> None:
        self.methods = {name: tuple(sorted(methods[name])) for name in sorted(methods)}
        self._namespaces = {Permission(name).namespace for name in methods}

    def check(self, permissions: Iterable[Permission], *, field: str = "role.permissions") -> None:
        """Check that there are such permissions, as far as they would be ours.

        Raises:
            InvalidFields: naming those that there are not, each with the nearest there is.

        """
        unknown = [
            one for one in sorted(permissions) if one.namespace in self._namespaces and one.name not in self.methods
        ]
        if unknown:
            raise InvalidFields(*(FieldViolation(field, self._advice(one)) for one in unknown[:_MOST_VIOLATIONS]))

    def _advice(self, permission: Permission) -> str:
        akin = [name for name in self.methods if Permission(name).namespace == permission.namespace]
        (nearest,) = get_close_matches(permission.name, akin, n=1, cutoff=0)
        return f"{permission.name} is not a permission of this service: did you mean {nearest}?"
