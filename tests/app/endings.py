"""Everything that ends access tokens before their time, each done once to a user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jwt
from gatelodge.access.v1 import roles_pb2
from gatelodge.auth.v1 import auth_pb2, keys_pb2, sessions_pb2, tokens_pb2
from gatelodge.users.v1 import users_pb2
from tests.app.client import PASSWORD, Client, Login

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ROLE = "reader"


@dataclass
class Scene:
    """What an ending takes place in."""

    client: Client
    """The replica at which it is done."""
    user: Login
    """Whose token ends."""
    other: Login
    """The same user's login elsewhere."""
    root: Login


async def log_out(at: Scene) -> None:
    await at.client.auth.Logout(auth_pb2.LogoutRequest(), metadata=at.user.metadata)


async def log_out_everywhere(at: Scene) -> None:
    await at.client.auth.LogoutAll(auth_pb2.LogoutAllRequest(), metadata=at.user.metadata)


async def log_out_elsewhere(at: Scene) -> None:
    await at.client.auth.LogoutAll(auth_pb2.LogoutAllRequest(keep_current=True), metadata=at.other.metadata)


async def revoke_session(at: Scene) -> None:
    request = sessions_pb2.RevokeSessionRequest(user_id=at.user.user_id, session_id=at.user.session_id)
    await at.client.sessions.RevokeSession(request, metadata=at.root.metadata)


async def revoke_token(at: Scene) -> None:
    await at.client.tokens.RevokeToken(tokens_pb2.RevokeTokenRequest(token=at.user.token), metadata=at.root.metadata)


async def disable(at: Scene) -> None:
    request = users_pb2.DisableUserRequest(user_id=at.user.user_id)
    await at.client.users.DisableUser(request, metadata=at.root.metadata)


async def delete(at: Scene) -> None:
    await at.client.users.DeleteUser(users_pb2.DeleteUserRequest(user_id=at.user.user_id), metadata=at.root.metadata)


async def erase(at: Scene) -> None:
    await at.client.users.EraseUser(users_pb2.EraseUserRequest(user_id=at.user.user_id), metadata=at.root.metadata)


async def change_password(at: Scene) -> None:
    request = auth_pb2.ChangePasswordRequest(current_password=PASSWORD, new_password=f"{PASSWORD} once more")
    await at.client.auth.ChangePassword(request, metadata=at.other.metadata)


async def set_password(at: Scene) -> None:
    request = users_pb2.SetPasswordRequest(user_id=at.user.user_id, password=f"{PASSWORD} once more")
    await at.client.users.SetPassword(request, metadata=at.root.metadata)


async def grant_role(at: Scene) -> None:
    """The role must be there; the user must not hold it."""
    request = roles_pb2.GrantRoleRequest(user_id=at.user.user_id, role=ROLE)
    await at.client.roles.GrantRole(request, metadata=at.root.metadata)


async def revoke_role(at: Scene) -> None:
    """The user must hold the role."""
    request = roles_pb2.RevokeRoleRequest(user_id=at.user.user_id, role=ROLE)
    await at.client.roles.RevokeRole(request, metadata=at.root.metadata)


async def remove_key(at: Scene) -> None:
    """The key must be retired, and the administrator's token be signed with another."""
    request = keys_pb2.RetireSigningKeyRequest(key_id=str(jwt.get_unverified_header(at.user.token)["kid"]))
    await at.client.keys.RetireSigningKey(request, metadata=at.root.metadata)


OF_ONE_SESSION = (log_out, log_out_elsewhere, revoke_session, revoke_token, change_password)
"""The user's other login lives."""
OF_ALL_SESSIONS = (log_out_everywhere, disable, delete, erase, set_password, grant_role, revoke_role, remove_key)
ENDINGS: tuple[Callable[[Scene], Awaitable[None]], ...] = OF_ONE_SESSION + OF_ALL_SESSIONS
