"""Requests of ``gatelodge.users.v1`` as values: masks, filters and orders."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from gatelodge.users.v1 import users_pb2

from service.errors import FieldViolation, InvalidFields, together
from service.users.lifecycle import Changes
from service.users.listing import Filter, Order
from service.users.model import DisplayName, Email, UserState

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

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
    user, named = request.user, _named(request)
    email, name = together(
        lambda: Email.parse(user.email, field="user.email") if "email" in named else None,
        lambda: DisplayName.parse(user.display_name, field="user.display_name") if "display_name" in named else None,
    )
    return Changes(email, name)


def _named(request: users_pb2.UpdateUserRequest) -> set[str]:
    if not request.update_mask.paths:
        return {name for name in _CHANGEABLE if getattr(request.user, name)}
    paths = set(request.update_mask.paths)
    known = {"*", *users_pb2.User.DESCRIPTOR.fields_by_name}
    if unknown := sorted(paths - known):
        raise InvalidFields(
            *(FieldViolation("update_mask", f"names what a user does not have: {path[:64]!r}") for path in unknown[:10])
        )
    return set(_CHANGEABLE) if "*" in paths else paths.intersection(_CHANGEABLE)


def filter_of(request: users_pb2.ListUsersRequest) -> Filter:
    """Return what users must be like to be listed."""
    of = request.filter
    return Filter(
        state=_STATES.get(of.state),
        email_prefix=of.email_prefix,
        role=of.role,
        created_from=_moment("filter.created_from", of.created_from) if of.HasField("created_from") else None,
        created_until=_moment("filter.created_until", of.created_until) if of.HasField("created_until") else None,
        text=of.text,
        show_deleted=request.show_deleted,
    )


def order_of(request: users_pb2.ListUsersRequest) -> Order:
    """Return the order asked for; the oldest first unless another is."""
    return _ORDERS.get(request.order, Order.OLDEST_FIRST)


def _moment(field: str, timestamp: Timestamp) -> datetime:
    try:
        return timestamp.ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidFields(FieldViolation(field, "must be a moment of the years 1 to 9999")) from error
