"""UserService: proto to values, one call, values to proto."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatelodge.users.v1 import users_pb2, users_pb2_grpc

from service.errors import together
from service.users.model import DisplayName, Email, NewUser, UserId
from service.users.resource import to_proto

if TYPE_CHECKING:
    from service.auth.accounts import Accounts
    from service.auth.passwords import PasswordPolicy
    from service.rpc.context import Context
    from service.users.directory import Directory


class UserServicer(users_pb2_grpc.UserServiceServicer):
    """Serves ``gatelodge.users.v1.UserService``."""

    def __init__(self, *, directory: Directory, accounts: Accounts, policy: PasswordPolicy) -> None:
        self._directory = directory
        self._accounts = accounts
        self._policy = policy

    async def CreateUser(self, request: users_pb2.CreateUserRequest, _: Context) -> users_pb2.CreateUserResponse:
        """Make an account."""
        email, name, password = together(
            lambda: Email.parse(request.email),
            lambda: DisplayName.parse(request.display_name),
            lambda: self._policy.parse(request.password) if request.HasField("password") else None,
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
