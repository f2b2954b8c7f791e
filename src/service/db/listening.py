"""Hearing PostgreSQL's notifications, as wake-ups only: nothing may depend on one that does not come."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.db.lending import PoolOptions

_LOG = logging.getLogger(__name__)
_LOOK = 1.0


class Listener:
    """Listens on a connection of its own, which a pool cannot lend for so long.

    Args:
        conninfo: libpq connection string or URL.
        options: the pool's, for the connection.
        channel: what to listen to.

    """

    def __init__(self, conninfo: str, options: PoolOptions, channel: str) -> None:
        self._conninfo = conninfo
        self._options = options
        self._channel = channel

    async def listen(self, tell: Callable[[], None], *, while_: Callable[[], bool]) -> None:
        """Call `tell` at each notification, as long as `while_` says; return as well when the connection is lost."""
        try:
            async with await psycopg.AsyncConnection.connect(self._conninfo, **self._options.connection()) as conn:
                await conn.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
                while while_():
                    async for _ in conn.notifies(timeout=_LOOK, stop_after=1):
                        tell()
        except psycopg.OperationalError as error:
            _LOG.debug("no notifications for now: %s", type(error).__name__)
