"""Sessions as their user sees them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

from service.auth.sessions.model import Session
from service.auth.sessions.statements import FIND, LIST
from service.paging import page_size

if TYPE_CHECKING:
    from service.auth.sessions.model import SessionTerms
    from service.clock import Clock
    from service.db import Database
    from service.paging import PageTokens

DEFAULT_PAGE = 50
LARGEST_PAGE = 100
_BEFORE_ALL = (datetime.max.replace(tzinfo=UTC), UUID(int=2**128 - 1))


@dataclass(frozen=True, slots=True)
class Page:
    """Some sessions, and the token for the next ones; empty on the last page."""

    sessions: tuple[Session, ...]
    next_token: str


class SessionListing:
    """Shows sessions. `tokens` seals where a page begins, bound to the user."""

    def __init__(self, *, database: Database, tokens: PageTokens, clock: Clock, terms: SessionTerms) -> None:
        self._database = database
        self._tokens = tokens
        self._clock = clock
        self._terms = terms

    async def page(self, user_id: UUID, *, size: int, token: str) -> Page:
        """Return the page of living sessions, newest first, that `token` begins, or the first one.

        `size` 0 is 50, more than 100 is 100.

        Raises:
            InvalidPageToken: the token is not ours, or of another user.

        """
        limit = page_size(size, default=DEFAULT_PAGE, most=LARGEST_PAGE)
        bound_to = b"sessions" + user_id.bytes
        after_time, after_id = _opened(self._tokens.open(token, bound_to)) if token else _BEFORE_ALL
        now = self._clock()
        rows = await self._database.read(
            lambda conn: LIST.all(
                conn,
                user_id=user_id,
                now=now,
                idle_since=now - self._terms.idle,
                after_time=after_time,
                after_id=after_id,
                limit=limit + 1,
            )
        )
        shown = tuple(Session.from_row(row, self._terms) for row in rows[:limit])
        if len(rows) <= limit:
            return Page(shown, "")
        return Page(shown, self._tokens.seal([shown[-1].create_time.isoformat(), str(shown[-1].id)], bound_to))

    async def get(self, user_id: UUID, session_id: UUID) -> Session:
        """Return one session, whether it lives or has ended.

        Raises:
            SessionNotFound: the user has none such.

        """
        row = await self._database.read(lambda conn: FIND.one(conn, user_id=user_id, session_id=session_id))
        return Session.from_row(row, self._terms)


def _opened(position: tuple[str | int, ...]) -> tuple[datetime, UUID]:
    return datetime.fromisoformat(str(position[0])), UUID(str(position[1]))
