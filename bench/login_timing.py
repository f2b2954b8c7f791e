"""Does the time of Login or Register tell who has an account? Medians over many tries, interleaved, with their ratios.

Usage: ``make bench-timing``, or ``python bench/login_timing.py [tries]``. Starts the real service with production's
hash parameters on an embedded PostgreSQL of its own that waits for the disk, as production's does.

The floor of what can be told apart is the ratio of two halves of the *same* kind of try, printed as ``noise``.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import psycopg
from gatelodge.auth.v1 import auth_pb2, auth_pb2_grpc

from service.app import running
from service.db.embedded import EmbeddedPostgres
from service.settings import Settings, load
from service.telemetry import logging

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Stub = auth_pb2_grpc.AuthServiceAsyncStub

PASSWORD = "correct horse battery staple"
LOGIN_LIMIT = 1.05
RESULTS = Path(__file__).parent / "results" / "login_timing.json"


async def main(tries: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        postgres = EmbeddedPostgres(Path(folder) / "postgres")
        url = await postgres.start()
        try:
            login, register = await measure(url, folder, tries)
        finally:
            await postgres.stop()
    report = {"tries": tries, "login": summary(login, "wrong"), "register": summary(register, "new")}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written to {RESULTS}")
    ratios = report["login"]["ratio_to_wrong"].values()  # type: ignore[index]  # of our own making
    return 0 if all(1 / LOGIN_LIMIT <= ratio <= LOGIN_LIMIT for ratio in ratios) else 1


async def measure(url: str, folder: str, tries: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    environ = {
        "APP_ENV": "test",
        "APP_DATABASE__URL": url,
        "APP_DATABASE__EMBEDDED_DIR": f"{folder}/unused",
        "APP_AUTH__ARGON2__MEMORY_KIB": "19456",
        "APP_AUTH__ARGON2__TIME_COST": "2",
        "APP_AUTH__ARGON2__HASH_PRIORITY": "idle",
        # The throttle counts as ever; it is only not to refuse.
        "APP_AUTH__THROTTLE__ACCOUNT_FREE_ATTEMPTS": "1000000",
        "APP_AUTH__THROTTLE__SOURCE_FREE_ATTEMPTS": "1000000",
    }
    settings = load(environ)
    logs = logging.configure(settings.log, service="gatelodge", version="bench", stream=Path(os.devnull).open("w"))
    try:
        return await measured(settings, url, tries)
    finally:
        logs.close()


async def measured(settings: Settings, url: str, tries: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    async with running(settings) as app, grpc.aio.insecure_channel(app.address) as channel:
        stub: Stub = auth_pb2_grpc.AuthServiceStub(channel)
        await prepare(stub, url)
        login = await interleaved(tries, {kind: attempt(stub, kind) for kind in ("unknown", "wrong", "disabled")})
        register = await interleaved(tries, {"new": newcomer(stub), "taken": taken(stub)})
    return login, register


async def prepare(stub: Stub, url: str) -> None:
    for kind in ("wrong", "disabled"):
        await stub.Register(auth_pb2.RegisterRequest(email=f"{kind}@example.com", password=PASSWORD))
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        await conn.execute("UPDATE users SET state = 'disabled' WHERE email LIKE 'disabled%'")


def attempt(stub: Stub, kind: str) -> Callable[[int], Awaitable[None]]:
    async def login(_: int) -> None:
        password = "a wrong password, quite" if kind == "wrong" else PASSWORD
        try:
            await stub.Login(auth_pb2.LoginRequest(email=f"{kind}@example.com", password=password))
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
                raise
        else:
            raise AssertionError(f"{kind} logged in")

    return login


def newcomer(stub: Stub) -> Callable[[int], Awaitable[None]]:
    async def register(number: int) -> None:
        await stub.Register(auth_pb2.RegisterRequest(email=f"new{number}@example.com", password=PASSWORD))

    return register


def taken(stub: Stub) -> Callable[[int], Awaitable[None]]:
    async def register(_: int) -> None:
        await stub.Register(auth_pb2.RegisterRequest(email="wrong@example.com", password=PASSWORD))

    return register


async def interleaved(tries: int, kinds: dict[str, Callable[[int], Awaitable[None]]]) -> dict[str, list[float]]:
    """Time every kind in turn, so that whatever else the machine does falls on all of them alike."""
    times: dict[str, list[float]] = defaultdict(list)
    for number in range(-5, tries):
        # Turn about, or the second of two would always bear what the first one left to do.
        for kind, call in list(kinds.items())[:: 1 if number % 2 else -1]:
            start = time.perf_counter()
            await call(number)
            if number >= 0:
                times[kind].append(time.perf_counter() - start)
    return times


def summary(times: dict[str, list[float]], base: str) -> dict[str, object]:
    medians = {kind: statistics.median(of) for kind, of in times.items()}
    ratios = {kind: round(median / medians[base], 4) for kind, median in medians.items()}
    noise = round(statistics.median(times[base][::2]) / statistics.median(times[base][1::2]), 4)
    print(f"{'kind':<10}{'median ms':>12}{'÷ ' + base:>12}")
    for kind, median in medians.items():
        print(f"{kind:<10}{median * 1000:>12.2f}{ratios[kind]:>12.3f}")
    print(f"{'noise':<10}{'':>12}{noise:>12.3f}\n")
    return {
        "median_ms": {kind: round(median * 1000, 2) for kind, median in medians.items()},
        f"ratio_to_{base}": ratios,
        "noise": noise,
    }


if __name__ == "__main__":
    sys.exit(asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)))
