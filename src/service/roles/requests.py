"""Requests of ``gatelodge.access.v1.RoleService`` as values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.errors import together
from service.roles.model import Changes, Description, NewRole, RoleName, permissions_of
from service.rpc.masks import named

if TYPE_CHECKING:
    from gatelodge.access.v1 import roles_pb2

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
    role = request.role
    asked = named(request.update_mask.paths, role, _CHANGEABLE)
    description, permissions = together(
        lambda: Description.parse(role.description) if "description" in asked else None,
        lambda: permissions_of(role.permissions) if "permissions" in asked else None,
    )
    return Changes(description, permissions)
