"""What tokens cost and how soon they die: verification, refreshes, and the lag of revocations under load.

Usage: ``make bench-sessions``. Each number stands beside a floor measured in the same loop: for a fresh token what
nobody can leave out, `cryptography`'s check of the signature and `json`'s reading of header and payload; for a repeated
one a look-up in a dict. The lag is from the answer of a Logout at one process to the first refusal by another, while
that one is called 500 times a second. A machine that does not get so far is told of: only answered calls count.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from uuid_utils.compat import uuid7

sys.path.insert(0, str(Path(__file__).parents[1]))

from gatelodge.auth.v1 import auth_pb2
from gatelodge.info.v1 import info_pb2
from tests.app.client import Client, Login
from tests.app.conftest import as_url, environment
from tests.app.process import serving

from service.auth.key_ring import KeyRing
from service.auth.keys import new_key
from service.auth.tokens import TokenIssuer, TokenTerms
from service.auth.verification import TokenVerifier
from service.clock import system_clock
from service.db import clone, migrations
from service.db.embedded import EmbeddedPostgres
from service.users.model import UserId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CALLS_A_SECOND = 500
ENOUGH = 0.95
"""Of the calls a second."""
MOST_OF_FLOOR = 1.5
"""What a fresh token may cost, of its floor."""
MOST_OF_FRESH = 0.1
"""What a repeated token may cost, of a fresh one."""
LOGOUTS = 60
REFRESHES = 400
MOST_PENDING = 100
ROUNDS = 10
TOKENS = 200
REPEATS = 10_000
RESULTS = Path(__file__).parent / "results" / "sessions.json"


def beside(work: Callable[[], object], floor: Callable[[], object], turns: int) -> dict[str, float]:
    """Time both in turn; return the fastest of ten rounds of each, which other work of the machine disturbs least."""
    rounds = [(microseconds(work, turns), microseconds(floor, turns)) for _ in range(ROUNDS)]
    took, least = (min(of) for of in zip(*rounds, strict=True))
    return {"us": round(took, 2), "floor_us": round(least, 2), "ratio": round(took / least, 2)}


def microseconds(work: Callable[[], object], turns: int) -> float:
    start = time.perf_counter()
    for _ in range(turns):
        work()
    return (time.perf_counter() - start) / turns * 1e6


def verification() -> dict[str, dict[str, float]]:
    key = new_key()
    ring = KeyRing(key, {key.public.kid: key.public})
    terms = TokenTerms("https://id.example", "internal", timedelta(minutes=15))
    issuer = TokenIssuer(terms=terms, keys=ring, clock=system_clock, new_id=uuid7)
    user, session, until = UserId(uuid7()), uuid7(), system_clock() + timedelta(days=1)
    tokens = [
        issuer.issue(user, session_id=session, roles=["auditor"], version=1, until=until).text for _ in range(TOKENS)
    ]
    verify = TokenVerifier(terms=terms, keys=ring, clock=system_clock)
    nothing = TokenVerifier(terms=terms, keys=ring, clock=system_clock, remember=0)
    fresh, bare, known, token = iter(tokens * ROUNDS), iter(tokens * ROUNDS), dict.fromkeys(tokens, 1), tokens[0]
    # As it comes from the wire: a text that was never hashed before.
    texts = iter([bytes(token, "ascii").decode() for _ in range(REPEATS * ROUNDS * 2)])

    public = key.public.key
    assert isinstance(public, ec.EllipticCurvePublicKey)
    return {
        "fresh token": beside(lambda: nothing(next(fresh)), lambda: least(next(bare), public), TOKENS),
        "repeated token": beside(lambda: verify(next(texts)), lambda: known[next(texts)], REPEATS),
    }


def least(token: str, key: ec.EllipticCurvePublicKey) -> tuple[object, object]:
    """Do what every reader of an ES256 token must, and judge nothing of what it says."""
    signed, _, signature = token.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    halves = (int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    key.verify(encode_dss_signature(*halves), signed.encode(), ec.ECDSA(hashes.SHA256()))
    header, payload = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in signed.split("."))
    return header, payload


async def refreshes(client: Client, users: list[Login]) -> float:
    """Return how many refreshes a second eight clients get out of one process."""

    async def chain(token: str) -> None:
        for _ in range(REFRESHES // 8):
            token = (await client.refresh(token)).refresh_token

    start = time.perf_counter()
    await asyncio.gather(*(chain(user.refresh_token) for user in users[:8]))
    return REFRESHES / (time.perf_counter() - start)


class Load:
    """Calls that need a token and nothing else, at a steady rate, or at what the machine can do."""

    def __init__(self, client: Client, who: Login) -> None:
        self._client, self._who = client, who
        self._pending: set[asyncio.Task[Any]] = set()
        self.answered = 0

    async def run(self) -> None:
        """Call until cancelled."""
        due = time.perf_counter()
        try:
            while True:
                due = max(due + 1 / CALLS_A_SECOND, time.perf_counter() - 0.1)
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                if len(self._pending) < MOST_PENDING:
                    self._call()
        finally:
            for task in self._pending:
                task.cancel()
            await asyncio.gather(*self._pending, return_exceptions=True)

    def _call(self) -> None:
        task = asyncio.ensure_future(information(self._client, self._who))
        self._pending.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[grpc.StatusCode]) -> None:
        self._pending.discard(task)
        if not task.cancelled() and task.result() is grpc.StatusCode.OK:
            self.answered += 1


async def information(client: Client, who: Login) -> grpc.StatusCode:
    call = client.info.GetServerInfo(info_pb2.GetServerInfoRequest(), metadata=who.metadata)
    return await call.code()


async def lags(here: Client, there: Client, who: Login) -> tuple[list[float], float]:
    """Log out here until it is noticed there; return the seconds of each, sorted, and the calls a second meanwhile."""
    load = Load(there, who)
    running = asyncio.ensure_future(load.run())
    start, took = time.perf_counter(), []
    try:
        for _ in range(LOGOUTS):
            user = await here.login("ada@example.com")
            assert (code := await information(there, user)) is grpc.StatusCode.OK, code
            await here.auth.Logout(auth_pb2.LogoutRequest(), metadata=user.metadata)
            ended = time.perf_counter()
            while (code := await information(there, user)) is grpc.StatusCode.OK:
                await asyncio.sleep(0.001)
            assert code is grpc.StatusCode.UNAUTHENTICATED, code
            took.append(time.perf_counter() - ended)
    finally:
        running.cancel()
        await asyncio.wait([running])
    return sorted(took), load.answered / (time.perf_counter() - start)


async def main() -> int:
    verified = verification()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = await stack.enter_async_context(EmbeddedPostgres(folder / "postgres", durable=False))
        admin = await postgres.start()
        url = as_url(
            await clone.clone(admin, await clone.template(admin, migrations.load(migrations.folder())), "bench")
        )
        # A line for each call is not what is measured here.
        environ = {**environment(url, folder), "APP_LOG__LEVELS": '{"gatelodge.access":"WARNING"}'}
        processes = [await stack.enter_async_context(serving(environ)) for _ in range(2)]
        here, there = [await stack.enter_async_context(Client(each.address, url)) for each in processes]
        users = [await here.user(f"user{number}@example.com") for number in range(8)]
        await here.user()
        rate = await refreshes(here, users)
        took, calls = await lags(here, there, users[0])
    p50, p99 = (took[int(len(took) * share)] * 1000 for share in (0.5, 0.99))
    lag = {
        "p50_ms": round(p50, 1),
        "p99_ms": round(p99, 1),
        "tries": len(took),
        "calls_per_second": round(calls),
        "calls_per_second_wanted": CALLS_A_SECOND,
    }

    print(f"{'verification':<18}{'us':>10}{'floor us':>12}{'ratio':>8}")
    for name, row in verified.items():
        print(f"{name:<18}{row['us']:>10.2f}{row['floor_us']:>12.2f}{row['ratio']:>8.2f}")
    print(f"\nrefreshes: {rate:.0f} a second, 8 at once, one process")
    print(f"revocation known in another process: p50 {p50:.0f} ms, p99 {p99:.0f} ms, under {calls:.0f} calls a second")
    results = {"verification": verified, "refreshes_per_second": round(rate), "revocation_lag": lag}
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(f"written to {RESULTS.relative_to(Path.cwd()) if RESULTS.is_relative_to(Path.cwd()) else RESULTS.name}")
    faults = list(missed(verified, p99, calls))
    for fault in faults:
        print(f"not shown: {fault}", file=sys.stderr)
    return 1 if faults else 0


def missed(verified: dict[str, dict[str, float]], p99: float, calls: float) -> Iterator[str]:
    """Yield what the numbers do not show of what they should."""
    fresh, repeated = verified["fresh token"], verified["repeated token"]
    if fresh["ratio"] > MOST_OF_FLOOR:
        yield f"a fresh token costs more than {MOST_OF_FLOOR} times its floor"
    if repeated["us"] > fresh["us"] * MOST_OF_FRESH:
        yield f"a repeated token costs more than {MOST_OF_FRESH} of a fresh one"
    if p99 >= 1000:
        yield "revocations are known within a second"
    if calls < CALLS_A_SECOND * ENOUGH:
        yield f"{CALLS_A_SECOND} calls a second: this machine answered {calls:.0f} meanwhile"


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
