"""The key ring: which key signs and which ones verify, at this moment, in this process."""

from __future__ import annotations

import asyncio
import json
import re
import time
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

import structlog

from service.errors import CannotRun, DomainError
from service.events.model import Filter, KeyActivated, KeyRetired, KeyStaged

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from service.auth.key_store import Keys, KeyStore
    from service.auth.keys import PublicKey, SigningKey
    from service.events.feed import Feed
    from service.events.record import Record

_log = structlog.get_logger("gatelodge.keys")

_CHANGES = Filter(types=frozenset({KeyStaged.type, KeyActivated.type, KeyRetired.type}))
_KID = re.compile(r"[A-Za-z0-9_-]{43}")
_LEARN_EVERY = 1.0
_LEARN_WITHIN = 1.0
_PAUSE = 1.0


class KeyRing:
    """The key that signs, and every key that still verifies. Both change when the keys in the database do.

    Args:
        active: the key that signs.
        verifying: every key that verifies, by its id.
        load: reads the keys anew; None: they never change.
        monotonic: seconds.

    """

    def __init__(
        self,
        active: SigningKey,
        verifying: Mapping[str, PublicKey],
        *,
        load: Callable[[], Awaitable[Keys]] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.changed = 0
        """Grows with every change: what was concluded from the keys before is void."""
        self._active = active
        self._verifying = dict(verifying)
        self._jwks = _jwks(verifying)
        self._load = load
        self._monotonic = monotonic
        self._reloading = asyncio.Lock()
        self._learning = asyncio.Lock()
        self._learn_from = 0.0

    @classmethod
    async def opened(cls, store: KeyStore) -> KeyRing:
        """Return the ring of the keys in the database, among which one is active.

        Raises:
            KeysUnreadable: a key cannot be opened.
            CannotRun: none is active.

        """
        keys = await store.load(strict=True)
        if keys.active is None:
            raise CannotRun("no signing key is active: run `gatelodge keys rotate`")
        return cls(keys.active, keys.verifying, load=store.load)

    @property
    def active(self) -> SigningKey:
        """The key that signs."""
        return self._active

    @property
    def verifying(self) -> Mapping[str, PublicKey]:
        """The keys that verify, by their ids. Never changed in place."""
        return self._verifying

    def jwks(self) -> bytes:
        """Return the JWK set (RFC 7517 §5) as JSON. From any thread."""
        return self._jwks

    async def reload(self) -> None:
        """Take the keys from the database as they are now. One after another, so that no older state comes last."""
        if self._load is None:
            return
        async with self._reloading:
            self._take(await self._load())

    async def learn(self, kid: str) -> PublicKey | None:
        """Return the key of this id, after a look into the database if it is not known; None: there is none.

        For a token signed with a key that was activated by force a moment ago. The database is asked once a second at
        most, whatever ids callers bring; whoever comes while it is asked waits for the answer.
        """
        if self._load is not None and kid not in self._verifying and _KID.fullmatch(kid):
            async with self._learning:
                if kid not in self._verifying and self._monotonic() >= self._learn_from:
                    try:
                        with suppress(DomainError, TimeoutError):
                            async with asyncio.timeout(_LEARN_WITHIN):
                                await self.reload()
                    finally:
                        # From the end, or those who waited for a slow answer would each wait for another one.
                        self._learn_from = self._monotonic() + _LEARN_EVERY
        return self._verifying.get(kid)

    def _take(self, keys: Keys) -> None:
        active = keys.active or self._active
        if active.public.kid == self._active.public.kid and keys.verifying == self._verifying:
            return
        self._active, self._verifying, self._jwks = active, keys.verifying, _jwks(keys.verifying)
        self.changed += 1
        _log.info("signing keys changed", active=active.public.kid, verifying=len(keys.verifying))


class KeyFollower:
    """Reloads the ring at each event of a key, and now and then without one: retired keys end by the clock.

    Args:
        ring: what is reloaded.
        record: tells where the events end now.
        feed: tells of the events that come.
        every: seconds after which the ring is reloaded anyway.
        monotonic: seconds.

    """

    def __init__(
        self,
        *,
        ring: KeyRing,
        record: Record,
        feed: Feed,
        every: float = 60.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ring = ring
        self._record = record
        self._feed = feed
        self._every = every
        self._monotonic = monotonic

    async def run(self) -> None:
        """Follow for ever. A background task; while the database is away the ring stays as it is."""
        while True:
            try:
                await self._follow()
            except DomainError as error:
                _log.warning("signing keys cannot be followed for now", reason=error.reason)
            await asyncio.sleep(_PAUSE)

    async def _follow(self) -> None:
        position = (await self._record.ends()).latest
        await self._ring.reload()
        due = self._monotonic() + self._every
        async with aclosing(self._feed.watch(position, _CHANGES)) as batches:
            async for batch in batches:
                if batch.events or self._monotonic() >= due:
                    await self._ring.reload()
                    due = self._monotonic() + self._every


def _jwks(keys: Mapping[str, PublicKey]) -> bytes:
    return json.dumps({"keys": [key.jwk() for key in keys.values()]}).encode()
