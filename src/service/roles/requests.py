"""Requests of ``gatelodge.access.v1.RoleService`` as values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatelodge.access.v1 import roles_pb2

from service.errors import FieldViolation, InvalidFields, together
from service.roles.model import Changes, Description, NewRole, RoleName, permissions_of

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

_CHANGEABLE = ("description", "permissions")


def new_role(role: roles_pb2.Role) -> NewRole:
    """Return the role to be made.

    Raises:
        InvalidFields: with everything that is bad.

    """
    name, description, permissions = together(
        lambda: RoleName.parse(role.name),
        lambda: Description.parse(role.description),
        lambda: permissions_of(role.permissions),
    )
    return NewRole(name, description, permissions)


def changes(request: roles_pb2.UpdateRoleRequest) -> Changes:
    """Return what is to change: the fields in the mask, without one those that are not empty (AIP-134, AIP-161).

    Raises:
        InvalidFields: the mask names a field that a role does not have, or a value is bad.

    """
    role, named = request.role, _named(request)
    description, permissions = together(
        lambda: Description.parse(role.description) if "description" in named else None,
        lambda: permissions_of(role.permissions) if "permissions" in named else None,
    )
    return Changes(description, permissions)


def _named(request: roles_pb2.UpdateRoleRequest) -> AbstractSet[str]:
    if not request.update_mask.paths:
        return {name for name in _CHANGEABLE if getattr(request.role, name)}
    paths = set(request.update_mask.paths)
    known = {"*", *roles_pb2.Role.DESCRIPTOR.fields_by_name}
    if unknown := sorted(paths - known):
        raise InvalidFields(
            *(FieldViolation("update_mask", f"names what a role does not have: {path[:64]!r}") for path in unknown[:10])
        )
    return set(_CHANGEABLE) if "*" in paths else paths.intersection(_CHANGEABLE)
