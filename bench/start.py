"""How long does a start take, and how much memory does an idle worker hold?

Usage: ``make bench-start``. The database is up and its schema current. Wall time includes what else the machine does;
the processor time beside it does not.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.served import cpu_seconds, rss, serve

from service.db import schema
from service.db.embedded import EmbeddedPostgres

RESULTS = Path(__file__).parent / "results" / "start.json"
STARTS = 5
MOST_SECONDS, MOST_MIB = 1.5, 120


async def measure() -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="gatelodge-bench-") as folder:
        async with EmbeddedPostgres(Path(folder) / "postgres", durable=False) as postgres:
            url = await postgres.start()
            await schema.migrate(url, lambda _migration, _seconds: None)
            environ = {"APP_DATABASE__URL": url, "APP_AUTH__MASTER_SECRET": "0123456789abcdef0123456789abcdef"}
            return await measured(environ)


async def measured(environ: dict[str, str]) -> dict[str, Any]:
    wall, cpu = [], []
    for _ in range(STARTS):
        start = time.perf_counter()
        async with serve(environ) as one:
            wall.append(time.perf_counter() - start)
            cpu.append(cpu_seconds(one.process.pid))
            await asyncio.sleep(1)
            alone = rss(one.process.pid)
    start = time.perf_counter()
    async with serve(environ | {"APP_SERVER__WORKERS": "2"}) as several:
        both = time.perf_counter() - start
        await asyncio.sleep(1)
        workers = [rss(line["pid"]) for line in several.lines if line["event"] == "worker serves"]
        parent = rss(several.process.pid)
    return {
        "start_seconds": round(statistics.median(wall), 2),
        "start_cpu_seconds": round(statistics.median(cpu), 2),
        "start_seconds_two_workers": round(both, 2),
        "rss_mib": round(alone),
        "rss_mib_worker": round(max(workers)),
        "rss_mib_parent": round(parent),
    }


def main() -> int:
    result = asyncio.run(measure())
    print(json.dumps(result, indent=2))
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    good = result["start_seconds"] <= MOST_SECONDS and result["rss_mib_worker"] <= MOST_MIB
    print("within" if good else "NOT within", f"{MOST_SECONDS} s and {MOST_MIB} MiB")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
