"""All users as one stream: a server-side cursor, so that a million of them take no more memory than some hundred."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from service.errors import Overloaded
from service.users.directory import from_row
from service.users.statements import EXPORT, UserRow

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from service.db import Database
    from service.paging import PageTokens
    from service.users.model import User

_BATCH = 500
_AT_ONCE = 2
"""Exports that may run: each holds a connection for as long as its reader takes, the one place where that is so."""
_BOUND_TO = b"gatelodge.users.v1.ExportUsersRequest"
_BEGINNING: dict[str, Any] = {"after_time": datetime(1, 1, 1, tzinfo=UTC), "after_id": UUID(int=0)}


@dataclass(frozen=True, slots=True)
class Batch:
    """Some users, and where the stream goes on after them."""

    users: tuple[User, ...]
    cursor: str


class Export:
    """Streams users in the order in which they were made."""

    def __init__(self, *, database: Database, tokens: PageTokens) -> None:
        self._database = database
        self._tokens = tokens
        self._running = 0

    async def batches(self, *, cursor: str, show_deleted: bool) -> AsyncGenerator[Batch, None]:
        """Yield every user after `cursor`, as of one moment. Close it (``contextlib.aclosing``) when leaving it early.

        Raises:
            InvalidPageToken: the cursor is not ours.
            Overloaded: too many exports are running.

        """
        values = self._after(cursor) | {"show_deleted": show_deleted}
        if self._running >= _AT_ONCE:
            raise Overloaded("exports", retry_after=10.0)
        self._running += 1
        try:
            rows = self._database.stream(lambda conn: EXPORT.stream(conn, batch=_BATCH, **values))
            async with aclosing(rows):
                waiting: list[UserRow] = []
                async for row in rows:
                    waiting.append(row)
                    if len(waiting) == _BATCH:
                        yield self._batch(waiting)
                        waiting = []
                if waiting:
                    yield self._batch(waiting)
        finally:
            self._running -= 1

    def _after(self, cursor: str) -> dict[str, Any]:
        if not cursor:
            return dict(_BEGINNING)
        time, user_id = self._tokens.open(cursor, _BOUND_TO)
        return {"after_time": datetime.fromisoformat(str(time)), "after_id": UUID(str(user_id))}

    def _batch(self, rows: list[UserRow]) -> Batch:
        last = rows[-1]
        cursor = self._tokens.seal([last.create_time.isoformat(), str(last.id)], _BOUND_TO)
        return Batch(tuple(from_row(row) for row in rows), cursor)
