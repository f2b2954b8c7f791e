"""RoleService: proto to values, one call, values to proto."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatelodge.access.v1 import roles_pb2, roles_pb2_grpc

from service.call import principal
from service.roles.model import RoleName
from service.roles.requests import changes, new_role
from service.roles.resource import to_proto
from service.users.model import UserId

if TYPE_CHECKING:
    from service.roles.catalogue import Catalogue
    from service.roles.grants import Grants
    from service.roles.roles import Roles
    from service.rpc.context import Context


class RoleServicer(roles_pb2_grpc.RoleServiceServicer):
    """Serves ``gatelodge.access.v1.RoleService``."""

    def __init__(self, *, roles: Roles, grants: Grants, catalogue: Catalogue) -> None:
        self._roles = roles
        self._grants = grants
        self._catalogue = catalogue

    async def CreateRole(self, request: roles_pb2.CreateRoleRequest, _: Context) -> roles_pb2.CreateRoleResponse:
        """Make a role."""
        make = self._roles.rehearse if request.validate_only else self._roles.create
        return roles_pb2.CreateRoleResponse(role=to_proto(await make(new_role(request.role), by=principal())))

    async def GetRole(self, request: roles_pb2.GetRoleRequest, _: Context) -> roles_pb2.GetRoleResponse:
        """Return one role."""
        return roles_pb2.GetRoleResponse(role=to_proto(await self._roles.get(RoleName.existing(request.name))))

    async def ListRoles(self, request: roles_pb2.ListRolesRequest, _: Context) -> roles_pb2.ListRolesResponse:
        """Return a page of roles."""
        page = await self._roles.page(size=request.page_size, token=request.page_token)
        return roles_pb2.ListRolesResponse(roles=map(to_proto, page.roles), next_page_token=page.next_token)

    async def UpdateRole(self, request: roles_pb2.UpdateRoleRequest, _: Context) -> roles_pb2.UpdateRoleResponse:
        """Change what the mask names."""
        role = await self._roles.update(
            RoleName.existing(request.role.name), changes(request), etag=request.role.etag, by=principal()
        )
        return roles_pb2.UpdateRoleResponse(role=to_proto(role))

    async def DeleteRole(self, request: roles_pb2.DeleteRoleRequest, _: Context) -> roles_pb2.DeleteRoleResponse:
        """Remove a role that nobody holds."""
        await self._roles.delete(RoleName.existing(request.name), etag=request.etag)
        return roles_pb2.DeleteRoleResponse()

    async def GrantRole(self, request: roles_pb2.GrantRoleRequest, _: Context) -> roles_pb2.GrantRoleResponse:
        """Give a user a role."""
        user = await self._grants.grant(
            UserId.parse(request.user_id), RoleName.existing(request.role), etag=request.etag, by=principal()
        )
        return roles_pb2.GrantRoleResponse(roles=user.roles, etag=user.etag)

    async def RevokeRole(self, request: roles_pb2.RevokeRoleRequest, _: Context) -> roles_pb2.RevokeRoleResponse:
        """Take a role from a user."""
        user = await self._grants.revoke(
            UserId.parse(request.user_id), RoleName.existing(request.role), etag=request.etag, by=principal()
        )
        return roles_pb2.RevokeRoleResponse(roles=user.roles, etag=user.etag)

    async def ListPermissions(
        self, _request: roles_pb2.ListPermissionsRequest, _: Context
    ) -> roles_pb2.ListPermissionsResponse:
        """Return the permissions that methods need."""
        return roles_pb2.ListPermissionsResponse(
            permissions=[
                roles_pb2.Permission(name=name, methods=methods) for name, methods in self._catalogue.methods.items()
            ]
        )

    async def CheckPermissions(
        self, request: roles_pb2.CheckPermissionsRequest, _: Context
    ) -> roles_pb2.CheckPermissionsResponse:
        """Tell which permissions a user holds now."""
        held = await self._grants.check(UserId.parse(request.user_id), request.permissions)
        return roles_pb2.CheckPermissionsResponse(held=held)
