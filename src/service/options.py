"""From the settings tree to the narrow arguments that the rooms take: no room but the root sees settings."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING

from service.auth.hashing import Argon2Parameters
from service.auth.tokens import TokenTerms
from service.db.lending import PoolOptions
from service.rpc.server import Transport

if TYPE_CHECKING:
    from service.settings import Auth, Database, Server


def pool(settings: Database) -> PoolOptions:
    """Return how the pool behaves."""
    return PoolOptions(
        min_size=settings.pool_min_size,
        max_size=settings.pool_max_size,
        acquire_timeout=settings.acquire_timeout_seconds,
        max_idle=settings.max_idle_seconds,
        max_lifetime=settings.max_lifetime_seconds,
        max_waiting=settings.max_waiting,
        # PgBouncer takes no startup options: there the role sets the timeout.
        statement_timeout=settings.statement_timeout_seconds if settings.prepare_statements else None,
        prepare_threshold=0 if settings.prepare_statements else None,
    )


def transport(settings: Server) -> Transport:
    """Return what the transport allows."""
    return Transport(max_message_bytes=settings.max_message_bytes, max_metadata_bytes=settings.max_metadata_bytes)


def terms(settings: Auth) -> TokenTerms:
    """Return who issues tokens, for whom and for how long."""
    return TokenTerms(settings.issuer, settings.audience, timedelta(seconds=settings.access_token_ttl_seconds))


def argon2(settings: Auth) -> Argon2Parameters:
    """Return the cost of a hash."""
    cost = settings.argon2
    return Argon2Parameters(cost.memory_kib, cost.time_cost, cost.parallelism)


def hash_threads(settings: Auth) -> int:
    """Return how many hashes are computed at once: one for each core this process may use, unless set."""
    return settings.argon2.hash_threads or len(os.sched_getaffinity(0))


def pepper(settings: Auth) -> bytes | None:
    """Return the key of password hashes, if any."""
    secret = settings.password_pepper
    return secret.get_secret_value().encode() if secret else None
