"""UserService: proto to values, one call, values to proto."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatelodge.users.v1 import users_pb2, users_pb2_grpc

from service.errors import together
from service.rpc.timestamps import timestamp
from service.users.model import DisplayName, Email, NewUser, User, UserId, UserState

if TYPE_CHECKING:
    from service.auth.accounts import Accounts
    from service.auth.passwords import PasswordPolicy
    from service.rpc.context import Context
    from service.users.directory import Directory

_STATES = {
    UserState.ACTIVE: users_pb2.User.STATE_ACTIVE,
    UserState.DISABLED: users_pb2.User.STATE_DISABLED,
}


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

    async def LookupUser(self, request: users_pb2.LookupUserRequest, _: Context) -> users_pb2.LookupUserResponse:
        """Find a user by email."""
        user = await self._directory.lookup(Email.parse(request.email))
        return users_pb2.LookupUserResponse(user=to_proto(user))


def to_proto(user: User) -> users_pb2.User:
    """Return the resource that callers see."""
    return users_pb2.User(
        id=str(user.id),
        email=user.email,
        display_name=user.display_name,
        state=_STATES[user.state],
        roles=user.roles,
        email_verified=user.email_verified,
        etag=user.etag,
        create_time=timestamp(user.create_time),
        update_time=timestamp(user.update_time),
        delete_time=timestamp(user.delete_time),
    )
