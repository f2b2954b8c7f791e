"""The events feature's SQL. Each statement is proven against the migrated schema before it ships."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from service.db.statement import Command, Statement


class EventRow(NamedTuple):
    """A row of ``events``."""

    id: UUID
    type: str
    subject: UUID | None
    actor: UUID | None
    request_id: str
    source: str
    payload: dict[str, Any]
    create_time: datetime


class PlacedRow(NamedTuple):
    """A row of ``events`` with its place in the order of commits."""

    id: UUID
    type: str
    subject: UUID | None
    actor: UUID | None
    request_id: str
    source: str
    payload: dict[str, Any]
    create_time: datetime
    position: int


class EndsRow(NamedTuple):
    """Where the record begins and ends: positions up to `pruned` may be gone, `latest` is the last committed."""

    pruned: int
    latest: int


class PrunedRow(NamedTuple):
    """How many events a round of pruning removed."""

    removed: int


class SettingRow(NamedTuple):
    """A setting of the transaction."""

    value: str


INSERT = Command(
    "events.insert",
    """
    INSERT INTO events (id, type, subject, actor, request_id, source, payload)
    VALUES (%(event_id)s, %(type)s, %(subject)s, %(actor)s, %(request_id)s, %(source)s, %(payload)s)
    """,
    params={
        "event_id": UUID,
        "type": str,
        "subject": UUID | None,
        "actor": UUID | None,
        "request_id": str,
        "source": str,
        "payload": dict[str, Any],
    },
)

# One statement for each filter that has an index: "or the filter is null" would keep a prepared plan from using it.
_LIST = """
    SELECT id, type, subject, actor, request_id, source, payload, create_time
    FROM events
    WHERE create_time >= %(since)s
      AND (create_time, id) < (%(before_time)s, %(before_id)s)
      AND (cardinality(%(types)s::text[]) = 0 OR type = ANY(%(types)s::text[]))
    """
_LAST = " ORDER BY create_time DESC, id DESC LIMIT %(most)s"
_LIST_PARAMS = {"since": datetime, "before_time": datetime, "before_id": UUID, "types": list[str], "most": int}

LIST = Statement("events.list", _LIST + _LAST, row=EventRow, params=_LIST_PARAMS)

LIST_OF_TYPE = Statement(
    "events.list_of_type",
    _LIST + "AND type = %(type)s" + _LAST,
    row=EventRow,
    params=_LIST_PARAMS | {"type": str},
)

LIST_BY_ACTOR = Statement(
    "events.list_by_actor",
    _LIST + "AND actor = %(actor)s" + _LAST,
    row=EventRow,
    params=_LIST_PARAMS | {"actor": UUID},
)

LIST_ABOUT_SUBJECT = Statement(
    "events.list_about_subject",
    _LIST + "AND subject = %(subject)s AND (%(actor)s::uuid IS NULL OR actor = %(actor)s)" + _LAST,
    row=EventRow,
    params=_LIST_PARAMS | {"subject": UUID, "actor": UUID | None},
)

READ_ON = Statement(
    "events.read_on",
    """
    SELECT events.id, events.type, events.subject, events.actor, events.request_id, events.source, events.payload,
        events.create_time, event_positions.position
    FROM event_positions
    JOIN events ON events.id = event_positions.event_id
    WHERE event_positions.position > %(after)s
    ORDER BY event_positions.position
    LIMIT %(most)s
    """,
    row=PlacedRow,
    params={"after": int, "most": int},
    not_null={
        "id",
        "type",
        "request_id",
        "source",
        "payload",
        "create_time",
        "position",
    },
)

RECENT = Statement(
    "events.recent",
    """
    SELECT id, type, subject, actor, request_id, source, payload, create_time
    FROM events
    WHERE type = ANY(%(types)s) AND create_time >= %(since)s
    ORDER BY create_time, id
    """,
    row=EventRow,
    params={"types": list[str], "since": datetime},
)

ENDS = Statement(
    "events.ends",
    """
    SELECT through AS pruned, greatest(through, (SELECT max(position) FROM event_positions)) AS latest
    FROM events_pruned
    """,
    row=EndsRow,
    not_null={"latest"},
)

ALLOW_PRUNING = Statement(
    "events.allow_pruning",
    "SELECT set_config('gatelodge.pruning', 'on', true) AS value",
    row=SettingRow,
    not_null={"value"},
)

# Only a beginning of the record may go, or a cursor would not tell whether something after it is missing.
PRUNE = Statement(
    "events.prune",
    """
    WITH head AS (
        SELECT event_positions.position, event_positions.event_id, events.create_time < %(before)s AS old
        FROM event_positions
        JOIN events ON events.id = event_positions.event_id
        ORDER BY event_positions.position
        LIMIT %(most)s
    ), removed AS (
        DELETE FROM event_positions USING head
        WHERE event_positions.position = head.position
          AND head.position < coalesce((SELECT min(position) FROM head WHERE NOT old), 9223372036854775807)
        RETURNING event_positions.position, event_positions.event_id
    ), emptied AS (
        DELETE FROM events USING removed WHERE events.id = removed.event_id
    ), marked AS (
        UPDATE events_pruned SET through = greatest(through, (SELECT max(position) FROM removed))
    )
    SELECT count(*) AS removed FROM removed
    """,
    row=PrunedRow,
    params={"before": datetime, "most": int},
    not_null={"removed"},
)
