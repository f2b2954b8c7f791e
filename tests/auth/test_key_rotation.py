"""The life of signing keys on a real database: what is due when, who may do what, races, and what is at rest."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import psycopg
import pytest
from uuid_utils.compat import uuid7

from service.auth.key_ring import KeyRing
from service.auth.key_rotation import KeyRotation, KeyTerms, Step
from service.auth.key_store import KeyState, KeyStore
from service.auth.keys import from_bytes, new_key
from service.auth.resealing import Resealed, reseal
from service.auth.root import root_secret
from service.auth.sealing import KeysUnreadable, Seal
from service.db import Database
from service.errors import CannotRun, SigningKeyNotFound, SigningKeyState
from service.events.journal import Journal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.auth.key_store import Keys
    from service.db import Connection

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SEAL = Seal(b"m" * 32)
DAYS, PUBLISH, KEEP = timedelta(days=30), timedelta(minutes=10), timedelta(minutes=17)


@dataclass
class World:
    """One service's rules, and a clock that the test moves."""

    database: Database
    seal: Seal = SEAL
    now: datetime = NOW
    algorithm: str = "ES256"
    monotonic: float = 100.0
    reads: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rotation = KeyRotation(
            database=self.database,
            seal=self.seal,
            journal=Journal(new_id=uuid7),
            clock=lambda: self.now,
            terms=KeyTerms(self.algorithm, DAYS, PUBLISH, KEEP),
        )
        self.store = KeyStore(database=self.database, seal=self.seal, clock=lambda: self.now, keep=KEEP)

    async def ring(self) -> KeyRing:
        await self.rotation.begin()
        return await KeyRing.opened(self.store)

    async def states(self) -> list[str]:
        return [key.state for key in await self.rotation.keys()]


@pytest.fixture
async def world(url: str) -> AsyncIterator[World]:
    async with Database(url) as database:
        yield World(database)


@pytest.fixture
async def conn(url: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        yield connection


async def events(conn: Connection) -> list[str]:
    rows = await (await conn.execute("SELECT type FROM events ORDER BY id")).fetchall()
    return [row[0] for row in rows]


@asynccontextmanager
async def replicas(url: str, count: int) -> AsyncIterator[list[World]]:
    async with Database(url) as database:
        yield [World(database) for _ in range(count)]


async def test_replicas_that_start_together_agree_on_one_key_and_one_root_secret(url: str, conn: Connection) -> None:
    async with replicas(url, 8) as worlds:
        rings = await asyncio.gather(*(world.ring() for world in worlds))
        roots = await asyncio.gather(*(root_secret(world.database, SEAL) for world in worlds))
    assert len({ring.active.public.kid for ring in rings}) == 1
    assert {len(ring.verifying) for ring in rings} == {1}
    assert len(set(roots)) == 1
    assert len(roots[0]) == 32
    assert await events(conn) == ["key.activated"]


async def test_a_rotation_goes_by_itself_when_its_time_has_come(world: World, conn: Connection) -> None:
    old = (await world.ring()).active.public.kid
    world.now = NOW + DAYS - PUBLISH - timedelta(seconds=1)
    assert await world.rotation.rotate() == 0
    world.now += timedelta(seconds=1)
    assert await world.rotation.rotate() == 1
    assert await world.states() == ["active", "staged"]
    world.now += PUBLISH - timedelta(seconds=1)
    assert await world.rotation.rotate() == 0
    world.now += timedelta(seconds=1)
    assert await world.rotation.rotate() == 1
    retired, active = await world.rotation.keys()
    assert (retired.kid, retired.state, retired.retire_time) == (old, KeyState.RETIRED, world.now)
    assert (active.state, active.activate_time) == (KeyState.ACTIVE, world.now)
    world.now += KEEP - timedelta(seconds=1)
    assert old in (await world.store.load()).verifying
    world.now += timedelta(seconds=1)
    assert list((await world.store.load()).verifying) == [active.kid]
    assert await world.rotation.rotate() == 1
    assert await (await conn.execute("SELECT count(*) FROM signing_keys")).fetchone() == (1,)
    assert await events(conn) == ["key.activated", "key.staged", "key.retired", "key.activated", "key.retired"]


async def test_a_changed_algorithm_is_that_of_the_next_key_and_both_verify(url: str) -> None:
    async with Database(url) as database:
        await World(database).ring()
        after = World(database, algorithm="EdDSA")
        assert (await after.ring()).active.public.alg == "ES256"
        await after.rotation.advance(force=True)
        ring = await after.ring()
    assert ring.active.public.alg == "EdDSA"
    assert {key.alg for key in ring.verifying.values()} == {"ES256", "EdDSA"}


async def test_stagers_who_come_together_get_the_same_key(url: str, conn: Connection) -> None:
    async with replicas(url, 8) as worlds:
        await worlds[0].ring()
        staged = await asyncio.gather(*(world.rotation.stage() for world in worlds))
    assert len({key.kid for key in staged}) == 1
    assert await events(conn) == ["key.activated", "key.staged"]


async def test_activators_who_come_together_do_it_once(url: str, conn: Connection) -> None:
    async with replicas(url, 4) as worlds:
        await worlds[0].ring()
        kid = (await worlds[0].rotation.stage()).kid
        done = await asyncio.gather(
            *(world.rotation.activate(kid, force=True) for world in worlds), return_exceptions=True
        )
    assert sorted(type(one).__name__ for one in done) == ["KeyRecord", *["SigningKeyState"] * 3]
    assert (await events(conn)).count("key.retired") == 1


async def test_a_key_is_not_activated_before_verifiers_know_it_unless_by_force(world: World) -> None:
    await world.ring()
    kid = (await world.rotation.stage()).kid
    world.now = NOW + PUBLISH - timedelta(seconds=1)
    with pytest.raises(SigningKeyState):
        await world.rotation.activate(kid)
    assert (await world.rotation.activate(kid, force=True)).state is KeyState.ACTIVE


async def test_only_staged_keys_are_activated_and_the_active_one_is_not_removed(world: World) -> None:
    old = (await world.ring()).active.public.kid
    for refused in (world.rotation.activate(old, force=True), world.rotation.remove(old)):
        with pytest.raises(SigningKeyState) as caught:
            await refused
        assert caught.value.metadata == {"state": "active"}
    for missing in (world.rotation.activate("nobody"), world.rotation.remove("nobody")):
        with pytest.raises(SigningKeyNotFound):
            await missing
    world.now += timedelta(seconds=1)
    await world.rotation.advance(force=True)
    with pytest.raises(SigningKeyState):
        await world.rotation.activate(old, force=True)
    assert await world.states() == ["retired", "active"]


async def test_a_removed_key_is_gone_whether_retired_or_staged(world: World) -> None:
    ring = await world.ring()
    old = ring.active.public.kid
    await world.rotation.advance(force=True)
    staged = await world.rotation.stage()
    await ring.reload()
    assert len(ring.verifying) == 3
    await world.rotation.remove(old)
    await world.rotation.remove(staged.kid)
    await ring.reload()
    assert list(ring.verifying) == [ring.active.public.kid]
    assert await world.states() == ["active"]


async def test_a_person_takes_a_rotation_step_by_step(world: World) -> None:
    await world.ring()
    step, staged = await world.rotation.advance(force=False)
    assert (step, staged.state) == (Step.STAGED, KeyState.STAGED)
    assert await world.rotation.advance(force=False) == (Step.WAITING, staged)
    world.now = NOW + PUBLISH
    step, active = await world.rotation.advance(force=False)
    assert (step, active.kid, active.state) == (Step.ACTIVATED, staged.kid, KeyState.ACTIVE)


async def test_the_ring_learns_a_key_it_has_not_heard_of_and_asks_once_a_second(world: World) -> None:
    await world.rotation.begin()

    async def counted() -> object:
        world.reads.append(world.monotonic)
        return await world.store.load()

    keys = await world.store.load()
    assert keys.active is not None
    ring = KeyRing(keys.active, keys.verifying, load=counted, monotonic=lambda: world.monotonic)  # type: ignore[arg-type]
    junk = ["A" * 42 + chr(ord("a") + n) for n in range(20)]
    assert await asyncio.gather(*(ring.learn(kid) for kid in junk)) == [None] * 20
    assert len(world.reads) == 1
    _, fresh = await world.rotation.advance(force=True)
    assert await ring.learn(fresh.kid) is None
    world.monotonic += 1
    learned = await asyncio.gather(*(ring.learn(fresh.kid) for _ in range(20)))
    assert {key.kid for key in learned if key} == {fresh.kid}
    assert (len(world.reads), ring.changed, ring.active.public.kid) == (2, 1, fresh.kid)
    world.monotonic += 1
    assert await ring.learn("../../etc/passwd") is None
    assert await ring.learn(fresh.kid) is not None
    assert len(world.reads) == 2


async def test_forged_key_ids_do_not_queue_up_behind_a_database_that_does_not_answer(world: World) -> None:
    await world.rotation.begin()
    keys = await world.store.load()
    assert keys.active is not None
    asked: list[float] = []

    async def silent() -> Keys:
        asked.append(time.monotonic())
        await asyncio.sleep(60)
        raise AssertionError

    ring = KeyRing(keys.active, keys.verifying, load=silent)
    async with asyncio.timeout(10):
        assert await asyncio.gather(*(ring.learn("A" * 42 + chr(ord("a") + n)) for n in range(20))) == [None] * 20
    assert len(asked) == 1


async def test_nothing_secret_is_in_the_database_in_clear(world: World, conn: Connection) -> None:
    ring = await world.ring()
    root = await root_secret(world.database, SEAL)
    cursor = await conn.execute("SELECT private_key, public_jwk FROM signing_keys")
    row = await cursor.fetchone()
    assert row is not None
    box, jwk = bytes(row[0]), row[1]
    secret = ring.active.to_bytes()
    assert from_bytes(SEAL.open(box, label=ring.active.public.kid)).public == ring.active.public
    number = ring.active.private.private_numbers().private_value.to_bytes(32, "big")  # type: ignore[union-attr]
    assert number in secret  # or the next lines would show nothing
    for clear in (secret, number):
        assert clear not in box
    assert "d" not in jwk
    cursor = await conn.execute("SELECT sealed FROM root_secrets")
    assert root not in bytes((await cursor.fetchone() or [b""])[0])


async def test_sealed_boxes_cannot_be_swapped(world: World, conn: Connection) -> None:
    await world.ring()
    await world.rotation.advance(force=True)
    await conn.execute(
        "UPDATE signing_keys AS mine SET private_key = theirs.private_key FROM signing_keys AS theirs"
        " WHERE mine.kid <> theirs.kid AND mine.state = 'active'"
    )
    with pytest.raises(KeysUnreadable):
        await KeyRing.opened(world.store)


async def test_without_an_active_key_there_is_no_ring(world: World) -> None:
    with pytest.raises(CannotRun, match="no signing key is active"):
        await KeyRing.opened(world.store)


async def test_a_key_under_another_keys_id_is_refused(world: World, conn: Connection) -> None:
    """The label is the id: whoever can seal can still not give a key another's name."""
    kid = (await world.ring()).active.public.kid
    box = SEAL.seal(new_key().to_bytes(), label=kid)
    await conn.execute("UPDATE signing_keys SET private_key = %s", (box,))
    fresh = World(world.database)
    with pytest.raises(KeysUnreadable, match="another key"):
        await fresh.store.load(strict=True)


async def test_keys_do_not_open_under_another_master_secret(world: World) -> None:
    await world.ring()
    await root_secret(world.database, SEAL)
    other = World(world.database, seal=Seal(b"n" * 32))
    with pytest.raises(KeysUnreadable, match="previous_master_secrets"):
        await other.ring()
    with pytest.raises(KeysUnreadable):
        await root_secret(world.database, other.seal)
    with pytest.raises(KeysUnreadable):
        await reseal(world.database, other.seal)


async def test_a_running_ring_does_without_a_key_that_it_cannot_open(world: World) -> None:
    """Someone rotated under a master secret that this process was not given: it goes on signing with what it has."""
    ring = await world.ring()
    old = ring.active.public.kid
    other = World(world.database, seal=Seal(b"n" * 32, b"m" * 32))
    await other.ring()
    await other.rotation.advance(force=True)
    await ring.reload()
    assert (ring.active.public.kid, list(ring.verifying)) == (old, [old])


async def test_what_is_resealed_opens_under_the_new_secret_alone(world: World) -> None:
    before = await world.ring()
    root = await root_secret(world.database, SEAL)
    await world.rotation.stage()
    both, new = Seal(b"n" * 32, b"m" * 32), Seal(b"n" * 32)
    assert await reseal(world.database, both) == Resealed(3, 3)
    assert await reseal(world.database, both) == Resealed(0, 3)
    after = World(world.database, seal=new)
    assert (await after.ring()).active.public.kid == before.active.public.kid
    assert await root_secret(world.database, new) == root
    with pytest.raises(KeysUnreadable):
        await World(world.database).ring()
