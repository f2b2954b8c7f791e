"""The service behind PgBouncer in transaction mode: everything it does, over connections it shares with others.

Needs Debian's ``pgbouncer``; without it these tests say so and are skipped.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from gatelodge.events.v1 import events_pb2, events_pb2_grpc
from gatelodge.users.v1 import users_pb2
from psycopg.conninfo import conninfo_to_dict
from tests.app.client import Client

from service.app import running
from service.db.embedded_home import ROLE
from service.db.schema import migrate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.app.conftest import SettingsFor
    from tests.conftest import Fragile

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed: apt-get install pgbouncer")

CONFIGURATION = """
[databases]
* = host={sockets}
[pgbouncer]
pool_mode = transaction
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users.txt
default_pool_size = 4
{user}
"""


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture
async def pooled(fragile: Fragile) -> AsyncIterator[str]:
    """A migrated database behind a PgBouncer of four connections; yields its URL there."""
    assert PGBOUNCER is not None
    await migrate(fragile.url, lambda _migration, _seconds: None)
    folder, port = Path(tempfile.mkdtemp(prefix="gatelodge-pgbouncer-")), free_port()
    sockets = str(conninfo_to_dict(fragile.url)["host"])
    await _let_in_everyone_on_the_socket(fragile)
    user = "user = nobody" if os.geteuid() == 0 else ""
    (folder / "users.txt").write_text(f'"{ROLE}" ""\n')
    (folder / "pgbouncer.ini").write_text(CONFIGURATION.format(sockets=sockets, port=port, folder=folder, user=user))
    folder.chmod(0o755)
    process = await asyncio.create_subprocess_exec(
        PGBOUNCER, str(folder / "pgbouncer.ini"), stderr=asyncio.subprocess.DEVNULL
    )
    await _listens(port)
    yield f"postgresql://{ROLE}@127.0.0.1:{port}/postgres"
    process.kill()
    await process.wait()
    shutil.rmtree(folder)


async def _let_in_everyone_on_the_socket(fragile: Fragile) -> None:
    """As root, PgBouncer runs as another user, whom the embedded server does not know."""
    async with await psycopg.AsyncConnection.connect(fragile.url) as conn:
        cursor = await conn.execute("SHOW hba_file")
        row = await cursor.fetchone()
        assert row is not None
        Path(row[0]).write_text("local all all trust\n")
        await conn.execute("SELECT pg_reload_conf()")


async def _listens(port: int) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


@pytest.fixture
async def client(pooled: str, fragile: Fragile, settings_for: SettingsFor) -> AsyncIterator[Client]:
    settings = settings_for(pooled, DATABASE__PREPARE_STATEMENTS="false", DATABASE__MIGRATE_ON_START="false")
    async with running(settings) as app, Client(app.address, fragile.url) as connected:
        yield connected


async def test_accounts_live_their_whole_life(client: Client) -> None:
    root, ada = await client.administrator(), await client.user()
    by_id = users_pb2.GetUserRequest(user_id=ada.user_id)
    await asyncio.gather(*(client.users.GetUser(by_id, metadata=ada.metadata) for _ in range(100)))
    request = users_pb2.DisableUserRequest(user_id=ada.user_id, request_id=str(uuid.uuid4()))
    answers = await asyncio.gather(*(client.users.DisableUser(request, metadata=root.metadata) for _ in range(10)))
    assert all(answer == answers[0] for answer in answers)
    listed = await client.users.ListUsers(users_pb2.ListUsersRequest(), metadata=root.metadata)
    assert len(listed.users) == 2
    await client.users.EraseUser(users_pb2.EraseUserRequest(user_id=ada.user_id), metadata=root.metadata)


async def test_a_hundred_registrations_at_once_share_four_connections(client: Client) -> None:
    await asyncio.gather(*(client.register(f"user{number}@example.com") for number in range(100)))
    assert await client.sql("SELECT count(*) FROM users") == [(100,)]


async def test_events_are_streamed_though_nobody_is_notified(client: Client) -> None:
    root = await client.administrator()
    stub: events_pb2_grpc.EventServiceAsyncStub = events_pb2_grpc.EventServiceStub(client.channel)
    stream = stub.WatchEvents(events_pb2.WatchEventsRequest(latest=True), metadata=root.metadata)
    seen: list[str] = []
    async with asyncio.timeout(10):
        async for answer in stream:
            if not seen:
                await client.register("ada@example.com")
                seen.append("started")
            seen += [event.type for event in answer.events]
            if len(seen) > 1:
                break
    assert seen == ["started", "user.registered"]
    stream.cancel()
