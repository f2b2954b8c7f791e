"""The roles feature."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from gatelodge.access.v1 import roles_pb2_grpc

from service.roles.catalogue import Catalogue
from service.roles.grants import Grants
from service.roles.in_force import RolesInForce
from service.roles.roles import Roles
from service.roles.servicer import RoleServicer
from service.rpc.methods import permissions
from service.wiring.feature import Feature

if TYPE_CHECKING:
    from collections.abc import Iterable

    from service.roles.guard import Guard
    from service.wiring.auth import Auth
    from service.wiring.ground import Ground

NAME = "gatelodge.access.v1.RoleService"


async def roles_in_force(ground: Ground) -> RolesInForce:
    """Return what roles allow now, complete."""
    in_force = RolesInForce(database=ground.database, record=ground.record, feed=ground.feed)
    await in_force.load()
    return in_force


def roles(ground: Ground, auth: Auth, guard: Guard, in_force: RolesInForce, others: Iterable[str]) -> Feature:
    """Build it. The permissions to be given are those that the services, `others` and its own, need."""
    catalogue = Catalogue(permissions((*others, NAME)))
    servicer = RoleServicer(
        roles=Roles(
            database=ground.database,
            journal=ground.journal,
            catalogue=catalogue,
            tokens=ground.pages,
            clock=ground.clock,
        ),
        grants=Grants(
            database=ground.database,
            journal=ground.journal,
            guard=guard,
            clock=ground.clock,
            expire=auth.ending.expire_access_tokens,
        ),
        catalogue=catalogue,
    )
    return Feature(
        services={NAME: partial(roles_pb2_grpc.add_RoleServiceServicer_to_server, servicer)},
        tasks={"roles": in_force.keep},
    )
