"""UserService: proto to values, one call, values to proto."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from gatelodge.users.v1 import users_pb2, users_pb2_grpc

from service.call import principal
from service.errors import together
from service.rpc.timestamps import timestamp
from service.users.model import DisplayName, Email, NewUser, UserId
from service.users.requests import changes, filter_of, order_of
from service.users.resource import OBSTACLES, to_proto

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from service.auth.accounts import Accounts
    from service.auth.explanation import LoginExplainer
    from service.auth.password_setting import PasswordSetting
    from service.auth.passwords import PasswordPolicy
    from service.rpc.context import Context
    from service.users.directory import Directory
    from service.users.export import Export
    from service.users.lifecycle import Lifecycle
    from service.users.listing import Listing


class UserServicer(users_pb2_grpc.UserServiceServicer):
    """Serves ``gatelodge.users.v1.UserService``."""

    def __init__(
        self,
        *,
        directory: Directory,
        listing: Listing,
        export: Export,
        lifecycle: Lifecycle,
        accounts: Accounts,
        explainer: LoginExplainer,
        password_setting: PasswordSetting,
        policy: PasswordPolicy,
    ) -> None:
        self._directory = directory
        self._listing = listing
        self._export = export
        self._lifecycle = lifecycle
        self._accounts = accounts
        self._explainer = explainer
        self._password_setting = password_setting
        self._policy = policy

    async def CreateUser(self, request: users_pb2.CreateUserRequest, _: Context) -> users_pb2.CreateUserResponse:
        """Make an account."""
        email, name, password = together(
            lambda: Email.parse(request.email),
            lambda: DisplayName.parse(request.display_name),
            lambda: (
                self._policy.parse(request.password, about=(request.email, request.display_name))
                if request.HasField("password")
                else None
            ),
        )
        make = self._accounts.rehearse if request.validate_only else self._accounts.create
        return users_pb2.CreateUserResponse(user=to_proto(await make(NewUser(email, name), password)))

    async def GetUser(self, request: users_pb2.GetUserRequest, _: Context) -> users_pb2.GetUserResponse:
        """Return one user."""
        user = await self._directory.get(UserId.parse(request.user_id))
        return users_pb2.GetUserResponse(user=to_proto(user))

    async def BatchGetUsers(
        self, request: users_pb2.BatchGetUsersRequest, _: Context
    ) -> users_pb2.BatchGetUsersResponse:
        """Return several users."""
        users = await self._directory.get_all([UserId.parse(user_id) for user_id in request.user_ids])
        return users_pb2.BatchGetUsersResponse(users=map(to_proto, users))

    async def LookupUser(self, request: users_pb2.LookupUserRequest, _: Context) -> users_pb2.LookupUserResponse:
        """Find a user by email."""
        user = await self._directory.lookup(Email.parse(request.email))
        return users_pb2.LookupUserResponse(user=to_proto(user))

    async def ListUsers(self, request: users_pb2.ListUsersRequest, _: Context) -> users_pb2.ListUsersResponse:
        """Return a page of users."""
        page = await self._listing.page(
            filter_of(request), order_of(request), size=request.page_size, token=request.page_token
        )
        return users_pb2.ListUsersResponse(users=map(to_proto, page.users), next_page_token=page.next_token)

    async def ExportUsers(
        self, request: users_pb2.ExportUsersRequest, _: Context
    ) -> AsyncGenerator[users_pb2.ExportUsersResponse, None]:
        """Stream every user."""
        batches = self._export.batches(cursor=request.cursor, show_deleted=request.show_deleted)
        async with aclosing(batches):
            async for batch in batches:
                yield users_pb2.ExportUsersResponse(users=map(to_proto, batch.users), cursor=batch.cursor)

    async def UpdateUser(self, request: users_pb2.UpdateUserRequest, _: Context) -> users_pb2.UpdateUserResponse:
        """Change what the mask names."""
        user = await self._lifecycle.update(
            UserId.parse(request.user_id), changes(request), etag=request.user.etag, by=principal()
        )
        return users_pb2.UpdateUserResponse(user=to_proto(user))

    async def DisableUser(self, request: users_pb2.DisableUserRequest, _: Context) -> users_pb2.DisableUserResponse:
        """Stop a user from logging in."""
        user = await self._lifecycle.disable(
            UserId.parse(request.user_id), reason=request.reason, etag=request.etag, by=principal()
        )
        return users_pb2.DisableUserResponse(user=to_proto(user))

    async def EnableUser(self, request: users_pb2.EnableUserRequest, _: Context) -> users_pb2.EnableUserResponse:
        """Let a user log in again."""
        user = await self._lifecycle.enable(UserId.parse(request.user_id), etag=request.etag, by=principal())
        return users_pb2.EnableUserResponse(user=to_proto(user))

    async def DeleteUser(self, request: users_pb2.DeleteUserRequest, _: Context) -> users_pb2.DeleteUserResponse:
        """Delete a user, until the purge."""
        user = await self._lifecycle.delete(
            UserId.parse(request.user_id), etag=request.etag, by=principal(), allow_missing=request.allow_missing
        )
        return users_pb2.DeleteUserResponse(user=to_proto(user) if user else None)

    async def UndeleteUser(self, request: users_pb2.UndeleteUserRequest, _: Context) -> users_pb2.UndeleteUserResponse:
        """Take a deletion back."""
        user = await self._lifecycle.undelete(UserId.parse(request.user_id), etag=request.etag, by=principal())
        return users_pb2.UndeleteUserResponse(user=to_proto(user))

    async def EraseUser(self, request: users_pb2.EraseUserRequest, _: Context) -> users_pb2.EraseUserResponse:
        """Remove all that is held on a person."""
        await self._lifecycle.erase(UserId.parse(request.user_id), etag=request.etag, by=principal())
        return users_pb2.EraseUserResponse()

    async def SetPassword(self, request: users_pb2.SetPasswordRequest, _: Context) -> users_pb2.SetPasswordResponse:
        """Give a user a password."""
        await self._password_setting(
            UserId.parse(request.user_id), request.password, must_change=request.must_change, by=principal()
        )
        return users_pb2.SetPasswordResponse()

    async def ExplainLogin(self, request: users_pb2.ExplainLoginRequest, _: Context) -> users_pb2.ExplainLoginResponse:
        """Tell why a user cannot log in."""
        explanation = await self._explainer.explain(Email.parse(request.email))
        return users_pb2.ExplainLoginResponse(
            user_id=str(explanation.user_id),
            can_log_in=not explanation.obstacles,
            obstacles=[OBSTACLES[obstacle.name] for obstacle in explanation.obstacles],
            disable_reason=explanation.disable_reason,
            throttled_until=timestamp(explanation.throttled_until),
        )
