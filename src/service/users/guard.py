"""What the users feature asks before an operator overpowers a user. Roles answer, of which it knows nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from service.access import Principal
    from service.db import Connection
    from service.users.model import UserId


class Guard(Protocol):
    """Asked in the transaction that changes a user, by whoever holds the user's row."""

    async def may_act_on(self, conn: Connection, by: Principal, user_id: UserId) -> None:
        """Raise `PermissionMissing` if the user may do what the caller may not."""

    async def keep_an_administrator(self, conn: Connection, user_id: UserId) -> None:
        """Raise `LastAdministrator` if nobody else could administer."""
