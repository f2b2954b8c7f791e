"""A role as callers see it: the resource of ``gatelodge.access.v1``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatelodge.access.v1 import roles_pb2

from service.rpc.timestamps import timestamp

if TYPE_CHECKING:
    from service.roles.model import Role


def to_proto(role: Role) -> roles_pb2.Role:
    """Return the resource that callers see."""
    return roles_pb2.Role(
        name=role.name,
        description=role.description,
        permissions=role.permissions,
        built_in=role.built_in,
        etag=role.etag,
        create_time=timestamp(role.create_time),
        update_time=timestamp(role.update_time),
    )
