"""InfoService: which build answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatelodge.info.v1 import info_pb2, info_pb2_grpc

from service.rpc.timestamps import timestamp

if TYPE_CHECKING:
    from datetime import datetime

    from service.build import Build
    from service.rpc.context import Context


class InfoServicer(info_pb2_grpc.InfoServiceServicer):
    """Serves ``gatelodge.info.v1.InfoService``."""

    def __init__(self, *, build: Build, start_time: datetime) -> None:
        self._answer = info_pb2.GetServerInfoResponse(
            version=build.version, commit=build.commit, start_time=timestamp(start_time)
        )

    async def GetServerInfo(self, _: info_pb2.GetServerInfoRequest, __: Context) -> info_pb2.GetServerInfoResponse:
        """Return the version, commit and start time."""
        return self._answer
