"""Replicas of the service, each a process of its own on a port of its own, that are replaced while others serve."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from tests.app.conftest import environment
from tests.app.envoy import free_ports
from tests.app.process import GATELODGE, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from tests.app.release import Release

_STOP_SECONDS = 30


class Replica:
    """One place in the cluster, in which one process after the other serves.

    Args:
        url: the database.
        folder: for its files.
        environ: variables besides the usual ones, by their names after ``APP_``.

    """

    def __init__(self, url: str, folder: Path, environ: Mapping[str, str]) -> None:
        (self._port,) = free_ports(1)
        self._environ = environment(
            url, folder, **{"SERVER__PORT": str(self._port), "DATABASE__MIGRATE_ON_START": "false", **environ}
        )
        self._running = AsyncExitStack()

    @property
    def address(self) -> str:
        """Where it serves, whoever serves there now."""
        return f"127.0.0.1:{self._port}"

    async def start(self, release: Release | None = None) -> None:
        """Serve by the code of `release`, or that of the environment."""
        more, command = (release.environ, release.command) if release else ({}, (GATELODGE,))
        self._served = await self._running.enter_async_context(serving({**self._environ, **more}, command))

    async def stop(self) -> None:
        """Send SIGTERM and wait for the end, which must be a good one."""
        self._served.process.send_signal(signal.SIGTERM)
        status = await asyncio.wait_for(self._served.process.wait(), _STOP_SECONDS)
        await self._running.aclose()
        assert status == 0, f"exited {status}"

    async def kill(self) -> None:
        """End what runs, if anything does, at once."""
        await self._running.aclose()


@asynccontextmanager
async def replicas(
    count: int, url: str, folder: Path, release: Release | None = None, **environ: str
) -> AsyncIterator[list[Replica]]:
    """Run `count` of them until the block is left."""
    started = [Replica(url, folder, environ) for _ in range(count)]
    try:
        await asyncio.gather(*(replica.start(release) for replica in started))
        yield started
    finally:
        for replica in started:
            await replica.kill()
