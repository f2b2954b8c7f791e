"""AuthService: proto to values, one call, values to proto."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatelodge.auth.v1 import auth_pb2, auth_pb2_grpc

from service.auth.passwords import Password
from service.call import principal
from service.errors import together
from service.rpc.timestamps import timestamp
from service.users.model import DisplayName, Email, NewUser
from service.users.resource import to_proto

if TYPE_CHECKING:
    from service.auth.accounts import Accounts
    from service.auth.login import Login
    from service.auth.passwords import PasswordPolicy
    from service.auth.profile import Profile
    from service.rpc.context import Context


class AuthServicer(auth_pb2_grpc.AuthServiceServicer):
    """Serves ``gatelodge.auth.v1.AuthService``."""

    def __init__(
        self,
        *,
        accounts: Accounts,
        login: Login,
        profile: Profile,
        policy: PasswordPolicy,
    ) -> None:
        self._accounts = accounts
        self._login = login
        self._profile = profile
        self._policy = policy

    async def Register(self, request: auth_pb2.RegisterRequest, _: Context) -> auth_pb2.RegisterResponse:
        """Make an account for oneself."""
        email, password, name = together(
            lambda: Email.parse(request.email),
            lambda: self._policy.parse(request.password),
            lambda: DisplayName.parse(request.display_name),
        )
        await self._accounts.register(NewUser(email, name), password)
        return auth_pb2.RegisterResponse()

    async def Login(self, request: auth_pb2.LoginRequest, _: Context) -> auth_pb2.LoginResponse:
        """Exchange email and password for an access token."""
        email, password = together(
            lambda: Email.parse(request.email),
            lambda: Password.parse(request.password),
        )
        logged_in = await self._login(email, password)
        return auth_pb2.LoginResponse(
            access_token=logged_in.token.text,
            expire_time=timestamp(logged_in.token.expire_time),
            user_id=str(logged_in.user_id),
        )

    async def GetMe(self, _: auth_pb2.GetMeRequest, __: Context) -> auth_pb2.GetMeResponse:
        """Return the user whose token the call carries."""
        return auth_pb2.GetMeResponse(user=to_proto(await self._profile.of(principal())))
