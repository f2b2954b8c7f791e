"""RevocationService: proto to values, one call, values to proto."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from gatelodge.auth.v1 import revocations_pb2, revocations_pb2_grpc

from service.rpc.timestamps import timestamp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import timedelta

    from service.auth.revocation_stream import RevocationStream
    from service.auth.revocations import Revocation
    from service.paging import PageTokens
    from service.rpc.context import Context


class RevocationServicer(revocations_pb2_grpc.RevocationServiceServicer):
    """Serves ``gatelodge.auth.v1.RevocationService``. `cursors` seals where a watcher is."""

    def __init__(self, *, stream: RevocationStream, window: timedelta, cursors: PageTokens) -> None:
        self._stream = stream
        self._window = window
        self._cursors = cursors

    async def WatchRevocations(
        self, request: revocations_pb2.WatchRevocationsRequest, _: Context
    ) -> AsyncIterator[revocations_pb2.WatchRevocationsResponse]:
        """Stream what is revoked."""
        after = self._position(request.cursor) if request.cursor else None
        async with aclosing(self._stream.watch(after)) as parts:
            async for part in parts:
                yield revocations_pb2.WatchRevocationsResponse(
                    revocations=map(self._to_proto, part.revocations),
                    cursor=self._cursors.seal((part.position,)) if part.position is not None else "",
                    snapshot_complete=part.position is not None,
                )

    def _position(self, cursor: str) -> int:
        (position,) = self._cursors.open(cursor)
        return int(position)

    def _to_proto(self, revocation: Revocation) -> revocations_pb2.Revocation:
        made = revocations_pb2.Revocation(
            revoke_time=timestamp(revocation.revoke_time),
            forget_time=timestamp(revocation.revoke_time + self._window),
        )
        if revocation.session_id is not None:
            made.session_id = str(revocation.session_id)
        else:
            made.user.user_id = str(revocation.user_id)
            made.user.min_version = revocation.min_version
        return made
