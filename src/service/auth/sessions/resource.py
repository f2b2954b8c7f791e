"""Sessions as callers see them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatelodge.auth.v1 import sessions_pb2

from service.rpc.timestamps import timestamp

if TYPE_CHECKING:
    from uuid import UUID

    from service.auth.sessions.model import Session


def to_proto(session: Session, *, current: UUID | None) -> sessions_pb2.Session:
    """Return the resource; `current` is the session that the call comes from."""
    return sessions_pb2.Session(
        id=str(session.id),
        user_id=str(session.user_id),
        device_label=session.device_label,
        user_agent=session.user_agent,
        source=session.source,
        last_source=session.last_source,
        create_time=timestamp(session.create_time),
        last_use_time=timestamp(session.last_use_time),
        expire_time=timestamp(session.expire_time),
        idle_expire_time=timestamp(session.idle_expire_time),
        revoke_time=timestamp(session.revoke_time),
        current=session.id == current,
    )
