"""A ``gatelodge serve`` of its own process, for benches: its log lines, and what the system says of its processes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Served:
    """One that serves, with what it logged."""

    process: asyncio.subprocess.Process
    lines: list[dict[str, Any]] = field(default_factory=list)

    async def read(self) -> None:
        """Keep what it logs."""
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append(json.loads(line))

    async def until(self, event: str, count: int = 1, *, within: float = 60) -> dict[str, Any]:
        """Wait for the `count`-th line of an event and return it."""
        async with asyncio.timeout(within):
            while len(found := [line for line in self.lines if line["event"] == event]) < count:
                assert self.process.returncode is None, self.lines
                await asyncio.sleep(0.005)
        return found[-1]


@asynccontextmanager
async def serve(environ: Mapping[str, str]) -> AsyncIterator[Served]:
    """Run one until the block is left."""
    command = Path(sys.executable).with_name("gatelodge")
    process = await asyncio.create_subprocess_exec(
        command,
        "serve",
        env={
            "PATH": "/usr/bin:/bin",
            "APP_ENV": "test",
            "APP_AUTH__ARGON2__HASH_PRIORITY": "idle",  # production's
            **environ,
        },
        stderr=asyncio.subprocess.PIPE,
    )
    served = Served(process)
    reading = asyncio.ensure_future(served.read())
    try:
        await served.until("serving")
        yield served
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        await reading


def rss(pid: int) -> float:
    """Return the resident memory of a process, MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def cpu_seconds(pid: int) -> float:
    """Return the processor time a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK
