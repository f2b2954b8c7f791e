"""Requests of ``gatelodge.users.v1`` as values: masks, filters and orders."""

from __future__ import annotations

from gatelodge.users.v1 import users_pb2

from service.errors import together
from service.rpc.masks import named
from service.rpc.timestamps import moment
from service.users.lifecycle import Changes
from service.users.listing import Filter, Order
from service.users.model import DisplayName, Email, UserState

_CHANGEABLE = ("email", "display_name")
_STATES = {users_pb2.User.STATE_ACTIVE: UserState.ACTIVE, users_pb2.User.STATE_DISABLED: UserState.DISABLED}
_ORDERS = {
    users_pb2.ListUsersRequest.ORDER_CREATE_TIME_DESC: Order.NEWEST_FIRST,
    users_pb2.ListUsersRequest.ORDER_EMAIL_ASC: Order.EMAIL,
    users_pb2.ListUsersRequest.ORDER_EMAIL_DESC: Order.EMAIL_BACKWARDS,
}


def changes(request: users_pb2.UpdateUserRequest) -> Changes:
    """Return what is to change: the fields in the mask, without one those that are not empty (AIP-134, AIP-161).

    Raises:
        InvalidFields: the mask names a field that a user does not have, or a value is bad.

    """
    user = request.user
    asked = named(request.update_mask.paths, user, _CHANGEABLE)
    email, name = together(
        lambda: Email.parse(user.email, field="user.email") if "email" in asked else None,
        lambda: DisplayName.parse(user.display_name, field="user.display_name") if "display_name" in asked else None,
    )
    return Changes(email, name)


def filter_of(request: users_pb2.ListUsersRequest) -> Filter:
    """Return what users must be like to be listed."""
    of = request.filter
    return Filter(
        state=_STATES.get(of.state),
        email_prefix=of.email_prefix,
        role=of.role,
        created_from=moment(of.created_from, "filter.created_from") if of.HasField("created_from") else None,
        created_until=moment(of.created_until, "filter.created_until") if of.HasField("created_until") else None,
        text=of.text,
        show_deleted=request.show_deleted,
    )


def order_of(request: users_pb2.ListUsersRequest) -> Order:
    """Return the order asked for; the oldest first unless another is."""
    return _ORDERS.get(request.order, Order.OLDEST_FIRST)
