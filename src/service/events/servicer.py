"""EventService: proto to values, one call, values to proto."""

from __future__ import annotations

from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from gatelodge.events.v1 import events_pb2, events_pb2_grpc

from service.events.model import Filter
from service.events.record import Place
from service.events.resource import to_proto
from service.paging import page_size
from service.rpc.timestamps import moment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.events.feed import Feed
    from service.events.record import Record
    from service.paging import PageTokens
    from service.rpc.context import Context

_DEFAULT_PAGE = 100
_LARGEST_PAGE = 1000


class EventServicer(events_pb2_grpc.EventServiceServicer):
    """Serves ``gatelodge.events.v1.EventService``. `pages` seals page tokens, `cursors` where a watcher is."""

    def __init__(self, *, record: Record, feed: Feed, pages: PageTokens, cursors: PageTokens) -> None:
        self._record = record
        self._feed = feed
        self._pages = pages
        self._cursors = cursors

    async def ListEvents(self, request: events_pb2.ListEventsRequest, _: Context) -> events_pb2.ListEventsResponse:
        """Return a page of events."""
        size = page_size(request.page_size, default=_DEFAULT_PAGE, most=_LARGEST_PAGE)
        bound = _filters(request)
        page = await self._record.page(
            _filter(request),
            since=moment(request.start_time, "start_time") if request.HasField("start_time") else None,
            before=self._place(request, bound),
            size=size,
        )
        token = "" if page.next is None else self._pages.seal(_packed(page.next), bound)
        return events_pb2.ListEventsResponse(events=map(to_proto, page.events), next_page_token=token)

    async def WatchEvents(
        self, request: events_pb2.WatchEventsRequest, _: Context
    ) -> AsyncIterator[events_pb2.WatchEventsResponse]:
        """Stream events."""
        async with aclosing(self._feed.watch(await self._start(request), _filter(request))) as batches:
            async for batch in batches:
                yield events_pb2.WatchEventsResponse(
                    events=map(to_proto, batch.events), cursor=self._cursors.seal((batch.position,))
                )

    def _place(self, request: events_pb2.ListEventsRequest, bound: bytes) -> Place:
        if request.page_token:
            time, event_id = self._pages.open(request.page_token, bound)
            return Place(datetime.fromisoformat(str(time)), UUID(str(event_id)))
        return Place(moment(request.end_time, "end_time")) if request.HasField("end_time") else Place()

    async def _start(self, request: events_pb2.WatchEventsRequest) -> int:
        if request.WhichOneof("start") == "cursor":
            (position,) = self._cursors.open(request.cursor)
            return int(position)
        ends = await self._record.ends()
        return ends.latest if request.latest else ends.pruned


def _filter(request: events_pb2.ListEventsRequest | events_pb2.WatchEventsRequest) -> Filter:
    return Filter(
        subject=UUID(request.user_id) if request.user_id else None,
        actor=UUID(request.actor_id) if request.actor_id else None,
        types=frozenset(request.types),
    )


def _filters(request: events_pb2.ListEventsRequest) -> bytes:
    """Return what a page token is bound to: the request without its paging."""
    bare = events_pb2.ListEventsRequest()
    bare.CopyFrom(request)
    bare.ClearField("page_size")
    bare.ClearField("page_token")
    return bare.DESCRIPTOR.full_name.encode() + b"\0" + bare.SerializeToString(deterministic=True)


def _packed(place: Place) -> tuple[str, str]:
    return place.time.isoformat(), str(place.event_id)
