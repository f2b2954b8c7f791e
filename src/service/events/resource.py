"""An event as callers see it: the resource of ``gatelodge.events.v1``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatelodge.events.v1 import events_pb2
from google.protobuf.json_format import ParseDict

from service.rpc.timestamps import timestamp

if TYPE_CHECKING:
    from uuid import UUID

    from service.events.model import Recorded

PAYLOADS = {field.name: field for field in events_pb2.Event.DESCRIPTOR.oneofs_by_name["payload"].fields}
"""The payloads by their names, which are their types' with ``_`` for ``.``."""


def to_proto(event: Recorded) -> events_pb2.Event:
    """Return the resource that callers see. An event of a newer release's type has its type and no payload."""
    made = events_pb2.Event(
        id=str(event.id),
        type=event.type,
        user_id=_text(event.subject),
        actor_id=_text(event.actor),
        request_id=event.request_id,
        source=event.source,
        create_time=timestamp(event.create_time),
    )
    name = event.type.replace(".", "_")
    if name in PAYLOADS:
        payload = getattr(made, name)
        payload.SetInParent()
        ParseDict(event.payload, payload, ignore_unknown_fields=True)
    return made


def _text(user_id: UUID | None) -> str:
    return "" if user_id is None else str(user_id)
