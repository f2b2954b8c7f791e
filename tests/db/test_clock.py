"""The shared clock: the database's time, whatever this machine's clock says."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from service.db import Database
from service.db.clock import DatabaseClock
from service.db.statements import ClockRow
from service.errors import DependencyUnavailable

if TYPE_CHECKING:
    from tests.conftest import Fragile

EPOCH = datetime(2030, 1, 1, tzinfo=UTC)


@dataclass
class World:
    """A database's clock and a network, as the test wants them: `out` and `back` are seconds on the way."""

    monotonic: float = 1000.0
    ahead: timedelta = timedelta()
    out: float = 0.001
    back: float = 0.001
    told: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.clock = DatabaseClock(
            self,  # type: ignore[arg-type]  # its one method that is used
            tell=self.told.append,
            monotonic=lambda: self.monotonic,
            system=lambda: self.true,
        )

    @property
    def true(self) -> datetime:
        return EPOCH + timedelta(seconds=self.monotonic)

    async def read(self, work: Any) -> Any:
        return await work(self)

    def cursor(self, **_: object) -> World:
        return self

    rowcount = 1

    async def execute(self, *_: object, **__: object) -> World:
        self.monotonic += self.out
        self.row = ClockRow(self.true + self.ahead)
        self.monotonic += self.back
        return self

    async def fetchone(self) -> ClockRow:
        return self.row

    def error(self) -> float:
        """Return how many seconds the clock is off from the database's."""
        return (self.clock() - self.true - self.ahead).total_seconds()


async def test_the_clock_says_what_the_database_says(url: str) -> None:
    async with Database(url) as database:
        clock = DatabaseClock(database)
        await clock.start()
        before = clock()
        now = await database.read(_now)
        # As near as the looks could tell, and no farther: what the bounds of all of them leave open.
        open_still = timedelta(seconds=clock._most - clock._least)
        assert open_still < timedelta(milliseconds=50)
        assert before - open_still <= now <= clock() + open_still
        assert now - before < timedelta(seconds=1)


async def _now(conn: Any) -> datetime:
    row = await (await conn.execute("SELECT clock_timestamp()")).fetchone()
    assert isinstance(row[0], datetime)
    return row[0]


async def test_a_wrong_system_clock_changes_nothing_and_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    world = World(ahead=timedelta(minutes=5))
    await world.clock.start()
    assert abs(world.error()) < 0.002
    for _ in range(10):
        world.monotonic += 5
        await world.clock.look()
    assert abs(world.error()) < 0.002
    assert world.told[-1] == pytest.approx(300, abs=0.01)
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert [record.getMessage() for record in warnings] == [
        "the system clock is off by -300.0 s from the database's, which is used"
    ]


async def test_a_slow_answer_does_no_harm() -> None:
    world = World()
    await world.clock.start()
    world.out, world.back = 4.0, 0.001
    await world.clock.look()
    assert abs(world.error()) < 0.01
    world.out, world.back = 0.001, 4.0
    await world.clock.look()
    assert abs(world.error()) < 0.01


async def test_a_slow_first_answer_is_made_up_for_by_the_next() -> None:
    world = World(out=2.0, back=0.0)
    await world.clock.look()
    assert world.told == [pytest.approx(1.0, abs=0.01)]
    world.out = 0.001
    await world.clock.look()
    assert abs(world.error()) < 0.01


async def test_the_clock_follows_a_database_whose_clock_was_set_forward() -> None:
    world = World()
    await world.clock.start()
    world.ahead = timedelta(seconds=30)
    await world.clock.look()
    assert abs(world.error()) < 0.01


@pytest.mark.parametrize("back", [0.5, 9.0])
async def test_the_clock_stands_still_rather_than_go_back_a_little(back: float) -> None:
    world = World()
    await world.clock.start()
    before = world.clock()
    world.ahead = timedelta(seconds=-back)
    await world.clock.look()
    assert world.clock() == before
    world.monotonic += back
    assert abs(world.error()) < 0.01


async def test_a_database_that_was_far_ahead_is_followed_back_at_once() -> None:
    world = World(ahead=timedelta(hours=1))
    await world.clock.start()
    world.clock()
    world.ahead = timedelta()
    await world.clock.look()
    assert abs(world.error()) < 0.01


async def test_without_its_database_the_clock_goes_on(fragile: Fragile) -> None:
    monotonic = 0.0
    async with Database(fragile.url) as database:
        clock = DatabaseClock(database, monotonic=lambda: monotonic)
        await clock.start()
        before = clock()
        await fragile.server.stop()
        monotonic += 60
        with pytest.raises(DependencyUnavailable):
            await clock.look()
        assert clock() - before == timedelta(seconds=60)
