"""Argon2id in a bounded pool of its own: never on the event loop, never queued without end (RFC 9106)."""

from __future__ import annotations

import asyncio
import hmac
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeVar

from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.low_level import Type, hash_secret_raw

from service.auth.passwords import Password
from service.errors import Overloaded
from service.spans import span
from service.telemetry.readings import HashQueue
from service.tuning import stand_back

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


Result = TypeVar("Result")

_PEPPERED = "hmac-sha256:"
_DEAREST = 16
"""How many times the cost of a new hash, or of a usual one, a stored one may have; beyond that it is not computed."""
_USUAL_COST = 19456 * 2
"""KiB times passes of OWASP's parameters."""
_SALT = bytes(16)
"""Of hashes that are computed for their time alone."""


@dataclass(frozen=True, slots=True)
class Argon2Parameters:
    """The cost of a hash (RFC 9106 §4; the default is OWASP's)."""

    memory_kib: int = 19456
    time_cost: int = 2
    parallelism: int = 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """What verifying a password found."""

    matches: bool
    outdated: bool
    """Whether the stored hash has other parameters, or another pepper, than new ones get."""


class Hasher:
    """Hashes and verifies passwords on `threads` threads of its own with at most `queue` jobs waiting.

    At most half of them wait for new passwords. In the `background` they run while no other thread wants to.
    `took` is told the seconds each hash was computed for, from its thread.
    `pepper` is a key that the hashes depend on and the database does not hold; None for hashes that stand alone.

    An async context manager; leaving it waits for the hashes in progress.
    """

    def __init__(
        self,
        parameters: Argon2Parameters,
        *,
        threads: int,
        queue: int,
        background: bool,
        pepper: bytes | None,
        took: Callable[[float], None],
    ) -> None:
        self._argon2 = PasswordHasher(parameters.time_cost, parameters.memory_kib, parameters.parallelism)
        self._parameters = parameters
        self._cost = parameters.memory_kib * parameters.time_cost
        self._affordable = _DEAREST * max(self._cost, _USUAL_COST)
        self._pepper = pepper
        self._took = took
        self._queue = queue
        self._threads = threads
        self._jobs = 0
        self._refused = 0
        self._pool = ThreadPoolExecutor(threads, "argon2", initializer=stand_back if background else None)
        self._dummy = ""

    async def __aenter__(self) -> Self:
        """Compute the hash that unknown users are verified against: a real one, of a password nobody has."""
        try:
            self._dummy = await self._run(lambda: self._encode(Password.parse(os.urandom(32).hex())), queue=self._queue)
        except BaseException:
            self._pool.shutdown(wait=False, cancel_futures=True)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)

    async def hash(self, password: Password) -> str:
        """Return a new hash in PHC string format.

        Raises:
            Overloaded: the queue is half full. The rest is for those who log in, whom the throttle counts; strangers
                who register are not counted, and must not keep everybody else out.

        """
        with span("argon2id hash"):
            return await self._run(lambda: self._encode(password), queue=(self._queue + 1) // 2)

    async def verify(self, password: Password, stored: str | None) -> Verdict:
        """Compare a password with a stored hash. Without one, the time of today's hash is spent all the same.

        What a cheaper hash of old lacks of that is spent after it, so that a wrong guess takes as long whether the
        account is unknown, new, or has not been logged in to since parameters or pepper changed. Only a hash that was
        dearer than today's is told by its time.

        Raises:
            Overloaded: the queue is full.

        """
        with span("argon2id verify"):
            return await self._run(lambda: self._verdict(password, stored), queue=self._queue)

    def expect_room(self) -> None:
        """Raise `Overloaded` while the queue is full: for whoever would else work in vain before `verify` does."""
        self._expect_room(self._queue)

    def stats(self) -> HashQueue:
        """Return what the metrics page shows; safe from any thread."""
        jobs = self._jobs
        active = min(jobs, self._threads)
        return HashQueue(active=active, queued=jobs - active, limit=self._queue, refused=self._refused)

    async def _run(self, work: Callable[[], Result], *, queue: int) -> Result:
        self._expect_room(queue)
        self._jobs += 1
        job = self._pool.submit(self._timed, work)
        loop = asyncio.get_running_loop()
        # Not in a finally: a cancelled caller goes at once, its hash holds the slot until the thread is done with it.
        job.add_done_callback(lambda _: _tell(loop, self._done))
        return await asyncio.wrap_future(job)

    def _expect_room(self, queue: int) -> None:
        if self._jobs >= self._threads + queue:
            self._refused += 1
            raise Overloaded("password_hashing", retry_after=1.0)

    def _timed(self, work: Callable[[], Result]) -> Result:
        start = time.perf_counter()
        try:
            return work()
        finally:
            self._took(time.perf_counter() - start)

    def _done(self) -> None:
        self._jobs -= 1

    def _encode(self, password: Password) -> str:
        if self._pepper is None:
            return self._argon2.hash(password.reveal())
        return _PEPPERED + self._argon2.hash(self._peppered(password, self._pepper))

    def _verdict(self, password: Password, stored: str | None) -> Verdict:
        matches = stored is not None and self._matches(password, stored)
        outdated = stored is None or self._outdated(stored)
        if outdated and not matches:
            self._make_up(password, stored)
        return Verdict(matches, outdated=matches and outdated)

    def _make_up(self, password: Password, stored: str | None) -> None:
        """Spend what comparing with `stored` lacked of today's cost."""
        missing = self._cost - (0 if stored is None else self._spent(stored))
        if missing == self._cost:
            self._matches(password, self._dummy)
        elif missing > 0:
            passes, lanes = self._parameters.time_cost, self._parameters.parallelism
            memory = max(8 * lanes, missing // passes)
            hash_secret_raw(password.reveal(), _SALT, passes, memory, lanes, len(_SALT), Type.ID)

    def _spent(self, stored: str) -> int:
        """Return what comparing with a stored hash costs, KiB times passes; 0 where it is not computed."""
        encoded = stored.removeprefix(_PEPPERED)
        if encoded != stored and self._pepper is None:
            return 0
        try:
            found = extract_parameters(encoded)
            return found.memory_cost * found.time_cost if self._can_afford(encoded) else 0
        except InvalidHashError:
            return 0

    def _matches(self, password: Password, stored: str) -> bool:
        encoded = stored.removeprefix(_PEPPERED)
        if encoded == stored:
            secret = password.reveal()
        elif self._pepper is not None:
            secret = self._peppered(password, self._pepper)
        else:
            return False
        try:
            return self._can_afford(encoded) and self._argon2.verify(encoded, secret)
        except (VerificationError, InvalidHashError):
            return False

    def _outdated(self, stored: str) -> bool:
        """Tell whether the hash has other parameters, or another pepper, than new ones get; or is none at all."""
        encoded = stored.removeprefix(_PEPPERED)
        try:
            return (encoded == stored) != (self._pepper is None) or self._argon2.check_needs_rehash(encoded)
        except InvalidHashError:
            return True

    def _can_afford(self, encoded: str) -> bool:
        """Refuse stored parameters that would let one row stop the service: m=4 GiB takes half a minute to verify."""
        found = extract_parameters(encoded)
        return found.memory_cost * found.time_cost <= self._affordable and found.parallelism <= _DEAREST

    @staticmethod
    def _peppered(password: Password, pepper: bytes) -> bytes:
        return hmac.digest(pepper, password.reveal(), "sha256")


def _tell(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback)
