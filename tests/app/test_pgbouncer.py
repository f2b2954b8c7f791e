"""The service behind PgBouncer in transaction mode: everything it does, over connections it shares with others.

Besides tests of its own, this page runs the core of the others' once more. Needs Debian's ``pgbouncer``;
without it these tests say so and are skipped.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
import pytest
import pytest_asyncio
from gatelodge.events.v1 import events_pb2, events_pb2_grpc
from gatelodge.users.v1 import users_pb2
from psycopg.conninfo import conninfo_to_dict
from tests.app import test_events as events
from tests.app import test_idempotency as idempotency
from tests.app import test_users_and_login as accounts
from tests.app import test_users_life as life
from tests.app.envoy import free_ports
from tests.app.test_jobs import DUE, EXPIRED, until
from tests.db.conftest import cache, forget

from service.app import App, running
from service.db import clone, migrations
from service.db.embedded import EmbeddedPostgres
from service.db.embedded_home import ROLE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from tests.app.client import Client, Login
    from tests.app.conftest import SettingsFor

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed: apt-get install pgbouncer")

OF_ANYONE = (
    accounts.test_a_newcomer_registers_logs_in_and_sees_themselves,
    accounts.test_a_hundred_registrations_of_one_address_in_every_spelling_leave_one_user,
    accounts.test_login_fails_alike_for_unknown_wrong_disabled_deleted_and_passwordless,
    accounts.test_a_login_brings_an_old_hash_to_todays_parameters,
    accounts.test_several_users_come_in_the_order_of_their_ids_all_or_none,
    life.test_a_user_changes_their_own_name_and_the_etag_changes_with_it,
    idempotency.test_a_registration_repeated_makes_one_account,
    events.test_a_creation_tells_its_actor_and_what_the_user_began_with,
    events.test_what_cannot_be_recorded_does_not_happen,
    events.test_pages_are_newest_first_and_complete,
    events.test_a_transaction_that_began_first_and_commits_last_is_told_last,
    events.test_the_stream_goes_on_without_notifications,
)
OF_AN_ADMINISTRATOR = (
    life.test_of_fifty_updates_with_one_etag_one_wins_and_the_others_are_told,
    life.test_a_disabled_user_cannot_log_in_until_enabled_and_operators_can_read_why,
    life.test_a_deleted_user_is_out_of_sight_but_not_gone_and_can_be_taken_back,
    life.test_an_erased_user_leaves_nothing_behind,
    life.test_a_page_token_is_of_one_filter_and_order_and_cannot_be_made,
    life.test_an_export_that_broke_off_goes_on_after_its_cursor,
    idempotency.test_fifty_creations_at_once_under_one_id_make_one_user_and_get_fifty_equal_answers,
    idempotency.test_of_two_requests_at_once_under_one_id_one_is_refused,
    idempotency.test_a_failed_call_keeps_nothing_and_may_be_repeated,
    idempotency.test_if_the_answer_cannot_be_kept_the_change_is_not_there_either,
)

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


class Bouncer(NamedTuple):
    """A PgBouncer of four connections to each database of a server."""

    server_url: str
    template: str
    port: int


@pytest_asyncio.fixture(scope="module")
async def bouncer(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bouncer]:
    assert PGBOUNCER is not None
    data = tmp_path_factory.mktemp("bounced")
    server = EmbeddedPostgres(data, durable=False, cache_dir=cache())
    server_url = await server.start()
    template = await clone.template(server_url, migrations.load(migrations.folder()))
    folder, (port,) = Path(tempfile.mkdtemp(prefix="gatelodge-pgbouncer-")), free_ports(1)
    sockets = str(conninfo_to_dict(server_url)["host"])
    await _let_in_everyone_on_the_socket(server_url)
    user = "user = nobody" if os.geteuid() == 0 else ""
    (folder / "users.txt").write_text(f'"{ROLE}" ""\n')
    (folder / "pgbouncer.ini").write_text(CONFIGURATION.format(sockets=sockets, port=port, folder=folder, user=user))
    folder.chmod(0o755)
    process = await asyncio.create_subprocess_exec(
        PGBOUNCER, str(folder / "pgbouncer.ini"), stderr=asyncio.subprocess.DEVNULL
    )
    await _listens(port)
    yield Bouncer(server_url, template, port)
    process.kill()
    await process.wait()
    shutil.rmtree(folder)
    await server.stop()
    forget(data)


@pytest_asyncio.fixture
async def url(bouncer: Bouncer) -> AsyncIterator[str]:
    """A migrated database of the test's own, reached directly: what tests do beside the service."""
    name = f"test_{uuid.uuid4().hex[:8]}"
    yield await clone.clone(bouncer.server_url, bouncer.template, name)
    await clone.drop(bouncer.server_url, name)


@pytest.fixture
async def app(url: str, bouncer: Bouncer, settings_for: SettingsFor) -> AsyncIterator[App]:
    name = conninfo_to_dict(url)["dbname"]
    pooled = f"postgresql://{ROLE}@127.0.0.1:{bouncer.port}/{name}"
    settings = settings_for(pooled, DATABASE__PREPARE_STATEMENTS="false", DATABASE__MIGRATE_ON_START="false")
    async with running(settings) as started:
        await events.forget_the_start(url)
        yield started


async def _let_in_everyone_on_the_socket(url: str) -> None:
    """As root, PgBouncer runs as another user, whom the embedded server does not know."""
    async with await psycopg.AsyncConnection.connect(url) as conn:
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
async def root(client: Client) -> Login:
    return await client.administrator()


@pytest.mark.parametrize("case", OF_ANYONE, ids=lambda case: case.__name__)
async def test_behind_it(case: Callable[[Client], Coroutine[Any, Any, None]], client: Client) -> None:
    await case(client)


@pytest.mark.parametrize("case", OF_AN_ADMINISTRATOR, ids=lambda case: case.__name__)
async def test_behind_it_an_administrator(
    case: Callable[[Client, Login], Coroutine[Any, Any, None]], client: Client, root: Login
) -> None:
    await case(client, root)


@pytest.mark.usefixtures("eager_jobs")
async def test_a_job_runs_by_its_lease(client: Client) -> None:
    await client.sql(EXPIRED)
    await until(client, "true")
    await client.sql(DUE)
    await until(client, "runs = 1 AND failures = 0 AND holder IS NULL")
    assert await client.sql("SELECT count(*) FROM idempotency_keys") == [(0,)]


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
