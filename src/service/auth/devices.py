"""Known devices: whoever logged in once gets a token that says so, and is throttled apart from strangers."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service import base64url

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from service.clock import Clock

PREFIX = "gld_"
_ID_BYTES = 16
_ACCOUNT_BYTES = 16
_TIME_BYTES = 8
_TAG_BYTES = 16
_BYTES = _ID_BYTES + _ACCOUNT_BYTES + _TIME_BYTES + _TAG_BYTES


@dataclass(frozen=True, slots=True)
class KnownDevice:
    """A device from which an account was logged in to."""

    id: bytes
    bucket_key: bytes
    """What its attempts are counted under, 32 bytes."""


class Devices:
    """Makes and reads device tokens: id, account, time of issue and a tag under `key`. Nothing is stored.

    A token is no credential: it opens nothing, and whoever steals one gains a few guesses at one account.
    """

    def __init__(self, *, key: bytes, lifetime: timedelta, clock: Clock, random: Callable[[int], bytes]) -> None:
        self._key = key
        self._lifetime = lifetime.total_seconds()
        self._clock = clock
        self._random = random

    def issue(self, canonical: str, device: KnownDevice | None) -> str:
        """Return a token for the account of the address `canonical`: of the device that it has, or of a new one."""
        device_id = device.id if device else self._random(_ID_BYTES)
        issued = int(self._clock().timestamp()).to_bytes(_TIME_BYTES, "big")
        body = device_id + self._account(canonical) + issued
        return PREFIX + base64url.encode(body + self._tag(body))

    def read(self, token: str, canonical: str) -> KnownDevice | None:
        """Return the device of a token that is good for the account; None for every other, whatever is wrong."""
        raw = _decoded(token)
        if raw is None:
            return None
        body, tag = raw[:-_TAG_BYTES], raw[-_TAG_BYTES:]
        device_id, account = body[:_ID_BYTES], body[_ID_BYTES : _ID_BYTES + _ACCOUNT_BYTES]
        age = self._clock().timestamp() - int.from_bytes(body[-_TIME_BYTES:], "big")
        ours = hmac.compare_digest(tag, self._tag(body)) and hmac.compare_digest(account, self._account(canonical))
        if not ours or age > self._lifetime:
            return None
        return KnownDevice(device_id, hmac.digest(self._key, b"bucket\0" + device_id + account, "sha256"))

    def _account(self, canonical: str) -> bytes:
        return hmac.digest(self._key, b"account\0" + canonical.encode(), "sha256")[:_ACCOUNT_BYTES]

    def _tag(self, body: bytes) -> bytes:
        return hmac.digest(self._key, b"token\0" + body, "sha256")[:_TAG_BYTES]


def _decoded(token: str) -> bytes | None:
    """Return what a token holds; None for what is not exactly what `Devices.issue` writes."""
    if not token.startswith(PREFIX):
        return None
    try:
        raw = base64url.decode(token.removeprefix(PREFIX))
    except ValueError:
        return None
    return raw if len(raw) == _BYTES else None
