"""The events feature, and what the server tells of itself."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from gatelodge.events.v1 import events_pb2_grpc
from gatelodge.info.v1 import info_pb2_grpc

from service.events.feed import CHANNEL
from service.events.retention import Retention
from service.events.servicer import EventServicer
from service.info.servicer import InfoServicer
from service.jobs import Job
from service.wiring.feature import Feature

if TYPE_CHECKING:
    from service.build import Build
    from service.wiring.ground import Ground


def events(ground: Ground) -> Feature:
    """Build it."""
    servicer = EventServicer(
        record=ground.record, feed=ground.feed, pages=ground.pages, cursors=ground.cursors("event-cursors")
    )
    keep = timedelta(days=ground.settings.events.retention_days)
    retention = Retention(record=ground.record, clock=ground.clock, keep=keep)
    return Feature(
        services={
            "gatelodge.events.v1.EventService": partial(events_pb2_grpc.add_EventServiceServicer_to_server, servicer)
        },
        jobs=(Job("events.prune", timedelta(hours=6), retention.prune),),
        tasks={
            "events": ground.feed.run,
            "event-notifications": partial(ground.feed.listen, ground.database.listener(CHANNEL)),
            "clock": ground.database_clock.follow,
        },
    )


def info(ground: Ground, build: Build) -> Feature:
    """Build what tells callers which server answers."""
    servicer = InfoServicer(build=build, start_time=ground.clock())
    return Feature(
        services={"gatelodge.info.v1.InfoService": partial(info_pb2_grpc.add_InfoServiceServicer_to_server, servicer)}
    )
