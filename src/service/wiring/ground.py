"""What every feature stands on: the database, the clock, the secrets, the record, and what tells of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from uuid_utils.compat import uuid7

from service import development, options
from service.auth.key_ring import KeyRing
from service.auth.key_rotation import KeyRotation
from service.auth.key_store import KeyStore
from service.auth.root import root_secret
from service.auth.sealing import Seal
from service.db import Answers, Database
from service.db.clock import DatabaseClock
from service.errors import CursorInvalid
from service.events.feed import Feed
from service.events.journal import Journal
from service.events.record import Record
from service.operations import prepare_schema
from service.paging import PageTokens, derived_key

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from service.auth.hashing import Hasher
    from service.auth.passwords import PasswordPolicy
    from service.clock import Clock
    from service.settings import Settings
    from service.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """Built once, shared by all features."""

    settings: Settings
    metrics: Metrics
    database: Database
    database_clock: DatabaseClock
    clock: Clock
    """The database's, unless the caller brought one."""
    hasher: Hasher
    policy: PasswordPolicy
    root: bytes
    """What other keys are derived from."""
    rotation: KeyRotation
    keys: KeyRing
    journal: Journal
    answers: Answers
    record: Record
    feed: Feed
    pages: PageTokens

    def cursors(self, purpose: str) -> PageTokens:
        """Return what seals the cursors of one kind of stream; those of another do not open."""
        return PageTokens(derived_key(self.root, purpose), invalid=CursorInvalid)


async def lay(stack: AsyncExitStack, settings: Settings, metrics: Metrics, clock: Clock | None) -> Ground:
    """Open what all features stand on; `stack` closes it.

    Raises:
        CannotRun: the schema, the secrets or the embedded database are no good.
        DependencyUnavailable: the database cannot be reached.

    """
    database = await open_database(stack, settings)
    metrics.watch_pool(database.stats)
    hasher = await open_hasher(stack, settings, metrics)
    database_clock = DatabaseClock(database, tell=metrics.clock_offset)
    await database_clock.start()
    clock = clock or database_clock
    seal = Seal(*development.master_secrets(settings))
    root = await root_secret(database, seal)
    rotation = key_rotation(settings, database, seal, clock)
    await rotation.begin()
    record = Record(database=database)
    return Ground(
        settings=settings,
        metrics=metrics,
        database=database,
        database_clock=database_clock,
        clock=clock,
        hasher=hasher,
        policy=options.policy(settings.auth),
        root=root,
        rotation=rotation,
        keys=await KeyRing.opened(KeyStore(database=database, seal=seal, clock=clock, keep=rotation.terms.keep)),
        journal=Journal(new_id=uuid7),
        answers=Answers(database),
        record=record,
        feed=Feed(record=record),
        pages=PageTokens(derived_key(root, "page-tokens")),
    )


async def open_database(stack: AsyncExitStack, settings: Settings) -> Database:
    """Open the pool on a database whose schema is this release's. Raises as `lay`."""
    url = await stack.enter_async_context(development.database_url(settings.database))
    await prepare_schema(url, settings.database)
    return await stack.enter_async_context(Database(url, options.pool(settings.database)))


async def open_hasher(stack: AsyncExitStack, settings: Settings, metrics: Metrics) -> Hasher:
    """Start the threads that hash passwords."""
    hasher = options.hasher(settings.auth, took=metrics.password_hash, bound=metrics.argon2_bindings)
    await stack.enter_async_context(hasher)
    metrics.watch_hashing(hasher.stats)
    return hasher


def key_rotation(settings: Settings, database: Database, seal: Seal, clock: Clock) -> KeyRotation:
    """Return what makes signing keys and moves them through their life."""
    return KeyRotation(
        database=database,
        seal=seal,
        journal=Journal(new_id=uuid7),
        clock=clock,
        terms=options.key_terms(settings.auth),
    )
