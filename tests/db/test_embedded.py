"""The embedded PostgreSQL: private, shared, found again, never root."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from tests.db.conftest import cache, forget

from service.db import embedded_home
from service.db.embedded import EmbeddedError, EmbeddedPostgres
from service.db.embedded_home import Account, find_home

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.asyncio
ROOT = os.geteuid() == 0
SOURCE = Path(__file__).parents[2] / "src"
OWNER = """
import asyncio, concurrent.futures.thread, os, sys
from pathlib import Path
import psycopg
from service.db.embedded import EmbeddedPostgres
become = int(sys.argv[3])
if become:
    os.setgroups([]), os.setgid(become), os.setuid(become)
async def main():
    server = EmbeddedPostgres(Path(sys.argv[1]), durable=False, cache_dir=Path(sys.argv[2]))
    url = await server.start()
    psycopg.connect(url).close()
    print(url, server.pid, flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await server.stop()
asyncio.run(main())
"""
STRANGER = """
import os, sys
import psycopg
os.setgroups([]), os.setgid(1234), os.setuid(1234)
psycopg.connect(sys.argv[1])
"""


@pytest.fixture(autouse=True)
def _forgotten(tmp_path: Path) -> Iterator[None]:
    yield
    forget(tmp_path)


def embedded(folder: Path) -> EmbeddedPostgres:
    return EmbeddedPostgres(folder, durable=False, cache_dir=cache())


def owner(folder: Path, become: int = 0) -> subprocess.Popen[str]:
    """Another process that uses the instance until it is told to leave."""
    command = [sys.executable, "-W", "error", "-c", OWNER, str(folder), str(cache()), str(become)]
    environment = {"PYTHONPATH": str(SOURCE), "PATH": "/usr/bin:/bin"}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def reachable(path: Path) -> bool:
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in path.resolve().parents)


def stranger(account: Account) -> subprocess.Popen[bytes]:
    user = {"user": account.uid, "group": account.gid, "extra_groups": []} if account.switch else {}
    return subprocess.Popen(["/bin/sleep", "60"], **user)  # type: ignore[call-overload, no-any-return]


def said(process: subprocess.Popen[str]) -> tuple[str, int]:
    assert process.stdout is not None
    url, pid = process.stdout.readline().split()
    return url, int(pid)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except OSError:
        return False


def uids(pid: int) -> list[str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line for line in lines if line.startswith("Uid:")).split()[1:]


def ask(url: str, sql: bytes) -> object:
    with psycopg.connect(url, autocommit=True) as conn:
        row = conn.execute(sql).fetchone()
        return row[0] if row else None


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    spaced = tmp_path / "a folder"
    spaced.mkdir()
    return spaced


async def test_data_outlives_a_restart_and_a_path_may_have_spaces(tmp_path: Path) -> None:
    server = embedded(tmp_path)
    url = await server.start()
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("CREATE TABLE kept AS SELECT 1 AS n")
    pid = server.pid
    await server.stop()
    assert pid
    assert not alive(pid)
    assert await server.start() == url
    assert ask(url, b"SELECT n FROM kept") == 1
    assert ask(url, b"SELECT datcollate || datlocale || pg_encoding_to_char(encoding) FROM pg_database LIMIT 1") == (
        "CC.UTF-8UTF8"
    )
    await server.stop()


async def test_the_server_is_no_root_listens_on_no_port_and_trusts_nobody(tmp_path: Path) -> None:
    server = embedded(tmp_path)
    url = await server.start()
    try:
        assert server.pid
        assert "0" not in uids(server.pid)
        assert ask(url, b"SHOW listen_addresses") == ""
        assert ask(url, b"SELECT string_agg(DISTINCT auth_method || type, ',') FROM pg_hba_file_rules") == "peerlocal"
        home = find_home(tmp_path, cache())
        assert stat.S_IMODE(home.sockets.stat().st_mode) == 0o700
        assert home.data not in home.sockets.parents
        assert stat.S_IMODE(home.log.stat().st_mode) == 0o600
    finally:
        await server.stop()


@pytest.mark.skipif(not ROOT, reason="needs another user to be")
async def test_another_user_is_not_let_in(tmp_path: Path) -> None:
    server = embedded(tmp_path)
    url = await server.start()
    command = [sys.executable, "-c", STRANGER, url]
    try:
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=False)
    finally:
        await server.stop()
    assert done.returncode != 0
    assert b"Permission denied" in done.stderr


async def test_a_server_left_by_a_killed_owner_is_found_and_used(tmp_path: Path) -> None:
    process = owner(tmp_path)
    url, pid = said(process)
    process.kill()
    process.communicate()
    assert alive(pid)
    server = embedded(tmp_path)
    assert await server.start() == url
    assert server.pid == pid
    await server.stop()
    assert not alive(pid)


async def test_the_server_runs_until_its_last_user_leaves(tmp_path: Path) -> None:
    process = owner(tmp_path)
    _, pid = said(process)
    second = embedded(tmp_path)
    url = await second.start()
    process.communicate("leave\n")
    assert process.returncode == 0
    assert second.pid == pid
    assert ask(url, b"SELECT 1") == 1
    await second.stop()
    assert not alive(pid)


async def test_many_may_start_at_once_and_share_one_server(tmp_path: Path) -> None:
    servers = [embedded(tmp_path) for _ in range(4)]
    assert len(set(await asyncio.gather(*(server.start() for server in servers)))) == 1
    (pid,) = {server.pid for server in servers}
    await asyncio.gather(*(server.stop() for server in servers))
    assert pid
    assert not alive(pid)


async def test_a_killed_server_is_started_again(tmp_path: Path) -> None:
    server = embedded(tmp_path)
    url = await server.start()
    for _ in range(3):
        assert server.pid
        os.kill(server.pid, signal.SIGKILL)
        assert await server.start() == url
        assert ask(url, b"SELECT 1") == 1
    await server.stop()


async def test_a_process_that_has_a_dead_servers_number_is_not_taken_for_it(tmp_path: Path) -> None:
    server = embedded(tmp_path)
    url = await server.start()
    data = find_home(tmp_path, cache()).data
    assert server.pid
    text = (data / "postmaster.pid").read_text()
    os.kill(server.pid, signal.SIGKILL)
    account = find_home(tmp_path, cache()).account
    other = stranger(account)
    try:
        (data / "postmaster.pid").write_text(text.replace(text.split()[0], str(other.pid), 1))
        (find_home(tmp_path, cache()).sockets / ".s.PGSQL.5432.lock").write_text(f"{other.pid}\n")
        assert await server.start() == url
        assert other.poll() is None
        assert ask(url, b"SELECT 1") == 1
    finally:
        other.kill()
        other.wait()
        await server.stop()


async def test_a_socket_folder_of_somebody_elses_making_is_refused(tmp_path: Path) -> None:
    sockets = find_home(tmp_path, cache()).sockets
    server = embedded(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    sockets.symlink_to(elsewhere)
    try:
        with pytest.raises(EmbeddedError, match="no link"):
            await server.start()
        sockets.unlink()
        sockets.mkdir(mode=0o755)
        with pytest.raises(EmbeddedError, match="mode 0700"):
            await server.start()
    finally:
        sockets.rmdir()


async def test_a_failed_start_tells_the_logs_last_lines(tmp_path: Path) -> None:
    server = embedded(tmp_path)
    await server.start()
    await server.stop()
    data = find_home(tmp_path, cache()).data
    (data / "postgresql.conf").write_text("nonsense = on\n")
    with pytest.raises(EmbeddedError, match='unrecognized configuration parameter "nonsense"'):
        await server.start()


async def test_a_cancelled_start_leaves_no_server(tmp_path: Path) -> None:
    server = embedded(tmp_path)
    starting = asyncio.create_task(server.start())
    await asyncio.sleep(0.2)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert server.pid is None


@pytest.mark.skipif(not ROOT, reason="is about root")
async def test_as_root_everything_lies_in_the_cache_and_no_mode_is_widened(tmp_path: Path) -> None:
    wanted = tmp_path / "private"
    wanted.mkdir(mode=0o700)
    server = embedded(wanted / "db")
    url = await server.start()
    assert ask(url, b"SELECT 1") == 1
    await server.stop()
    forget(wanted / "db")
    assert [path.name for path in wanted.rglob("*") if path.is_file()] == ["instance"]
    assert stat.S_IMODE(wanted.stat().st_mode) == 0o700


@pytest.mark.skipif(not ROOT, reason="an ordinary user is the server's account itself")
async def test_as_root_the_servers_own_account_may_not_log_in(tmp_path: Path) -> None:
    async with embedded(tmp_path / "db") as server:
        url = await server.start()
        home = embedded_home.find_home(tmp_path / "db", cache())
        command = home.account.command(str(home.binaries / "psql"), url, "-c", "SELECT 1")
        psql = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        _, complaint = await psql.communicate()
        assert psql.returncode != 0
        assert b"Peer authentication failed" in complaint
    forget(tmp_path / "db")


@pytest.mark.skipif(not ROOT, reason="only root reads what another account could have changed")
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/etc/passwd")])
async def test_a_pipe_or_a_link_in_place_of_the_pid_file_is_not_read(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    server = embedded(tmp_path / "db")
    await server.start()
    await server.stop()
    file = embedded_home.find_home(tmp_path / "db", cache()).data / "postmaster.pid"
    make(file)
    assert server.pid is None
    forget(tmp_path / "db")


@pytest.mark.skipif(not ROOT, reason="an ordinary user's data are in the folder itself")
async def test_as_root_too_removing_the_folder_begins_anew(tmp_path: Path) -> None:
    first = embedded_home.find_home(tmp_path / "db", cache())
    assert embedded_home.find_home(tmp_path / "db", cache()) == first
    shutil.rmtree(tmp_path / "db")
    again = embedded_home.find_home(tmp_path / "db", cache())
    assert again.folder != first.folder
    for home in (first, again):
        shutil.rmtree(home.folder)


@pytest.mark.skipif(not ROOT or not reachable(embedded_home._packaged()), reason="becomes another user")
async def test_an_ordinary_user_keeps_everything_under_its_own_folder() -> None:
    folder = Path(tempfile.mkdtemp(dir="/tmp", prefix="gatelodge own "))
    nobody = embedded_home.find_home(folder, cache()).account
    os.chown(folder, nobody.uid, nobody.gid)
    try:
        process = owner(folder / "db", nobody.uid)
        url, pid = await asyncio.to_thread(said, process)
        assert (folder / "db" / "pgdata" / "PG_VERSION").stat().st_uid == nobody.uid
        assert uids(pid) == [str(nobody.uid)] * 4
        assert "host=" in url
        process.communicate("leave\n")
        assert process.returncode == 0
        assert not alive(pid)
    finally:
        shutil.rmtree(folder)


async def test_starting_right_after_a_kill_gives_a_server_that_answers(tmp_path: Path) -> None:
    server = embedded(tmp_path / "db")
    for _ in range(5):
        url = await server.start()
        assert ask(url, b"SELECT 1") == 1
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
    await server.start()
    await server.stop()
    forget(tmp_path / "db")
