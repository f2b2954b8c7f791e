"""Reading the record: pages of it, newest first; on from a position, in the order of commits; and pruning it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from service.errors import CursorInvalid, CursorPruned
from service.events.model import Filter, Recorded
from service.events.statements import (
    ALLOW_PRUNING,
    ENDS,
    LIST,
    LIST_ABOUT_SUBJECT,
    LIST_BY_ACTOR,
    LIST_OF_TYPE,
    PRUNE,
    READ_ON,
    RECENT,
    EndsRow,
    EventRow,
    PlacedRow,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from service.db import Connection, Database

_FIRST = datetime.min.replace(tzinfo=UTC)
_LAST = datetime.max.replace(tzinfo=UTC)
_NO_ID = UUID(int=0)
_PRUNED_AT_ONCE = 5000


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the list: before `time`, and at that very time before `event_id`."""

    time: datetime = _LAST
    event_id: UUID = _NO_ID


@dataclass(frozen=True, slots=True)
class Page:
    """Some events, newest first, and where the next page begins; None: there is none."""

    events: tuple[Recorded, ...]
    next: Place | None


class Record:
    """The events as they were recorded."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def page(self, wanted: Filter, *, since: datetime | None, before: Place, size: int) -> Page:
        """Return the `size` newest events that are `wanted`, not older than `since` and before `before`."""
        values: dict[str, Any] = {
            "since": since or _FIRST,
            "before_time": before.time,
            "before_id": before.event_id,
            "types": sorted(wanted.types),
            "most": size + 1,
        }
        rows = await self._database.read(lambda conn: _list(conn, wanted, values))
        last = rows[size - 1] if len(rows) > size else None
        place = None if last is None else Place(last.create_time, last.id)
        return Page(tuple(Recorded(*row) for row in rows[:size]), place)

    async def after(self, position: int, most: int) -> list[Recorded]:
        """Return at most `most` events committed after `position`, in the order of their commits.

        Raises:
            CursorPruned: some of them are gone.

        """
        rows, ends = await self._database.read(lambda conn: _read_on(conn, position, most))
        if position < ends.pruned:
            raise CursorPruned
        return [Recorded(*row) for row in rows]

    async def recent(self, types: Iterable[str], *, since: datetime) -> tuple[list[Recorded], int]:
        """Return the events of some types since a moment, and a position: all up to there are among them.

        The position is read first: what is committed between the two reads is among the events and comes after the
        position as well, twice rather than never.
        """
        rows, ends = await self._database.read(lambda conn: _recent(conn, sorted(types), since))
        return [Recorded(*row) for row in rows], ends.latest

    async def ends(self) -> EndsRow:
        """Return where the record begins and ends now."""
        return await self._database.read(ENDS.one)

    async def check(self, position: int) -> None:
        """Check that one can read on from `position`.

        Raises:
            CursorPruned: events after it are gone.
            CursorInvalid: it lies in the future: the cursor is from another database, or this one lost its last events.

        """
        ends = await self.ends()
        if position < ends.pruned:
            raise CursorPruned
        if position > ends.latest:
            raise CursorInvalid

    async def prune(self, before: datetime) -> int:
        """Remove events older than `before`, some thousand at a time; return how many. 0: there are no more."""
        return await self._database.transact(lambda conn: _prune(conn, before))


async def _list(conn: Connection, wanted: Filter, values: dict[str, Any]) -> list[EventRow]:
    """Ask by the filter that leaves the fewest."""
    if wanted.subject is not None:
        return await LIST_ABOUT_SUBJECT.all(conn, subject=wanted.subject, actor=wanted.actor, **values)
    if wanted.actor is not None:
        return await LIST_BY_ACTOR.all(conn, actor=wanted.actor, **values)
    if len(wanted.types) == 1:
        return await LIST_OF_TYPE.all(conn, type=next(iter(wanted.types)), **values)
    return await LIST.all(conn, **values)


async def _read_on(conn: Connection, position: int, most: int) -> tuple[list[PlacedRow], EndsRow]:
    """Read first, then ask what was pruned, so that nothing goes unnoticed in between."""
    rows = await READ_ON.all(conn, after=position, most=most)
    return rows, await ENDS.one(conn)


async def _recent(conn: Connection, types: list[str], since: datetime) -> tuple[list[EventRow], EndsRow]:
    ends = await ENDS.one(conn)
    return await RECENT.all(conn, types=types, since=since), ends


async def _prune(conn: Connection, before: datetime) -> int:
    await ALLOW_PRUNING.one(conn)
    return (await PRUNE.one(conn, before=before, most=_PRUNED_AT_ONCE)).removed
