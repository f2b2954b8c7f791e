"""Moments between Python and protobuf."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

from google.protobuf.timestamp_pb2 import Timestamp

if TYPE_CHECKING:
    from datetime import datetime


@overload
def timestamp(moment: datetime) -> Timestamp: ...
@overload
def timestamp(moment: datetime | None) -> Timestamp | None: ...
def timestamp(moment: datetime | None) -> Timestamp | None:
    """Return an aware datetime as a Timestamp; None, which leaves a field unset, stays None."""
    if moment is None:
        return None
    made = Timestamp()
    made.FromDatetime(moment)
    return made
