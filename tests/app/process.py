"""The service as its user runs it: a process of its own, with the ``gatelodge`` command."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

GATELODGE = str(Path(sys.executable).with_name("gatelodge"))


@dataclass
class Serving:
    """A ``gatelodge serve`` that serves."""

    process: asyncio.subprocess.Process
    lines: list[dict[str, Any]] = field(default_factory=list)
    """Its log so far."""
    said: str = ""
    """What the command says of its failure, for people, after the log."""

    @property
    def address(self) -> str:
        return str(self.event("serving")["address"])

    @property
    def ops_address(self) -> str:
        return str(self.event("serving")["ops_address"])

    def event(self, name: str) -> dict[str, Any]:
        return next(line for line in self.lines if line["event"] == name)

    async def read(self) -> None:
        assert self.process.stderr is not None
        async for raw in self.process.stderr:
            if raw.startswith(b"gatelodge: "):
                self.said = raw.decode()
                continue
            assert raw.startswith(b"{"), f"not a log line: {raw!r} {await self.process.stderr.read()!r}"
            self.lines.append(json.loads(raw))

    async def until(self, name: str) -> None:
        async with asyncio.timeout(20):
            while not any(line["event"] == name for line in self.lines):
                assert self.process.returncode is None, f"exited {self.process.returncode}: {self.lines}"
                await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(environ: Mapping[str, str], command: Sequence[str | Path] = (GATELODGE,)) -> AsyncIterator[Serving]:
    """Run ``gatelodge serve`` with nothing but `environ`, from when it serves until the block is left."""
    process = await asyncio.create_subprocess_exec(
        *command, "serve", env={"PATH": "/usr/bin:/bin", **environ}, stderr=asyncio.subprocess.PIPE
    )
    served = Serving(process)
    reader = asyncio.ensure_future(served.read())
    try:
        await served.until("serving")
        yield served
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reader


async def gatelodge(
    *arguments: str, environ: Mapping[str, str], stdin: str = "", cwd: Path | None = None
) -> tuple[int, str, str]:
    """Run one ``gatelodge`` command; return its exit status, stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        GATELODGE,
        *arguments,
        env={"PATH": "/usr/bin:/bin", **environ},
        cwd=cwd,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate(stdin.encode())
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()
