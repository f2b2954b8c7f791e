"""Password hashes: their format, the pepper, the bounds on stored ones, and the pool they are computed in."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from argon2 import PasswordHasher

from service.auth.hashing import Argon2Parameters, Hasher
from service.auth.passwords import Password
from service.errors import Overloaded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CHEAP = Argon2Parameters(memory_kib=64, time_cost=1)
DEAR = Argon2Parameters(memory_kib=19456, time_cost=2)
Foreground = partial(Hasher, background=False)
"""Beside other tests, which keep the cores busy, hashes in the background would take seconds."""
RIGHT, WRONG = Password.parse("correct horse battery staple"), Password.parse("incorrect horse battery staple")


def hasher(*, pepper: bytes | None = None) -> Hasher:
    return Foreground(CHEAP, threads=2, queue=8, pepper=pepper, took=lambda _: None)


@asynccontextmanager
async def held(*, queue: int) -> AsyncIterator[tuple[Hasher, threading.Event]]:
    """Yield a hasher of one thread, on which no hash ends until the event is set."""
    go_on = threading.Event()
    go_on.set()  # for the first hash, of a password nobody has
    async with Foreground(CHEAP, threads=1, queue=queue, pepper=None, took=lambda _: expect(go_on)) as entered:
        go_on.clear()
        try:
            yield entered, go_on
        finally:
            go_on.set()


def expect(event: threading.Event) -> None:
    assert event.wait(20)


@pytest.fixture
async def cheap() -> AsyncIterator[Hasher]:
    async with hasher() as entered:
        yield entered


async def test_a_hash_is_argon2id_with_the_parameters_asked_for(cheap: Hasher) -> None:
    assert (await cheap.hash(RIGHT)).startswith("$argon2id$v=19$m=64,t=1,p=1$")


async def test_the_right_password_matches_and_no_other(cheap: Hasher) -> None:
    stored = await cheap.hash(RIGHT)
    assert (await cheap.verify(RIGHT, stored)).matches
    assert not (await cheap.verify(WRONG, stored)).matches


async def test_without_a_stored_hash_nothing_matches(cheap: Hasher) -> None:
    assert not (await cheap.verify(RIGHT, None)).matches


async def test_verifying_without_a_stored_hash_computes_one_all_the_same() -> None:
    took: list[float] = []
    async with Foreground(CHEAP, threads=1, queue=1, pepper=None, took=took.append) as entered:
        before = len(took)
        await entered.verify(RIGHT, None)
        assert len(took) == before + 1


@pytest.mark.parametrize(
    "stored",
    [PasswordHasher(1, 8, 1).hash("another"), "nonsense", "hmac-sha256:$argon2id$v=19$m=64,t=1,p=1$eA$eA"],
    ids=["of other cost", "no hash", "peppered"],
)
async def test_a_wrong_guess_at_an_old_hash_spends_a_hash_of_todays_cost(stored: str) -> None:
    at: list[float] = []  # on the thread's own clock, which stands still while others have the processor
    async with Foreground(
        DEAR, threads=1, queue=1, pepper=None, took=lambda _: at.append(time.thread_time())
    ) as entered:
        await entered.verify(WRONG, None)
        await entered.verify(WRONG, stored)
    start, unknown, old = at
    assert old - unknown > (unknown - start) / 2


@pytest.mark.parametrize(
    ("stored", "pepper"),
    [
        (PasswordHasher(2, 16384, 1).hash("another"), b"introduced since"),
        (PasswordHasher(1, 24576, 1).hash("another"), None),
    ],
    ids=["before the pepper", "of lower cost"],
)
async def test_a_wrong_guess_at_an_old_hash_costs_as_much_as_one_at_an_unknown_account(
    stored: str, pepper: bytes | None
) -> None:
    at: list[float] = []  # on the thread's own clock, which stands still while others have the processor
    parameters = Argon2Parameters(memory_kib=16384, time_cost=2)
    async with Foreground(
        parameters, threads=1, queue=1, pepper=pepper, took=lambda _: at.append(time.thread_time())
    ) as entered:
        for _ in range(12):
            await entered.verify(WRONG, None)
            await entered.verify(WRONG, stored)
    took = [end - start for start, end in pairwise(at)]
    unknown, old = min(took[0::2]), min(took[1::2])
    assert unknown / 1.5 < old < unknown * 1.5


async def test_a_hash_with_other_parameters_matches_and_is_outdated(cheap: Hasher) -> None:
    verdict = await cheap.verify(RIGHT, PasswordHasher(2, 128, 1).hash(RIGHT.reveal()))
    assert (verdict.matches, verdict.outdated) == (True, True)
    verdict = await cheap.verify(RIGHT, await cheap.hash(RIGHT))
    assert (verdict.matches, verdict.outdated) == (True, False)


@pytest.mark.parametrize(
    "stored",
    ["", "nonsense", "$argon2id$v=19$m=64,t=1,p=1$x", "$2b$12$abcdefghijklmnopqrstuv", "\0", "hmac-sha256:"],
)
async def test_a_damaged_hash_matches_nothing(cheap: Hasher, stored: str) -> None:
    verdict = await cheap.verify(RIGHT, stored)
    assert (verdict.matches, verdict.outdated) == (False, False)


@pytest.mark.parametrize(("field", "value"), [("m=64", "m=4194304"), ("t=1", "t=100000"), ("p=1", "p=64")])
async def test_a_stored_hash_that_would_cost_too_much_is_not_computed(cheap: Hasher, field: str, value: str) -> None:
    stored = (await cheap.hash(RIGHT)).replace(field, value)
    async with asyncio.timeout(1):
        assert not (await cheap.verify(RIGHT, stored)).matches


async def test_a_peppered_hash_needs_its_pepper() -> None:
    async with hasher(pepper=b"a pepper that is secret") as peppered, hasher(pepper=b"another") as other:
        stored = await peppered.hash(RIGHT)
        assert (await peppered.verify(RIGHT, stored)).matches
        assert not (await other.verify(RIGHT, stored)).matches
    async with hasher() as plain:
        assert not (await plain.verify(RIGHT, stored)).matches


async def test_a_hash_marked_as_peppered_never_matches_without_a_pepper(cheap: Hasher) -> None:
    assert not (await cheap.verify(RIGHT, "hmac-sha256:" + await cheap.hash(RIGHT))).matches


async def test_a_pepper_can_be_introduced_later(cheap: Hasher) -> None:
    stored = await cheap.hash(RIGHT)
    async with hasher(pepper=b"a pepper that is secret") as peppered:
        verdict = await peppered.verify(RIGHT, stored)
    assert (verdict.matches, verdict.outdated) == (True, True)


async def test_more_than_threads_and_queue_are_refused_at_once() -> None:
    async with held(queue=2) as (entered, go_on):
        jobs = [asyncio.ensure_future(entered.verify(RIGHT, None)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as caught:
            await entered.verify(RIGHT, None)
        assert caught.value.retry_after > 0
        assert entered.stats().refused == 1
        with pytest.raises(Overloaded):
            entered.expect_room()
        go_on.set()
        await asyncio.gather(*jobs)
        entered.expect_room()
        await entered.verify(RIGHT, None)


async def test_new_passwords_leave_half_of_the_queue_to_those_who_log_in() -> None:
    async with held(queue=4) as (entered, go_on):
        jobs: list[asyncio.Future[object]] = [asyncio.ensure_future(entered.hash(RIGHT)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await entered.hash(RIGHT)
        jobs += [asyncio.ensure_future(entered.verify(RIGHT, None)) for _ in range(2)]
        go_on.set()
        await asyncio.gather(*jobs)


async def test_a_cancelled_job_gives_its_place_back() -> None:
    async with held(queue=1) as (entered, go_on):
        jobs = [asyncio.ensure_future(entered.verify(RIGHT, None)) for _ in range(2)]
        await asyncio.sleep(0)
        jobs[1].cancel()
        await asyncio.wait([jobs[1]])
        await asyncio.sleep(0)
        another = asyncio.ensure_future(entered.verify(RIGHT, None))
        go_on.set()
        await asyncio.gather(jobs[0], another)
        await asyncio.sleep(0)
        stats = entered.stats()
        assert (stats.active, stats.queued) == (0, 0)


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="only Linux has scheduling policies")
@pytest.mark.parametrize("background", [True, False])
async def test_only_in_the_background_threads_run_when_no_other_wants_to(*, background: bool) -> None:
    policies: list[int] = []

    def note(_: float) -> None:
        policies.append(os.sched_getscheduler(threading.get_native_id()))

    async with Hasher(CHEAP, threads=1, queue=1, background=background, pepper=None, took=note):
        pass
    assert policies == [os.SCHED_IDLE if background else os.sched_getscheduler(0)]
    assert os.sched_getscheduler(0) != os.SCHED_IDLE
