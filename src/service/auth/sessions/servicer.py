"""SessionService: proto to values, one call, values to proto."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from gatelodge.auth.v1 import sessions_pb2, sessions_pb2_grpc

from service.auth.sessions.model import session_id
from service.auth.sessions.resource import to_proto
from service.call import principal
from service.users.model import UserId

if TYPE_CHECKING:
    from service.auth.sessions.listing import SessionListing
    from service.auth.sessions.logout import Logout
    from service.rpc.context import Context


class SessionServicer(sessions_pb2_grpc.SessionServiceServicer):
    """Serves ``gatelodge.auth.v1.SessionService``."""

    def __init__(self, *, listing: SessionListing, logout: Logout) -> None:
        self._listing = listing
        self._logout = logout

    async def ListSessions(
        self, request: sessions_pb2.ListSessionsRequest, _: Context
    ) -> sessions_pb2.ListSessionsResponse:
        """Return a page of a user's living sessions."""
        page = await self._listing.page(
            UserId.parse(request.user_id).value, size=request.page_size, token=request.page_token
        )
        shown = partial(to_proto, current=principal().session_id)
        return sessions_pb2.ListSessionsResponse(sessions=map(shown, page.sessions), next_page_token=page.next_token)

    async def GetSession(self, request: sessions_pb2.GetSessionRequest, _: Context) -> sessions_pb2.GetSessionResponse:
        """Return one session."""
        session = await self._listing.get(UserId.parse(request.user_id).value, session_id(request.session_id))
        return sessions_pb2.GetSessionResponse(session=to_proto(session, current=principal().session_id))

    async def RevokeSession(
        self, request: sessions_pb2.RevokeSessionRequest, _: Context
    ) -> sessions_pb2.RevokeSessionResponse:
        """End one session."""
        session = await self._logout.revoke(
            UserId.parse(request.user_id), session_id(request.session_id), by=principal()
        )
        return sessions_pb2.RevokeSessionResponse(session=to_proto(session, current=principal().session_id))
