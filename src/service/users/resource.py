"""A user as callers see it: the resource of ``gatelodge.users.v1``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatelodge.users.v1 import users_pb2

from service.rpc.timestamps import timestamp
from service.users.model import UserState

if TYPE_CHECKING:
    from service.users.model import User

_STATES = {
    UserState.ACTIVE: users_pb2.User.STATE_ACTIVE,
    UserState.DISABLED: users_pb2.User.STATE_DISABLED,
}

OBSTACLES = {
    "DISABLED": users_pb2.ExplainLoginResponse.OBSTACLE_DISABLED,
    "DELETED": users_pb2.ExplainLoginResponse.OBSTACLE_DELETED,
    "NO_PASSWORD": users_pb2.ExplainLoginResponse.OBSTACLE_NO_PASSWORD,
    "THROTTLED": users_pb2.ExplainLoginResponse.OBSTACLE_THROTTLED,
    "PASSWORD_CHANGE_REQUIRED": users_pb2.ExplainLoginResponse.OBSTACLE_PASSWORD_CHANGE_REQUIRED,
}
"""What keeps users from logging in, by the names that auth gives it."""


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
        purge_time=timestamp(user.purge_time),
    )
