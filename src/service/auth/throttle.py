"""How often passwords may be guessed: attempts are counted before they are made, once for all replicas.

An attempt from a device that nobody knows counts in two buckets, its account's and its source's; one from a known
device in that device's and in that of all known devices of the account, so that strangers cannot lock its owner out,
and who once knew the password cannot have collected devices without end. A bucket takes `free` attempts at once;
beyond those each must wait after the last one, twice as long as that had to. Attempts decay, one at a time.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING

import structlog

from service.auth.statements import FIND_NEXT_ATTEMPT, PRUNE_ATTEMPTS, RELEASE_ATTEMPT, RESERVE_ATTEMPT
from service.errors import DomainError, TooManyAttempts

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from service.auth.devices import KnownDevice
    from service.auth.statements import BucketRow
    from service.clock import Clock
    from service.db import Connection, Database

_log = structlog.get_logger("gatelodge.auth")
_NETWORK_BITS = 64
"""What one customer of a provider has of IPv6 addresses at the least, so that changing them within gains nothing."""
_BATCH = 1000
_LEAST_RETRY_SECONDS = 0.001


class Scope(Enum):
    """What a bucket counts the attempts of."""

    ACCOUNT = "account"
    SOURCE = "source"
    DEVICE = "device"
    DEVICES = "devices"
    """All known devices of an account."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How many attempts are free, and how long the others wait. Seconds."""

    free: dict[Scope, int]
    decay: float
    base_delay: float
    max_delay: float


@dataclass(frozen=True, slots=True, order=True)
class Bucket:
    """Where attempts count. Ordered by key: the order in which all transactions lock buckets."""

    key: bytes
    scope: Scope


@dataclass(frozen=True, slots=True)
class Reservation:
    """An attempt that has been counted and may be made."""

    buckets: tuple[Bucket, ...]


class Throttle:
    """Counts attempts at passwords.

    Args:
        database: where all replicas count.
        terms: how many and how long.
        key: 32 bytes; what is counted by is kept hashed under it, so that the table tells no addresses.
        clock: the present.
        refused: told the scope of each attempt that was not taken.

    """

    def __init__(
        self, *, database: Database, terms: Terms, key: bytes, clock: Clock, refused: Callable[[str], None]
    ) -> None:
        self._database = database
        self._terms = terms
        self._key = key
        self._clock = clock
        self._refused = refused

    async def reserve(self, canonical: str, source: str, device: KnownDevice | None) -> Reservation:
        """Count an attempt at the account of the address `canonical`, there or not, before it is made.

        `source` is the address it comes from, without port; `device` the account's device it comes from, if known.

        Raises:
            TooManyAttempts: it must wait; nothing was counted.
            DependencyUnavailable, Overloaded: it could not be counted, so it must not be made.

        """
        buckets = self._buckets(canonical, source, device)
        now = self._clock()
        try:
            await self._count(buckets, now)
        except _Refused as refusal:
            self._refused(refusal.bucket.scope.value)
            wait = (refusal.next_time - now).total_seconds()
            raise TooManyAttempts(max(wait, _LEAST_RETRY_SECONDS)) from None
        return Reservation(buckets)

    async def settle(self, reservation: Reservation) -> None:
        """Give the attempt back, for its password was right; what a known device has open is forgotten altogether."""
        await self._release(reservation.buckets, right=True)

    async def release(self, reservation: Reservation) -> None:
        """Give the attempt back, for it was never made: the server failed."""
        await self._release(reservation.buckets)

    async def next_time(self, canonical: str) -> datetime | None:
        """Return when the account takes the next attempt from a device it does not know; None: at once."""
        account = self._account(canonical)
        found = await self._database.read(lambda conn: self._next_time(conn, account))
        return found if found is not None and found > self._clock() else None

    async def prune(self) -> int:
        """Delete what has decayed; return how many buckets that were."""
        pruned = 0
        while True:
            gone = await self._database.transact(
                lambda conn: PRUNE_ATTEMPTS.execute(
                    conn, now=self._clock(), decay=self._terms.decay, max_delay=self._terms.max_delay, batch=_BATCH
                )
            )
            pruned += gone
            if gone < _BATCH:
                return pruned

    async def _count(self, buckets: tuple[Bucket, ...], now: datetime) -> None:
        """Count an attempt in all of the buckets, or in none and raise `_Refused`.

        One statement does it, unless another attempt made one of the rows at the same moment: then the rest is asked
        for again. Should that be refused, what was taken before is given back; until then, or for ever if this process
        dies, a bucket that was empty counts one attempt too many, never one too few.
        """
        counted: tuple[Bucket, ...] = ()
        while rest := tuple(bucket for bucket in buckets if bucket not in counted):
            found = {row.key: row for row in await self._take(rest, now)}
            for bucket in rest:
                next_time = found[bucket.key].next_time
                if next_time is not None and next_time > now:
                    await self._release(counted)
                    raise _Refused(bucket, next_time)
            counted += tuple(bucket for bucket in rest if found[bucket.key].taken)

    async def _take(self, buckets: tuple[Bucket, ...], now: datetime) -> list[BucketRow]:
        return await self._database.apart(
            lambda conn: RESERVE_ATTEMPT.all(
                conn,
                first=buckets[0].key,
                first_free=self._free(buckets[0]),
                second=buckets[1].key if buckets[1:] else None,
                second_free=self._free(buckets[-1]),
                now=now,
                decay=self._terms.decay,
                base_delay=self._terms.base_delay,
                max_delay=self._terms.max_delay,
            ),
            repeatable=True,  # what is counted twice decays twice as late; nobody gains by it
        )

    async def _next_time(self, conn: Connection, bucket: Bucket) -> datetime | None:
        found = await FIND_NEXT_ATTEMPT.optional(
            conn,
            key=bucket.key,
            free=self._free(bucket),
            decay=self._terms.decay,
            base_delay=self._terms.base_delay,
            max_delay=self._terms.max_delay,
        )
        return found.next_time if found else None

    async def _release(self, buckets: tuple[Bucket, ...], *, right: bool = False) -> None:
        """Take the attempt out of the buckets. What cannot be given back decays: the call does not fail for it.

        Never repeated where it may have been done: given back twice, an attempt would be somebody's guess.
        """
        if not buckets:
            return
        first, second = buckets[0].key, buckets[1].key if buckets[1:] else None
        emptied = next((bucket.key for bucket in buckets if right and bucket.scope is Scope.DEVICE), None)
        try:
            await self._database.apart(
                lambda conn: RELEASE_ATTEMPT.execute(conn, first=first, second=second, emptied=emptied),
                repeatable=False,
            )
        except DomainError as error:
            _log.warning("an attempt was not given back", reason=error.reason)

    def _free(self, bucket: Bucket) -> float:
        return float(self._terms.free[bucket.scope])

    def _buckets(self, canonical: str, source: str, device: KnownDevice | None) -> tuple[Bucket, ...]:
        if device is None:
            return tuple(sorted((self._account(canonical), self._source(source))))
        return tuple(sorted((_of(device), self._bucket(Scope.DEVICES, canonical))))

    def _account(self, canonical: str) -> Bucket:
        return self._bucket(Scope.ACCOUNT, canonical)

    def _source(self, source: str) -> Bucket:
        return self._bucket(Scope.SOURCE, network_of(source))

    def _bucket(self, scope: Scope, name: str) -> Bucket:
        return Bucket(hmac.digest(self._key, f"{scope.value}\0{name}".encode(), "sha256"), scope)


class _Refused(Exception):
    """Ends a reservation without any effect."""

    def __init__(self, bucket: Bucket, next_time: datetime) -> None:
        super().__init__()
        self.bucket = bucket
        self.next_time = next_time


def _of(device: KnownDevice) -> Bucket:
    return Bucket(device.bucket_key, Scope.DEVICE)


def network_of(source: str) -> str:
    """Return whom attempts from `source` are counted to: an IPv4 address, an IPv6 /64, or ``unix``."""
    try:
        address = ip_address(source.partition("%")[0])
    except ValueError:
        return source
    if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
        return str(ip_network((address, _NETWORK_BITS), strict=False))
    return str(getattr(address, "ipv4_mapped", None) or address)
