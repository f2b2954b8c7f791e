"""Does any call fail while workers are replaced?

Usage: ``make soak-reload``, or ``python -m bench.soak_reload [calls_per_second seconds]``. Two workers under a steady
load of calls: on connections that are kept, half of which watch health, and one in ten on a connection of its own.
SIGHUP comes every few seconds. No client retries.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from bench.served import Served, serve
from gatelodge.auth.v1 import tokens_pb2, tokens_pb2_grpc

from service.db import schema
from service.db.embedded import EmbeddedPostgres

RESULTS = Path(__file__).parent / "results" / "soak_reload.json"
CHANNELS = 16
EVERY = 6.0
WATCHING = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": "gatelodge.auth.v1.TokenService"},
    }
)
NO_RETRIES = ("grpc.enable_retries", 0)


def opened(address: str, *, watching: bool = False) -> grpc.aio.Channel:
    options: list[tuple[str, Any]] = [("grpc.use_local_subchannel_pool", 1), NO_RETRIES]
    return grpc.aio.insecure_channel(address, options=options + [("grpc.service_config", WATCHING)] * watching)


async def call(channel: grpc.aio.Channel, tally: Counter[str]) -> None:
    stub: tokens_pb2_grpc.TokenServiceAsyncStub = tokens_pb2_grpc.TokenServiceStub(channel)
    try:
        await stub.GetJwks(tokens_pb2.GetJwksRequest(), timeout=10)
    except grpc.aio.AioRpcError as error:
        tally[f"{error.code().name}: {error.details()}"] += 1
    else:
        tally["OK"] += 1


async def call_once(address: str, tally: Counter[str]) -> None:
    async with opened(address) as channel:
        await call(channel, tally)


async def load(address: str, rate: float, seconds: float) -> Counter[str]:
    """Call at a steady rate, whatever the answers take."""
    channels = [opened(address, watching=n % 2 == 0) for n in range(CHANNELS)]
    tally, calls = Counter[str](), set[asyncio.Task[None]]()
    start = time.perf_counter()
    for n in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, start + n / rate - time.perf_counter()))
        work = call_once(address, tally) if n % 10 == 0 else call(channels[n % CHANNELS], tally)
        task = asyncio.create_task(work)
        calls.add(task)
        task.add_done_callback(calls.discard)
    await asyncio.gather(*calls)
    for channel in channels:
        await channel.close()
    return tally


async def reload(server: Served, done: asyncio.Event) -> None:
    while not done.is_set():
        server.process.send_signal(signal.SIGHUP)
        await asyncio.sleep(EVERY)


async def soak(rate: float, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="gatelodge-bench-") as folder:
        async with EmbeddedPostgres(Path(folder) / "postgres", durable=False) as postgres:
            url = await postgres.start()
            await schema.migrate(url, lambda _migration, _seconds: None)
            environ = {
                "APP_DATABASE__URL": url,
                "APP_AUTH__MASTER_SECRET": "0123456789abcdef0123456789abcdef",
                "APP_SERVER__WORKERS": "2",
                "APP_SERVER__WORKER_CONNECTION_AGE_SECONDS": "2",
                "APP_SERVER__DRAIN_LINGER_SECONDS": "1.5",
            }
            async with serve(environ) as server:
                address = (await server.until("serving"))["address"]
                done = asyncio.Event()
                reloading = asyncio.ensure_future(reload(server, done))
                tally = await load(address, rate, seconds)
                done.set()
                reloading.cancel()
                replaced = sum(line["event"] == "worker replaced" for line in server.lines)
    failed = {name: count for name, count in tally.items() if name != "OK"}
    return {"calls_per_second": rate, "seconds": seconds, "ok": tally["OK"], "failed": failed, "replaced": replaced}


def main() -> int:
    rate, seconds = (float(argument) for argument in (sys.argv[1:] or ["200", "30"]))
    result = asyncio.run(soak(rate, seconds))
    print(json.dumps(result, indent=2))
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if result["replaced"] >= 2 and not result["failed"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
