"""Making a user's access tokens worthless."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.events.model import UserTokensRevoked
from service.roles.statements import EXPIRE_TOKENS

if TYPE_CHECKING:
    from uuid import UUID

    from service.db import Connection
    from service.events.journal import Journal


class Expiry:
    """Counts up the version that a user's access tokens must have, on the record."""

    def __init__(self, *, journal: Journal) -> None:
        self._journal = journal

    async def __call__(self, conn: Connection, user_id: UUID, reason: str) -> None:
        """End all access tokens of a user, in the caller's transaction."""
        row = await EXPIRE_TOKENS.one(conn, user_id=user_id)
        await self._journal.record(conn, UserTokensRevoked(user_id, version=row.token_version, reason=reason))
