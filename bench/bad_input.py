"""How long does a clear answer to bad input take, and what does it cost others? The fastest and the median of many.

Usage: ``make bench-bad-input``. Prints each kind of bad input with its status, beside a GetMe in the same run.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import grpc
import grpc.aio

sys.path.insert(0, str(Path(__file__).parents[1]))

from gatelodge.auth.v1 import auth_pb2
from google.protobuf import empty_pb2
from tests.app.client import Client
from tests.app.test_bad_input import CASES, REGISTER

from service.app import running
from service.db.embedded import EmbeddedPostgres
from service.settings import load
from service.telemetry import logging

TRIES = 50
LIMIT_MS = 10.0
RESULTS = Path(__file__).parent / "results" / "bad_input.json"


async def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        async with EmbeddedPostgres(Path(folder) / "postgres", durable=False) as postgres:
            url = await postgres.start()
            settings = load({"APP_ENV": "test", "APP_DATABASE__URL": url, "APP_DATABASE__EMBEDDED_DIR": folder + "/x"})
            logs = logging.configure(
                settings.log, service="gatelodge", version="bench", stream=Path(os.devnull).open("w")
            )
            async with running(settings) as app, Client(app.address, url) as client:
                rows = await measure(client)
            logs.close()
    RESULTS.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
    print(f"written to {RESULTS}")
    return 0 if all(row["median_ms"] < LIMIT_MS for row in rows.values()) else 1


async def measure(client: Client) -> dict[str, dict[str, float]]:
    ada = await client.user()
    rows = {}
    print(f"{'input':<36}{'status':<22}{'min ms':>8}{'median ms':>11}")
    for name, (body, code, _) in CASES.items():
        rows[name] = report(name, code, [await timed(client, body, code) for _ in range(TRIES)])
    took = []
    for _ in range(TRIES):
        start = time.perf_counter()
        await client.auth.GetMe(auth_pb2.GetMeRequest(), metadata=ada.metadata)
        took.append(time.perf_counter() - start)
    rows["GetMe, for comparison"] = report("GetMe, for comparison", "OK", took)
    return rows


async def timed(client: Client, body: bytes, code: str) -> float:
    call = client.channel.unary_unary(REGISTER, lambda raw: raw, empty_pb2.Empty.FromString)
    start = time.perf_counter()
    try:
        await call(body, timeout=5)
    except grpc.aio.AioRpcError as error:
        if error.code().name != code:
            raise
    return time.perf_counter() - start


def report(name: str, code: str, took: list[float]) -> dict[str, float]:
    least, median = min(took) * 1000, statistics.median(took) * 1000
    print(f"{name:<36}{code:<22}{least:>8.2f}{median:>11.2f}")
    return {"min_ms": round(least, 2), "median_ms": round(median, 2)}


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
