"""AuthService: proto to values, one call, values to proto."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatelodge.auth.v1 import auth_pb2, auth_pb2_grpc

from service.auth.passwords import Password
from service.auth.sessions.model import Device
from service.call import current, principal
from service.errors import together
from service.events.journal import host
from service.rpc.timestamps import timestamp
from service.users.model import DisplayName, Email, NewUser
from service.users.resource import to_proto

if TYPE_CHECKING:
    from service.auth.accounts import Accounts
    from service.auth.checking import PasswordCheck
    from service.auth.login import Login
    from service.auth.password_change import PasswordChange
    from service.auth.passwords import PasswordPolicy
    from service.auth.profile import Profile
    from service.auth.sessions.logout import Logout
    from service.auth.sessions.refreshing import Refreshing
    from service.rpc.context import Context


class AuthServicer(auth_pb2_grpc.AuthServiceServicer):
    """Serves ``gatelodge.auth.v1.AuthService``."""

    def __init__(
        self,
        *,
        accounts: Accounts,
        check: PasswordCheck,
        login: Login,
        password_change: PasswordChange,
        refreshing: Refreshing,
        logout: Logout,
        profile: Profile,
        policy: PasswordPolicy,
    ) -> None:
        self._accounts = accounts
        self._check = check
        self._login = login
        self._password_change = password_change
        self._refreshing = refreshing
        self._logout = logout
        self._profile = profile
        self._policy = policy

    async def Register(self, request: auth_pb2.RegisterRequest, _: Context) -> auth_pb2.RegisterResponse:
        """Make an account for oneself."""
        email, password, name = together(
            lambda: Email.parse(request.email),
            lambda: self._policy.parse(request.password, about=(request.email, request.display_name)),
            lambda: DisplayName.parse(request.display_name),
        )
        await self._accounts.register(NewUser(email, name), password)
        return auth_pb2.RegisterResponse()

    async def Login(self, request: auth_pb2.LoginRequest, _: Context) -> auth_pb2.LoginResponse:
        """Open a session: email and password for its tokens."""
        source, user_agent = _caller()
        email, password, device = together(
            lambda: Email.parse(request.email),
            lambda: Password.parse(request.password),
            lambda: Device.parse(request.device_label, user_agent=user_agent, source=source),
        )
        attempt = self._check.attempt(email.canonical, password, source=source, device_token=request.device_token)
        logged_in = await self._login(attempt, device, new_password=request.new_password)
        grant = logged_in.grant
        return auth_pb2.LoginResponse(
            access_token=grant.access.text,
            expire_time=timestamp(grant.access.expire_time),
            user_id=str(logged_in.user_id),
            refresh_token=grant.refresh.text,
            session_expire_time=timestamp(grant.session_expire_time),
            session_id=str(grant.session_id),
            device_token=logged_in.device_token,
        )

    async def Refresh(self, request: auth_pb2.RefreshRequest, _: Context) -> auth_pb2.RefreshResponse:
        """Exchange a refresh token for its successor and a new access token."""
        source, _user_agent = _caller()
        grant = await self._refreshing(request.refresh_token, source=source)
        return auth_pb2.RefreshResponse(
            access_token=grant.access.text,
            expire_time=timestamp(grant.access.expire_time),
            refresh_token=grant.refresh.text,
            session_expire_time=timestamp(grant.session_expire_time),
        )

    async def Logout(self, _: auth_pb2.LogoutRequest, __: Context) -> auth_pb2.LogoutResponse:
        """End the session that the call comes from."""
        await self._logout.current(principal())
        return auth_pb2.LogoutResponse()

    async def LogoutAll(self, request: auth_pb2.LogoutAllRequest, _: Context) -> auth_pb2.LogoutAllResponse:
        """End all sessions of the caller, or the others."""
        count = await self._logout.everywhere(principal(), keep_current=request.keep_current)
        return auth_pb2.LogoutAllResponse(revoked_count=count)

    async def ChangePassword(
        self, request: auth_pb2.ChangePasswordRequest, _: Context
    ) -> auth_pb2.ChangePasswordResponse:
        """Replace one's own password."""
        source, _user_agent = _caller()
        current = Password.parse(request.current_password, field="current_password")
        await self._password_change(
            principal(), current, request.new_password, source=source, device_token=request.device_token
        )
        return auth_pb2.ChangePasswordResponse()

    async def GetMe(self, _: auth_pb2.GetMeRequest, __: Context) -> auth_pb2.GetMeResponse:
        """Return the user whose token the call carries."""
        return auth_pb2.GetMeResponse(user=to_proto(await self._profile.of(principal())))


def _caller() -> tuple[str, str]:
    """Return where the call comes from, and what software it says makes it."""
    call = current()
    return (host(call.source), call.user_agent) if call else ("", "")
