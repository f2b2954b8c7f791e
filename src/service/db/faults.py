"""What the driver's errors mean to a caller: psycopg exception → domain error.

Only faults of the surroundings are translated. A programming fault (bad SQL, wrong type, an unmapped constraint) stays
what it is, so that it becomes INTERNAL and is logged with its stack.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import psycopg
from psycopg import errors as pg
from psycopg_pool import TooManyRequests

from service.errors import Conflict, DeadlineExceeded, DependencyUnavailable, Overloaded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from service.errors import DomainError

RACES = (pg.SerializationFailure, pg.DeadlockDetected)
"""Faults after which the same transaction, run again, may succeed."""

_LOST_STATES = (
    pg.AdminShutdown,
    pg.CrashShutdown,
    pg.CannotConnectNow,
    pg.IdleSessionTimeout,
    pg.ReadOnlySqlTransaction,
)
"""The server says this session is over, or (read-only) that a failover made it a replica."""


def translate(
    error: psycopg.Error, raises: Mapping[str, Callable[[], DomainError]] | None = None
) -> DomainError | None:
    """Return the domain error `error` means, or None when it is a programming fault and must be left to raise.

    `raises` maps constraint names to domain errors; it is asked about integrity errors only.
    """
    if isinstance(error, psycopg.IntegrityError):
        make = (raises or {}).get(error.diag.constraint_name or "")
        return make() if make else None
    if isinstance(error, (*RACES, pg.LockNotAvailable)):
        return Conflict()
    if isinstance(error, pg.QueryCanceled):
        return DeadlineExceeded()
    if isinstance(error, TooManyRequests):
        return Overloaded("database_connections")
    return DependencyUnavailable("database") if _is_connection_fault(error) else None


def raise_meaning(error: Exception, raises: Mapping[str, Callable[[], DomainError]] | None = None) -> NoReturn:
    """Raise what `error` means to a caller, or `error` itself; `raises` as in `translate`."""
    meaning = translate(error, raises) if isinstance(error, psycopg.Error) else None
    try:
        if meaning is None:
            raise error
        raise meaning from error
    finally:
        del error, meaning  # their tracebacks hold this frame: as a circle they would keep the call in memory


def _is_connection_fault(error: psycopg.Error) -> bool:
    """Tell faults of the connection and the pool from other operational ones (disk full): those stay what they are."""
    if isinstance(error, _LOST_STATES):
        return True
    state = error.sqlstate or ""
    return isinstance(error, psycopg.OperationalError) and (not state or state.startswith(("08", "57P", "53300")))


def is_race(error: BaseException) -> bool:
    """Tell whether `error` is a lost race, in the driver's words or already translated."""
    return isinstance(error, RACES) or isinstance(error.__cause__, RACES)


def is_lost(error: BaseException, connection: psycopg.AsyncConnection[tuple[object, ...]]) -> bool:
    """Tell whether `error` came of `connection` being dead, so that a fresh connection may do better.

    So may it where a migration changed a column's type: the plans of this one do not fit any more.
    """
    fault = error if isinstance(error, psycopg.Error) else error.__cause__
    if not isinstance(fault, psycopg.Error):
        return False
    if isinstance(fault, pg.FeatureNotSupported):
        return "cached plan" in (fault.diag.message_primary or "")
    return isinstance(fault, _LOST_STATES) or (connection.closed and isinstance(fault, psycopg.OperationalError))
