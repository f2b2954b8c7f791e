"""The types of events: each has its counterpart in the proto, and its payload arrives there."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from service.events.journal import host
from service.events.model import Event, Filter, Recorded, UserCreated, UserDisabled, UserUpdated
from service.events.resource import PAYLOADS, to_proto

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.descriptor import FieldDescriptor

SOMEONE = uuid4()


def recorded(kind: str, payload: dict[str, Any], subject: UUID | None = SOMEONE) -> Recorded:
    return Recorded(uuid4(), kind, subject, None, "r", "::1", payload, datetime.now(UTC))


def test_every_type_has_a_payload_of_its_name_with_its_fields() -> None:
    ours = {cls.type.replace(".", "_"): {field.name for field in fields(cls)} for cls in Event.__subclasses__()}
    theirs = {name: {field.name for field in _fields(of)} | {"subject"} for name, of in PAYLOADS.items()}
    assert ours == theirs


def _fields(payload: FieldDescriptor) -> Iterable[FieldDescriptor]:
    assert payload.message_type is not None
    return payload.message_type.fields


@pytest.mark.parametrize(
    "event",
    [
        UserCreated(SOMEONE, roles=("admin",), has_password=True),
        UserUpdated(SOMEONE, fields=("email", "display_name")),
        UserDisabled(SOMEONE),
    ],
)
def test_a_payload_arrives(event: Event) -> None:
    made = to_proto(recorded(event.type, event.payload()))
    payload = getattr(made, event.type.replace(".", "_"))
    for name, value in event.payload().items():
        arrived = getattr(payload, name)
        assert (tuple(arrived) if isinstance(value, tuple) else arrived) == value


def test_a_type_of_a_newer_release_arrives_without_payload() -> None:
    made = to_proto(recorded("user.teleported", {"to": "the moon"}))
    assert (made.type, made.WhichOneof("payload")) == ("user.teleported", None)
    newer = to_proto(recorded("user.updated", {"fields": ["email"], "new_field": 1}))
    assert list(newer.user_updated.fields) == ["email"]


def test_filters() -> None:
    event = recorded("user.disabled", {})
    assert Filter().wants(event)
    assert Filter(subject=SOMEONE, types=frozenset({"user.disabled"})).wants(event)
    assert not Filter(subject=uuid4()).wants(event)
    assert not Filter(actor=SOMEONE).wants(event)
    assert not Filter(types=frozenset({"user.enabled"})).wants(event)


@pytest.mark.parametrize(
    ("peer", "address"),
    [("ipv4:10.0.0.7:5000", "10.0.0.7"), ("ipv6:%5B::1%5D:5000", "::1"), ("unix:", "unix"), ("", "")],
)
def test_a_source_is_an_address_without_its_port(peer: str, address: str) -> None:
    assert host(peer) == address
