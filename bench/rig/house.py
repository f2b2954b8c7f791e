"""The processes that are measured: PostgreSQL, the service as in production, the floor, the peers; their generators.

With two cores or more, what is measured has the first to itself and everything else has the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.rig.frames import Outcome, Request, Spec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

RIG = Path(__file__).parent
ROOT = RIG.parents[1]
CORES = sorted(os.sched_getaffinity(0))
MEASURED = CORES[:1]
OTHERS = CORES[1:] or CORES
H2LOAD = shutil.which("h2load")
_PAGE = 4096


@contextmanager
def on(cores: Sequence[int]) -> Iterator[None]:
    """Have processes that are started within this run on `cores`."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass
class Process:
    """A process that is measured."""

    popen: subprocess.Popen[bytes]
    port: int
    ops_port: int = 0
    started_in: float = 0.0
    """Seconds from the start to SERVING."""
    log: Path | None = None

    @property
    def pids(self) -> list[int]:
        """Itself and its children."""
        found, wanted = [], [self.popen.pid]
        while wanted:
            pid = wanted.pop()
            found.append(pid)
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    wanted += [int(child) for child in (task / "children").read_text().split()]
        return found

    def cpu(self) -> float:
        """Return the seconds of CPU used so far."""
        ticks = 0
        for pid in self.pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def rss(self) -> float:
        """Return the resident memory of the largest process, MiB."""
        return max(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.pids) * _PAGE / 2**20

    def stop(self) -> None:
        self.popen.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(15)
        if self.popen.returncode is None:
            self.popen.kill()
            self.popen.wait()


@dataclass
class House:
    """Where everything runs: a folder, a database, what collects traces."""

    folder: Path
    database_url: str
    otlp_endpoint: str
    gatelodge: str
    """The command that is measured."""
    started: list[Process] = field(default_factory=list)

    def environ(self, **settings: str) -> dict[str, str]:
        """Return production's settings: logs, metrics, one call in a hundred traced."""
        return {
            "PATH": "/usr/bin:/bin",
            "APP_ENV": "production",
            "APP_DATABASE__URL": self.database_url,
            "APP_AUTH__MASTER_SECRET": "only for this benchmark, 32 and more",
            "APP_SERVER__HOST": "127.0.0.1",
            "APP_SERVER__PORT": "0",
            "APP_OPS__HOST": "127.0.0.1",
            "APP_OPS__PORT": "0",
            "APP_SERVER__DRAIN_LINGER_SECONDS": "0",
            "APP_TRACING__OTLP_ENDPOINT": self.otlp_endpoint,
            "APP_TRACING__SAMPLE_RATIO": "0.01",
            # All load comes from one address, which would be throttled soon.
            "APP_AUTH__THROTTLE__SOURCE_FREE_ATTEMPTS": "1000000",
            "APP_AUTH__THROTTLE__ACCOUNT_FREE_ATTEMPTS": "1000000",
            **settings,
        }

    def migrate(self) -> None:
        """Bring the schema up to date, as before a deployment."""
        done = subprocess.run(
            [self.gatelodge, "migrate"],
            env=self.environ(),
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"gatelodge migrate: {done.stderr}")

    async def service(self, cores: Sequence[int] = MEASURED, **settings: str) -> Process:
        """Start the service and wait until it serves."""
        log = self.folder / f"service-{len(self.started)}.log"
        began = time.perf_counter()
        with on(cores), log.open("wb") as out:
            popen = subprocess.Popen(
                [self.gatelodge, "serve"], env=self.environ(**settings), cwd=self.folder, stderr=out, stdout=out
            )
        served = await self._until(popen, log, rb'"event":"serving"')
        took = time.perf_counter() - began
        event = json.loads(served)
        port, ops = (int(str(event[name]).rpartition(":")[2]) for name in ("address", "ops_address"))
        return self._keep(Process(popen, port, ops, took, log))

    async def floor(self, kind: str = "stock", cores: Sequence[int] = MEASURED) -> Process:
        """Start the hello-world server, ``stock`` or ``ours``."""
        return await self._printing([str(RIG / "floor.py"), kind], cores)

    async def peer(self, kind: str, jwks: Path, cores: Sequence[int] = MEASURED) -> Process:
        """Start the FastAPI application, ``bare`` or ``full``."""
        arguments = [str(RIG / "peer.py"), kind, self.database_url, str(jwks), "gatelodge", self.otlp_endpoint]
        return await self._printing(arguments, cores)

    async def _printing(self, arguments: list[str], cores: Sequence[int]) -> Process:
        log = self.folder / f"process-{len(self.started)}.log"
        with on(cores), log.open("wb") as out:
            popen = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, stderr=out, cwd=self.folder)
        assert popen.stdout is not None
        line = await asyncio.to_thread(popen.stdout.readline)
        if not line:
            raise RuntimeError(f"{arguments} did not start: {log.read_text()[-2000:]}")
        return self._keep(Process(popen, int(line)))

    async def _until(self, popen: subprocess.Popen[bytes], log: Path, wanted: bytes) -> bytes:
        for _ in range(4000):
            line = next((line for line in log.read_bytes().splitlines() if wanted in line), None)
            if line is not None:
                return line
            if popen.poll() is not None:
                break
            await asyncio.sleep(0.005)
        raise RuntimeError(f"the service did not start: {log.read_text()[-2000:]}")

    def _keep(self, process: Process) -> Process:
        self.started.append(process)
        return process


def as_in_the_image(tree: Path) -> str:
    """Build what the image holds, and return its command; where that fails, the development environment's."""
    here = Path(sys.executable)
    fast = os.uname().machine == "x86_64" and any(shutil.which(name) for name in ("cc", "gcc"))
    command = ["sh", str(ROOT / "deploy" / "image" / "build-tree.sh"), str(tree), str(here)]
    environ = {**os.environ, "UV": str(here.with_name("uv")), "ARGON2_V3": "yes" if fast else "no"}
    if not fast:
        print("note: no C compiler, or not x86-64: argon2 is the wheel's", file=sys.stderr)
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"note: measured is the development environment; the image's tree: {done.stderr[-500:]}", file=sys.stderr)
        return str(here.with_name("gatelodge"))
    return str(tree / "bin" / "gatelodge")


@asynccontextmanager
async def house() -> AsyncIterator[House]:
    """Build it, and end every process it started."""
    from tests.app.collector import collecting  # noqa: PLC0415 - likewise

    from service.db.embedded import EmbeddedPostgres  # noqa: PLC0415 - after the path was set

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with on(OTHERS):
            postgres = EmbeddedPostgres(folder / "postgres", durable=True)
            url = await postgres.start()
        gatelodge = os.environ.get("BENCH_GATELODGE", "")
        if not gatelodge:
            gatelodge = await asyncio.to_thread(as_in_the_image, folder / "tree")
        async with collecting() as collector:
            built = House(folder, url, collector.endpoint, gatelodge)
            try:
                yield built
            finally:
                for process in built.started:
                    if process.popen.poll() is None:
                        await asyncio.to_thread(process.stop)
                await postgres.stop()


async def frames(spec: Spec, cores: Sequence[int] = OTHERS) -> Outcome:
    """Run the frame generator in a process of its own."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(asdict(spec), file)
        file.flush()
        with on(cores):
            process = await asyncio.create_subprocess_exec(
                sys.executable, str(RIG / "frames.py"), file.name, stdout=asyncio.subprocess.PIPE
            )
        out, _ = await process.communicate()
    return Outcome(**json.loads(out))


@dataclass(frozen=True)
class Flood:
    """What h2load counted."""

    calls: int
    per_second: float
    failed: int


async def h2load(
    url: str, headers: Mapping[str, str], *, body: Path | None, seconds: float, in_flight: int, http1: bool = False
) -> Flood:
    """Have h2load send one request over and over."""
    assert H2LOAD is not None
    streams = 1 if http1 else 16
    command = [
        H2LOAD,
        *(["--h1"] if http1 else []),
        f"--duration={seconds}",
        f"-c{in_flight // streams}",
        f"-m{streams}",
        *(["-d", str(body)] if body else []),
        *[argument for name, value in headers.items() for argument in ("-H", f"{name}: {value}")],
        url,
    ]
    with on(OTHERS):
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out = (await process.communicate())[0].decode()
    rate = re.search(r"finished in [^,]+, ([0-9.]+) req/s", out)
    counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", out)
    good = re.search(r"status codes: (\d+) 2xx", out)
    if rate is None or counts is None or good is None:
        raise RuntimeError(f"h2load said nothing of use: {out[-2000:]}")
    bad = re.search(r"2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", out)
    failed = int(counts[2]) + int(counts[3]) + (sum(map(int, bad.groups())) if bad else 0)
    return Flood(int(good[1]), float(rate[1]), failed)


def grpc_headers(token: str = "") -> dict[str, str]:
    """Return the headers of a gRPC call."""
    return {
        "content-type": "application/grpc",
        "te": "trailers",
        **({"authorization": f"Bearer {token}"} if token else {}),
    }


def call(path: str, message: Any, token: str = "") -> Request:
    """Return a call for the frame generator."""
    metadata = {"authorization": f"Bearer {token}"} if token else {}
    return Request(path, metadata, message.SerializeToString().hex())
