"""Lists of users: filters, orders, pages. A page is found by its first key, so every page costs the same (AIP-158)."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any
from uuid import UUID

from service.paging import page_size
from service.users.directory import from_row
from service.users.statements import (
    LIST_BY_EMAIL,
    LIST_BY_EMAIL_BACKWARDS,
    LIST_NEWEST_FIRST,
    LIST_OLDEST_FIRST,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from service.db import Database, Statement
    from service.paging import PageTokens
    from service.users.model import User, UserState
    from service.users.statements import UserRow

DEFAULT_PAGE = 50
LARGEST_PAGE = 1000


class Order(Enum):
    """How users are ordered."""

    OLDEST_FIRST = "create_time"
    NEWEST_FIRST = "create_time desc"
    EMAIL = "email"
    EMAIL_BACKWARDS = "email desc"


_STATEMENTS: Mapping[Order, Statement[UserRow]] = {
    Order.OLDEST_FIRST: LIST_OLDEST_FIRST,
    Order.NEWEST_FIRST: LIST_NEWEST_FIRST,
    Order.EMAIL: LIST_BY_EMAIL,
    Order.EMAIL_BACKWARDS: LIST_BY_EMAIL_BACKWARDS,
}
_BEFORE_ALL: Mapping[Order, dict[str, Any]] = {
    Order.OLDEST_FIRST: {"after_time": datetime(1, 1, 1, tzinfo=UTC), "after_id": UUID(int=0)},
    Order.NEWEST_FIRST: {"after_time": datetime(9999, 12, 31, tzinfo=UTC), "after_id": UUID(int=2**128 - 1)},
    Order.EMAIL: {"after_email": ""},
    Order.EMAIL_BACKWARDS: {"after_email": None},
}


@dataclass(frozen=True, slots=True)
class Filter:
    """What users must be like to be listed; None and empty let everyone through."""

    state: UserState | None = None
    email_prefix: str = ""
    role: str = ""
    created_from: datetime | None = None
    created_until: datetime | None = None
    text: str = ""
    show_deleted: bool = False

    def values(self) -> dict[str, Any]:
        """Return the parameters of the list statements."""
        prefix = unicodedata.normalize("NFC", self.email_prefix.casefold())
        return {
            "state": self.state,
            "email_pattern": f"{_literal(prefix)}%" if prefix else None,
            "role": self.role or None,
            "created_from": self.created_from,
            "created_until": self.created_until,
            "text_pattern": f"%{_literal(unicodedata.normalize('NFC', self.text))}%" if self.text else None,
            "show_deleted": self.show_deleted,
        }


@dataclass(frozen=True, slots=True)
class Page:
    """Some users, and the token for the next ones; empty on the last page."""

    users: tuple[User, ...]
    next_token: str


class Listing:
    """Lists users. `tokens` seals where a page begins, bound to the filter and the order it was given out for."""

    def __init__(self, *, database: Database, tokens: PageTokens) -> None:
        self._database = database
        self._tokens = tokens

    async def page(self, matching: Filter, order: Order, *, size: int, token: str) -> Page:
        """Return the page that `token` begins, or the first one; `size` 0 is 50, more than 1000 is 1000.

        Raises:
            InvalidPageToken: the token is not ours, or of another filter or order.

        """
        limit = page_size(size, default=DEFAULT_PAGE, most=LARGEST_PAGE)
        bound_to = repr((matching, order)).encode()
        after = _opened(order, self._tokens.open(token, bound_to)) if token else _BEFORE_ALL[order]
        values = matching.values() | after | {"limit": limit + 1}
        rows = await self._database.read(lambda conn: _STATEMENTS[order].all(conn, **values))
        more = len(rows) > limit
        next_token = self._tokens.seal(_position(order, rows[limit - 1]), bound_to) if more else ""
        return Page(tuple(from_row(row) for row in rows[:limit]), next_token)


def _position(order: Order, row: UserRow) -> list[str]:
    if order in {Order.EMAIL, Order.EMAIL_BACKWARDS}:
        return [row.email_canonical]
    return [row.create_time.isoformat(), str(row.id)]


def _opened(order: Order, position: Sequence[str | int]) -> dict[str, Any]:
    if order in {Order.EMAIL, Order.EMAIL_BACKWARDS}:
        return {"after_email": position[0]}
    return {"after_time": datetime.fromisoformat(str(position[0])), "after_id": UUID(str(position[1]))}


def _literal(text: str) -> str:
    r"""Return `text` for a LIKE pattern that takes it literally; ``\`` is LIKE's escape."""
    return text.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
