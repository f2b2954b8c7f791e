"""Signing keys as the database has them: their records, and the sealed boxes opened."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import structlog

from service.auth.keys import PublicKey, SigningKey, UnsuitableKey, from_bytes
from service.auth.sealing import KeysUnreadable
from service.auth.statements import LIST_SIGNING_KEYS, SigningKeyRow

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta

    from service.auth.sealing import Seal
    from service.clock import Clock
    from service.db import Connection, Database

_log = structlog.get_logger("gatelodge.keys")


class KeyState(StrEnum):
    """What a key does."""

    STAGED = "staged"
    """Published, signs nothing yet."""
    ACTIVE = "active"
    """Signs."""
    RETIRED = "retired"
    """Verifies what it signed, until that has expired."""


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A signing key without the key."""

    kid: str
    algorithm: str
    state: KeyState
    create_time: datetime
    activate_time: datetime | None = None
    retire_time: datetime | None = None

    def outlived(self, now: datetime, keep: timedelta) -> bool:
        """Tell whether the last token it signed has expired: it was retired `keep` ago."""
        return self.retire_time is not None and self.retire_time + keep <= now


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys at one moment."""

    active: SigningKey | None
    """The one that signs; None: it cannot be opened."""
    verifying: dict[str, PublicKey]
    """By key id, oldest first."""


def record(row: SigningKeyRow) -> KeyRecord:
    """Return what a row says of its key."""
    return KeyRecord(row.kid, row.algorithm, KeyState(row.state), row.create_time, row.activate_time, row.retire_time)


async def records(conn: Connection) -> list[KeyRecord]:
    """Return every key there is, oldest first."""
    return [record(row) for row in await LIST_SIGNING_KEYS.all(conn)]


class KeyStore:
    """Reads the keys, opening each box once. `keep` is how long a retired key verifies."""

    def __init__(self, *, database: Database, seal: Seal, clock: Clock, keep: timedelta) -> None:
        self._database = database
        self._seal = seal
        self._clock = clock
        self._keep = keep
        self._opened: dict[str, SigningKey] = {}
        self._closed: frozenset[str] = frozenset()

    async def load(self, *, strict: bool = False) -> Keys:
        """Return the keys as they are now. One that cannot be opened is logged once and left out.

        Raises:
            KeysUnreadable: one cannot be opened, and `strict` is asked for.

        """
        rows = await self._database.read(LIST_SIGNING_KEYS.all)
        now = self._clock()
        present = [row for row in rows if not record(row).outlived(now, self._keep)]
        self._open(present, strict=strict)
        active = next((row.kid for row in present if row.state == KeyState.ACTIVE), "")
        return Keys(self._opened.get(active), {kid: key.public for kid, key in self._opened.items()})

    def _open(self, rows: Sequence[SigningKeyRow], *, strict: bool) -> None:
        opened: dict[str, SigningKey] = {}
        closed: set[str] = set()
        for row in rows:
            try:
                opened[row.kid] = self._opened.get(row.kid) or _key(row, self._seal)
            except KeysUnreadable as error:
                if strict:
                    raise
                closed.add(row.kid)
                if row.kid not in self._closed:
                    _log.error("signing key cannot be opened", kid=row.kid, state=row.state, cause=str(error))
        self._opened, self._closed = opened, frozenset(closed)


def _key(row: SigningKeyRow, seal: Seal) -> SigningKey:
    """Open the box: what is in it must be the very key that its id names."""
    try:
        key = from_bytes(seal.must_open(row.private_key, label=row.kid))
    except (UnsuitableKey, ValueError) as error:
        raise KeysUnreadable(f"signing key {row.kid} is no key of this service: {error}") from error
    if (key.public.kid, key.public.alg) != (row.kid, row.algorithm):
        raise KeysUnreadable(f"signing key {row.kid} is another key than its id says")
    return key
