"""What a bucket of attempts allows, with a clock in hand, on a real database."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from service.auth.devices import KnownDevice
from service.auth.throttle import Scope, Terms, Throttle, network_of
from service.errors import DependencyUnavailable, TooManyAttempts

if TYPE_CHECKING:
    from tests.db.conftest import Fragile

    from service.db import Connection, Database

ADA, BOB = "ada@example.com", "bob@example.com"
HERE, THERE = "198.51.100.7", "203.0.113.5"
FREE = {Scope.ACCOUNT: 10, Scope.SOURCE: 100, Scope.DEVICE: 10, Scope.DEVICES: 100}
TERMS = Terms(FREE, decay=600, base_delay=1, max_delay=900)
DEVICE = KnownDevice(b"d" * 16, b"b" * 32)


class Bench:
    """A throttle, its clock, and what it refused."""

    def __init__(self, database: Database, terms: Terms = TERMS) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.refused: list[str] = []
        self.throttle = Throttle(
            database=database, terms=terms, key=b"k" * 32, clock=lambda: self.now, refused=self.refused.append
        )

    async def guess(self, canonical: str = ADA, source: str = HERE, device: KnownDevice | None = None) -> float:
        """Make an attempt; return the seconds to wait if it was refused, else 0."""
        try:
            await self.throttle.reserve(canonical, source, device)
        except TooManyAttempts as refusal:
            return refusal.retry_after
        return 0

    async def guesses(self, number: int) -> list[float]:
        return [await self.guess() for _ in range(number)]

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest_asyncio.fixture
async def bench(db: Database) -> Bench:
    return Bench(db)


async def test_ten_are_free_and_each_after_them_waits_twice_as_long(bench: Bench) -> None:
    assert await bench.guesses(10) == [0] * 10
    for wait in (1, 2, 4, 8, 16):
        assert await bench.guess() == pytest.approx(wait, rel=0.2)
        bench.wait(wait - 0.5)
        assert 0 < await bench.guess() <= 0.5
        bench.wait(0.5)
        assert await bench.guess() == 0
    assert set(bench.refused) == {"account"}


async def test_the_retry_time_told_is_the_time_at_which_the_next_attempt_is_taken(bench: Bench) -> None:
    await bench.guesses(10)
    for _ in range(12):
        wait = await bench.guess()
        bench.wait(wait - 0.001)
        assert await bench.guess() > 0
        bench.wait(0.001)
        assert await bench.guess() == 0


async def test_the_wait_never_exceeds_its_limit(db: Database, conn: Connection) -> None:
    bench = Bench(db, replace(TERMS, max_delay=30))
    await bench.guesses(10)
    await conn.execute("UPDATE password_attempts SET attempts = 1e6")
    assert await bench.guess(source=THERE) == 30


async def test_attempts_decay_one_at_a_time(bench: Bench) -> None:
    await bench.guesses(10)
    bench.wait(600 * 3)
    assert [bool(wait) for wait in await bench.guesses(4)] == [False, False, False, True]


async def test_what_a_day_of_guessing_gets(bench: Bench) -> None:
    """Whoever guesses as soon as it is allowed: what docs/operating.md says."""
    taken, end = 0, bench.now + timedelta(days=1)
    source = 0
    while bench.now < end:
        wait = await bench.guess(source=f"2001:db8:{source:x}::1")
        source += 1
        taken += not wait
        bench.wait(wait)
    print(f"{taken} guesses a day")
    assert taken <= 163


async def test_guesses_in_parallel_stand_in_line(bench: Bench) -> None:
    waits = await asyncio.gather(*(bench.guess(source=f"10.0.{number}.1") for number in range(60)))
    assert waits.count(0) == 10


async def test_one_source_is_limited_over_all_accounts(bench: Bench) -> None:
    waits = [await bench.guess(f"user{number}@example.com") for number in range(101)]
    assert waits[:100] == [0] * 100
    assert waits[100] > 0
    assert bench.refused == ["source"]
    assert await bench.guess("user0@example.com", source=THERE) == 0


async def test_what_one_bucket_refuses_is_not_counted_in_the_other(bench: Bench, conn: Connection) -> None:
    await bench.guesses(10)
    await bench.guesses(50)
    cursor = await conn.execute("SELECT attempts FROM password_attempts")
    assert await cursor.fetchall() == [(10,), (10,)]


async def test_a_known_device_counts_apart_in_both_directions(bench: Bench) -> None:
    await bench.guesses(11)
    assert [await bench.guess(device=DEVICE) for _ in range(10)] == [0] * 10
    assert await bench.guess(device=DEVICE) == 1
    assert bench.refused[-1] == "device"
    assert await bench.guess(BOB) == 0


async def test_many_devices_of_one_account_are_limited_together(bench: Bench) -> None:
    devices = [KnownDevice(bytes(16), bytes([number]) * 32) for number in range(1, 51)]
    waits = [await bench.guess(device=device) for device in devices for _ in range(3)]
    assert waits.count(0) == 100
    assert set(bench.refused) == {"devices"}
    assert await bench.guess(BOB, device=DEVICE) == 0
    assert await bench.guess() == 0


async def test_one_device_alone_does_not_shut_the_others_out(bench: Bench) -> None:
    end = bench.now + timedelta(days=2)
    while bench.now < end:
        bench.wait(await bench.guess(device=DEVICE))
    assert set(bench.refused) == {"device"}
    assert await bench.guess(device=KnownDevice(bytes(16), bytes(32))) == 0


async def test_a_right_password_gives_back_its_own_attempt_and_no_other(bench: Bench, conn: Connection) -> None:
    await bench.guesses(5)
    for _ in range(20):
        await bench.throttle.settle(await bench.throttle.reserve(ADA, HERE, None))
    cursor = await conn.execute("SELECT attempts FROM password_attempts")
    assert await cursor.fetchall() == [(5,), (5,)]


async def test_a_right_password_empties_its_known_device(bench: Bench) -> None:
    for _ in range(9):
        await bench.guess(device=DEVICE)
    await bench.throttle.settle(await bench.throttle.reserve(ADA, HERE, DEVICE))
    assert [await bench.guess(device=DEVICE) for _ in range(10)] == [0] * 10


async def test_operators_see_when_the_account_takes_the_next_attempt(bench: Bench) -> None:
    assert await bench.throttle.next_time(ADA) is None
    await bench.guesses(9)
    assert await bench.throttle.next_time(ADA) is None
    await bench.guess()
    assert await bench.throttle.next_time(ADA) == bench.now + timedelta(seconds=1)
    assert await bench.throttle.next_time(BOB) is None
    bench.wait(1)
    assert await bench.throttle.next_time(ADA) is None


async def test_a_clock_that_is_behind_gains_nothing(bench: Bench) -> None:
    await bench.guesses(10)
    bench.wait(-300)
    assert await bench.guess() == 301
    bench.wait(301)
    assert await bench.guess() == 0
    assert await bench.guess() == pytest.approx(2, abs=0.1)


async def test_the_prune_removes_what_has_decayed_and_nothing_else(bench: Bench, conn: Connection) -> None:
    await bench.guess(BOB, THERE)
    await bench.guesses(8)
    bench.wait(901)
    assert await bench.throttle.prune() == 2
    assert await bench.guesses(3) == [0] * 3
    bench.wait(8 * 600)
    assert await bench.throttle.prune() == 0
    bench.wait(2 * 600)
    assert await bench.throttle.prune() == 2
    cursor = await conn.execute("SELECT count(*) FROM password_attempts")
    assert await cursor.fetchone() == (0,)


async def test_the_table_tells_no_addresses(bench: Bench, conn: Connection) -> None:
    await bench.guess()
    cursor = await conn.execute("SELECT encode(key, 'escape') FROM password_attempts")
    keys = str(await cursor.fetchall())
    assert "ada" not in keys
    assert HERE not in keys


async def test_what_cannot_be_counted_is_not_attempted(fragile: Fragile) -> None:
    from service.db import Database, PoolOptions  # noqa: PLC0415 - of this test alone

    async with Database(fragile.url, PoolOptions(acquire_timeout=1)) as database:
        await fragile.server.stop()
        with pytest.raises(DependencyUnavailable):
            await Bench(database).throttle.reserve(ADA, HERE, None)


@pytest.mark.parametrize(
    ("source", "network"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("::ffff:198.51.100.7", "198.51.100.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unix", "unix"),
        ("", ""),
    ],
)
def test_a_source_is_an_address_or_a_subscribers_network(source: str, network: str) -> None:
    assert network_of(source) == network
