"""Does a rolling restart of two replicas behind Envoy lose a call?

Usage: ``make soak-rolling``, or ``python -m bench.soak_rolling [seconds calls-per-second]``. Envoy, the replicas and an
embedded PostgreSQL of its own run on this machine, with the configuration of ``deploy/envoy`` and the service's own
defaults for going away. One replica after the other gets SIGTERM, ends, and is started anew, over and over.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.load import loading
from bench.replicas import replicas
from tests.app.envoy import running_envoy

from service.db.embedded import EmbeddedPostgres
from service.db.schema import migrate

RESULTS = Path(__file__).parent / "results" / "soak_rolling.json"
LINGER = "1.5"
"""server.drain_linger_seconds: production's default, which the test environment sets to 0."""


async def soak(url: str, folder: Path, *, seconds: float, rate: float, linger: str = LINGER) -> dict[str, Any]:
    """Restart replicas under load for `seconds` at least and until each was restarted; return what was seen."""
    restarts = 0
    async with (
        replicas(2, url, folder, SERVER__DRAIN_LINGER_SECONDS=linger) as both,
        running_envoy(folder, *(replica.address for replica in both)) as envoy,
        loading(envoy.address, url, rate) as load,
    ):
        end = time.monotonic() + seconds
        while time.monotonic() < end or restarts < len(both):
            replica = both[restarts % len(both)]
            await replica.stop()
            await envoy.healthy(1)
            await replica.start()
            await envoy.healthy(2)
            restarts += 1
        seen = {
            name: await asyncio.to_thread(envoy.stat, f"cluster.gatelodge.{stat}")
            for name, stat in {
                "retries": "upstream_rq_retry",
                "calls_without_a_healthy_replica": "lb_healthy_panic",
            }.items()
        }
    return {"seconds": seconds, "calls_per_second": rate, "restarts": restarts} | seen | load.report()


async def main(seconds: float, rate: float) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        postgres = EmbeddedPostgres(folder / "postgres")
        url = await postgres.start()
        try:
            await migrate(url, lambda _migration, _seconds: None)
            result = await soak(url, folder, seconds=seconds, rate=rate)
        finally:
            await postgres.stop()
    print(json.dumps(result, indent=2))
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    return int(result["failures"] > 0)


if __name__ == "__main__":
    arguments = [float(text) for text in sys.argv[1:]] or [30.0, 200.0]
    sys.exit(asyncio.run(main(*arguments)))
