"""The life of a signing key: staged, active, retired, gone. Every change is made alone and written down as an event."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from service.auth.key_store import KeyRecord, KeyState, records
from service.auth.keys import new_key
from service.auth.statements import DELETE_SIGNING_KEY, INSERT_SIGNING_KEY, LOCK_SIGNING_KEYS, SAVE_SIGNING_KEY
from service.errors import Conflict, SigningKeyNotFound, SigningKeyState
from service.events.model import KeyActivated, KeyRetired, KeyStaged

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import datetime, timedelta

    from service.auth.keys import SigningKey
    from service.auth.sealing import Seal
    from service.clock import Clock
    from service.db import Connection, Database
    from service.events.journal import Journal

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class KeyTerms:
    """How keys come and go."""

    algorithm: str
    """Of keys made from now on."""
    rotate_after: timedelta
    """How long a key signs."""
    publish: timedelta
    """How long a key is staged, so that all verifiers have learned of it before it signs."""
    keep: timedelta
    """How long a retired key verifies: longer than any token it signed lives."""


class Step(StrEnum):
    """What a step of a rotation did."""

    STAGED = "staged"
    ACTIVATED = "activated"
    WAITING = "waiting"


class KeyRotation:
    """Changes the keys. No two processes do at a time."""

    def __init__(self, *, database: Database, seal: Seal, journal: Journal, clock: Clock, terms: KeyTerms) -> None:
        self._database = database
        self._seal = seal
        self._journal = journal
        self._clock = clock
        self.terms = terms

    async def begin(self) -> None:
        """Make the first key and have it sign at once: nobody knows another one yet. One is there: nothing is done."""
        if _in_state(await self.keys(), KeyState.ACTIVE) is not None:
            return
        key = await self._made(self.terms.algorithm)

        async def work(conn: Connection, keys: Sequence[KeyRecord]) -> None:
            if _in_state(keys, KeyState.ACTIVE) is None:
                now = self._clock()
                await self._insert(conn, key, KeyRecord(*_name(key), KeyState.ACTIVE, now, now))
                await self._journal.record(conn, KeyActivated(None, *_name(key)))

        await self._change(work)

    async def keys(self) -> list[KeyRecord]:
        """Return every key that is staged, signs or verifies, oldest first."""
        now = self._clock()
        return [key for key in await self._database.read(records) if not key.outlived(now, self.terms.keep)]

    async def stage(self, algorithm: str = "") -> KeyRecord:
        """Make the next key, or return the one that is staged already. `algorithm` as in the terms unless given.

        Raises:
            Conflict: the one that was staged a moment ago is not any more.

        """
        # Before the transaction, because it takes long.
        there = _in_state(await self.keys(), KeyState.STAGED)
        key = await self._made(algorithm or self.terms.algorithm) if there is None else None

        async def work(conn: Connection, keys: Sequence[KeyRecord]) -> KeyRecord:
            staged = _in_state(keys, KeyState.STAGED)
            if staged is not None:
                return staged
            if key is None:
                raise Conflict
            staged = KeyRecord(*_name(key), KeyState.STAGED, self._clock())
            await self._insert(conn, key, staged)
            await self._journal.record(conn, KeyStaged(None, staged.kid, staged.algorithm))
            return staged

        return await self._change(work)

    async def activate(self, kid: str, *, force: bool = False) -> KeyRecord:
        """Have a staged key sign and retire the one that did. `force` does not wait for verifiers to learn of it.

        Raises:
            SigningKeyNotFound: there is none.
            SigningKeyState: it is not staged, or not for long enough.

        """

        async def work(conn: Connection, keys: Sequence[KeyRecord]) -> KeyRecord:
            key, now = _named(keys, kid), self._clock()
            if key.state is not KeyState.STAGED:
                raise SigningKeyState(f"only a staged key can be activated: this one is {key.state}", key.state)
            if not force and now < self.ready_time(key):
                raise SigningKeyState("verifiers may not know the key yet: wait, or use force", key.state)
            await self._retire(conn, _in_state(keys, KeyState.ACTIVE), now)
            await self._journal.record(conn, KeyActivated(None, key.kid, key.algorithm))
            return await _save(conn, replace(key, state=KeyState.ACTIVE, activate_time=now))

        return await self._change(work)

    async def remove(self, kid: str) -> KeyRecord:
        """Remove a key that must not verify any more. Its tokens are dead as soon as the rings have heard of it.

        Raises:
            SigningKeyNotFound: there is none.
            SigningKeyState: it is the active one.

        """

        async def work(conn: Connection, keys: Sequence[KeyRecord]) -> KeyRecord:
            key = _named(keys, kid)
            if key.state is KeyState.ACTIVE:
                raise SigningKeyState("the active key cannot be removed: activate another one first", key.state)
            await self._delete(conn, key)
            return replace(key, state=KeyState.RETIRED, retire_time=key.retire_time or self._clock())

        return await self._change(work)

    async def rotate(self) -> int:
        """Do what is due: forget outlived keys, stage the next one, activate it. A job.

        Returns how many keys changed.
        """
        forgotten = await self._change(self._forget)
        keys, now = await self.keys(), self._clock()
        active, staged = _in_state(keys, KeyState.ACTIVE), _in_state(keys, KeyState.STAGED)
        if staged is not None:
            if now < self.ready_time(staged):
                return forgotten
            await self.activate(staged.kid)
            return forgotten + 1
        if active is not None and now < _since(active) + self.terms.rotate_after - self.terms.publish:
            return forgotten
        await self.stage()
        return forgotten + 1

    async def advance(self, *, force: bool) -> tuple[Step, KeyRecord]:
        """Take the next step of a rotation, for a person: stage a key, or activate the staged one when it may be.

        `force` activates it whatever the time, and stages it before if need be.
        """
        staged = _in_state(await self.keys(), KeyState.STAGED)
        if staged is None:
            staged = await self.stage()
            if not force:
                return Step.STAGED, staged
        if not force and self._clock() < self.ready_time(staged):
            return Step.WAITING, staged
        return Step.ACTIVATED, await self.activate(staged.kid, force=force)

    def ready_time(self, staged: KeyRecord) -> datetime:
        """Return from when on a staged key may sign."""
        return staged.create_time + self.terms.publish

    async def _change(self, work: Callable[[Connection, Sequence[KeyRecord]], Awaitable[Result]]) -> Result:
        async def alone(conn: Connection) -> Result:
            await LOCK_SIGNING_KEYS.execute(conn)
            return await work(conn, await records(conn))

        return await self._database.transact(alone)

    async def _forget(self, conn: Connection, keys: Sequence[KeyRecord]) -> int:
        now = self._clock()
        outlived = [key for key in keys if key.outlived(now, self.terms.keep)]
        for key in outlived:
            await self._delete(conn, key)
        return len(outlived)

    async def _retire(self, conn: Connection, active: KeyRecord | None, now: datetime) -> None:
        if active is not None:
            await _save(conn, replace(active, state=KeyState.RETIRED, retire_time=now))
            await self._journal.record(conn, KeyRetired(None, active.kid, active.algorithm, removed=False))

    async def _delete(self, conn: Connection, key: KeyRecord) -> None:
        await DELETE_SIGNING_KEY.execute(conn, kid=key.kid)
        await self._journal.record(conn, KeyRetired(None, key.kid, key.algorithm, removed=True))

    async def _insert(self, conn: Connection, key: SigningKey, made: KeyRecord) -> None:
        await INSERT_SIGNING_KEY.execute(
            conn,
            kid=made.kid,
            algorithm=made.algorithm,
            state=made.state,
            public_jwk=key.public.jwk(),
            private_key=self._seal.seal(key.to_bytes(), label=made.kid),
            create_time=made.create_time,
            activate_time=made.activate_time,
        )

    @staticmethod
    async def _made(algorithm: str) -> SigningKey:
        return await asyncio.to_thread(new_key, algorithm)


async def _save(conn: Connection, key: KeyRecord) -> KeyRecord:
    await SAVE_SIGNING_KEY.execute(
        conn, kid=key.kid, state=key.state, activate_time=key.activate_time, retire_time=key.retire_time
    )
    return key


def _since(active: KeyRecord) -> datetime:
    return active.activate_time or active.create_time


def _name(key: SigningKey) -> tuple[str, str]:
    return key.public.kid, key.public.alg


def _named(keys: Sequence[KeyRecord], kid: str) -> KeyRecord:
    for key in keys:
        if key.kid == kid:
            return key
    raise SigningKeyNotFound


def _in_state(keys: Sequence[KeyRecord], state: KeyState) -> KeyRecord | None:
    return next((key for key in keys if key.state is state), None)
