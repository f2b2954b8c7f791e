"""A mutation repeated under its request_id changes nothing and is answered as the first time (D5)."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from gatelodge.auth.v1 import auth_pb2
from gatelodge.users.v1 import users_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FieldDescriptor
from tests.app.client import PASSWORD, Client, Login, failure
from tests.app.conftest import environment
from tests.app.process import serving

from service.app import running
from service.rpc.methods import describe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.app.conftest import SettingsFor

SLOW_COMMIT = """
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(30); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON users DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION slow()
"""
DEADLY_COMMIT = SLOW_COMMIT.replace("pg_sleep(30)", "pg_terminate_backend(pg_backend_pid())")


def create(request_id: str, email: str = "ada@example.com", **fields: Any) -> users_pb2.CreateUserRequest:
    return users_pb2.CreateUserRequest(request_id=request_id, email=email, **fields)


def new() -> str:
    return str(uuid.uuid4())


@pytest.fixture
async def root(client: Client) -> Login:
    return await client.administrator()


async def users(client: Client) -> int:
    ((count,),) = await client.sql("SELECT count(*) FROM users WHERE email <> 'root@example.com'")
    return int(count)


async def test_fifty_creations_at_once_under_one_id_make_one_user_and_get_fifty_equal_answers(
    client: Client, root: Login
) -> None:
    request = create(new(), password=PASSWORD)
    answers = await asyncio.gather(*(client.users.CreateUser(request, metadata=root.metadata) for _ in range(50)))
    assert len({answer.SerializeToString() for answer in answers}) == 1
    assert answers[0].user.email == "ada@example.com"
    assert await users(client) == 1
    assert await client.sql("SELECT count(*) FROM idempotency_keys") == [(1,)]


async def test_without_an_id_a_repeat_is_a_request_of_its_own(client: Client, root: Login) -> None:
    await client.users.CreateUser(create(""), metadata=root.metadata)
    refused = await failure(client.users.CreateUser(create(""), metadata=root.metadata))
    assert refused.reason == "EMAIL_TAKEN"
    assert await client.sql("SELECT count(*) FROM idempotency_keys") == [(0,)]


async def test_the_first_answer_is_replayed_although_the_user_has_changed_since(client: Client, root: Login) -> None:
    request = create(new())
    first = await client.users.CreateUser(request, metadata=root.metadata)
    await client.sql("UPDATE users SET display_name = 'Countess', version = 2 WHERE email = %s", request.email)
    again = await client.users.CreateUser(request, metadata=root.metadata)
    assert again.SerializeToString() == first.SerializeToString()


async def test_a_replay_costs_no_password_hash(url: str, settings_for: SettingsFor) -> None:
    async with running(settings_for(url)) as app, Client(app.address, url) as client:
        root = await client.administrator()
        request = create(new(), password=PASSWORD)
        await client.users.CreateUser(request, metadata=root.metadata)
        assert app.ops_address is not None
        before = await hashes(app.ops_address)
        await client.users.CreateUser(request, metadata=root.metadata)
        assert await hashes(app.ops_address) == before > 0


async def hashes(ops_address: str) -> float:
    host, port = ops_address.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /metrics HTTP/1.0\r\nHost: ops\r\n\r\n")
    page = (await reader.read()).decode()
    writer.close()
    (line,) = [line for line in page.splitlines() if line.startswith("gatelodge_password_hash_duration_seconds_count")]
    return float(line.split()[1])


@pytest.mark.parametrize("other", [{"email": "eve@example.com"}, {"display_name": "Eve"}, {"validate_only": True}])
async def test_the_same_id_with_another_body_is_refused(client: Client, root: Login, other: dict[str, Any]) -> None:
    request_id = new()
    await client.users.CreateUser(create(request_id), metadata=root.metadata)
    refused = await failure(client.users.CreateUser(create(request_id, **other), metadata=root.metadata))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REQUEST_ID_REUSED")
    assert refused.details["PreconditionFailure"].violations[0].subject == "request_id"
    assert await users(client) == 1


async def test_of_two_requests_at_once_under_one_id_one_is_refused(client: Client, root: Login) -> None:
    request_id = new()
    calls = (
        client.users.CreateUser(create(request_id, f"user{number}@example.com"), metadata=root.metadata)
        for number in range(10)
    )
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
    assert {error.code() for error in refused} == {grpc.StatusCode.FAILED_PRECONDITION}
    assert (len(refused), await users(client)) == (9, 1)


async def test_another_callers_id_is_another_id(client: Client, root: Login) -> None:
    other = await client.administrator("other@example.com")
    request_id = new()
    await client.users.CreateUser(create(request_id, "ada@example.com"), metadata=root.metadata)
    answer = await client.users.CreateUser(create(request_id, "eve@example.com"), metadata=other.metadata)
    assert answer.user.email == "eve@example.com"
    refused = await failure(client.users.CreateUser(create(request_id), metadata=other.metadata))
    assert refused.reason == "REQUEST_ID_REUSED"


@pytest.mark.parametrize(("age", "expired"), [("23 hours 59 minutes", False), ("24 hours 1 minute", True)])
async def test_after_a_day_the_request_is_new(client: Client, root: Login, age: str, expired: bool) -> None:  # noqa: FBT001
    request = create(new())
    first = await client.users.CreateUser(request, metadata=root.metadata)
    await client.sql("UPDATE idempotency_keys SET create_time = now() - %s::interval", age)
    await client.sql("DELETE FROM users WHERE id = %s", first.user.id)
    again = await client.users.CreateUser(request, metadata=root.metadata)
    assert (again.user.id != first.user.id) is expired
    assert await users(client) == expired


async def test_a_failed_call_keeps_nothing_and_may_be_repeated(client: Client, root: Login) -> None:
    await client.register("ada@example.com")
    request = create(new())
    for _ in range(2):
        refused = await failure(client.users.CreateUser(request, metadata=root.metadata))
        assert refused.reason == "EMAIL_TAKEN"
    assert await client.sql("SELECT count(*) FROM idempotency_keys") == [(0,)]
    await client.sql("DELETE FROM users WHERE email = 'ada@example.com'")
    assert (await client.users.CreateUser(request, metadata=root.metadata)).user.email == "ada@example.com"


async def test_a_rehearsal_keeps_nothing_and_leaves_its_id_free(client: Client, root: Login) -> None:
    request_id = new()
    await client.users.CreateUser(create(request_id, validate_only=True), metadata=root.metadata)
    assert await client.sql("SELECT count(*) FROM idempotency_keys") == [(0,)]
    await client.users.CreateUser(create(request_id), metadata=root.metadata)
    assert await users(client) == 1


async def test_if_the_answer_cannot_be_kept_the_change_is_not_there_either(client: Client, root: Login) -> None:
    await client.sql("ALTER TABLE idempotency_keys ADD CONSTRAINT none CHECK (response = '')")
    refused = await failure(client.users.CreateUser(create(new()), metadata=root.metadata))
    assert refused.reason == "INTERNAL"
    await settled(client)
    assert await users(client) == 0


async def test_an_id_that_is_no_uuid_is_refused(client: Client, root: Login) -> None:
    refused = await failure(client.users.CreateUser(create("again"), metadata=root.metadata))
    assert list(refused.fields) == ["request_id"]


# --- registration: nobody is logged in -------------------------------------------------------------------------------


async def test_a_registration_repeated_makes_one_account(client: Client) -> None:
    request = auth_pb2.RegisterRequest(email="ada@example.com", password=PASSWORD, request_id=new())
    await asyncio.gather(*(client.auth.Register(request) for _ in range(5)))
    assert await users(client) == 1
    assert await client.sql("SELECT count(*) FROM idempotency_keys") == [(1,)]
    await client.sql("DELETE FROM users")
    await client.auth.Register(request)
    assert await users(client) == 0, "the replay registered again"


async def test_a_stranger_learns_nothing_from_another_strangers_id(client: Client) -> None:
    request_id = new()
    for number in range(2):
        await client.auth.Register(
            auth_pb2.RegisterRequest(email=f"user{number}@example.com", password=PASSWORD, request_id=request_id)
        )
    assert await users(client) == 2


async def test_neither_password_nor_a_hash_that_can_be_guessed_is_in_the_keys(client: Client, root: Login) -> None:
    request = auth_pb2.RegisterRequest(email="ada@example.com", password=PASSWORD, request_id=new())
    await client.auth.Register(request)
    await client.users.CreateUser(create(new(), "eve@example.com", password=PASSWORD), metadata=root.metadata)
    dump = repr(await client.sql("SELECT idempotency_keys::text, fingerprint, response FROM idempotency_keys"))
    assert PASSWORD not in dump
    assert PASSWORD.encode().hex() not in dump
    request.ClearField("request_id")
    content = request.SerializeToString(deterministic=True)
    method = b"gatelodge.auth.v1.AuthService/Register"
    guesses = (content, method + content, method + b"\0" + content, PASSWORD.encode())
    assert not any(hashlib.sha256(guess).hexdigest() in dump for guess in guesses)


async def test_the_fingerprint_needs_the_root_secret(url: str, settings_for: SettingsFor) -> None:
    request = auth_pb2.RegisterRequest(email="ada@example.com", password=PASSWORD, request_id=new())
    found = set()
    for _ in range(2):
        async with running(settings_for(url)) as app, Client(app.address, url) as client:
            await client.auth.Register(request)
            ((fingerprint,),) = await client.sql("DELETE FROM idempotency_keys RETURNING fingerprint")
            found.add(bytes(fingerprint))
            await client.sql("DELETE FROM root_secrets")  # so that the next start makes another one
    assert len(found) == 2


# --- what breaks off -------------------------------------------------------------------------------------------------


async def open_transactions(client: Client) -> int:
    ((count,),) = await client.sql(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND xact_start IS NOT NULL AND backend_type = 'client backend'"
    )
    return int(count)


async def settled(client: Client) -> None:
    async with asyncio.timeout(20):
        while await open_transactions(client):
            await asyncio.sleep(0.02)


@asynccontextmanager
async def small(url: str, settings_for: SettingsFor) -> AsyncIterator[tuple[Client, Login]]:
    """A service with two connections, of which none may be lost."""
    settings = settings_for(url, DATABASE__POOL_MAX_SIZE="2", DATABASE__ACQUIRE_TIMEOUT_SECONDS="2")
    async with running(settings) as app, Client(app.address, url) as client:
        yield client, await client.administrator()


@pytest.mark.parametrize("moment", ["in the work", "in the commit"])
async def test_a_call_cancelled_midway_leaves_no_transaction_and_loses_no_connection(
    url: str, settings_for: SettingsFor, moment: str
) -> None:
    async with small(url, settings_for) as (client, root):
        trigger = (
            SLOW_COMMIT
            if moment == "in the commit"
            else SLOW_COMMIT.replace("CONSTRAINT TRIGGER slow AFTER", "TRIGGER slow BEFORE").replace(
                "DEFERRABLE INITIALLY DEFERRED", ""
            )
        )
        for statement in trigger.split(";\n"):
            await client.sql(statement)
        requests = [create(new(), f"user{number}@example.com") for number in range(4)]
        calls = [client.users.CreateUser(request, metadata=root.metadata) for request in requests]
        await asyncio.sleep(0.3)
        assert await open_transactions(client) == 2
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await settled(client)
        assert await client.sql("SELECT count(*) FROM idempotency_keys") == [(0,)]
        await client.sql("DROP TRIGGER slow ON users")
        answers = await asyncio.gather(
            *(client.users.CreateUser(request, metadata=root.metadata) for request in requests)
        )
        assert len({answer.user.id for answer in answers}) == await users(client) == 4


async def test_a_connection_killed_during_the_commit_leaves_the_outcome_to_the_repeat(
    url: str, settings_for: SettingsFor
) -> None:
    async with small(url, settings_for) as (client, root):
        for statement in DEADLY_COMMIT.split(";\n"):
            await client.sql(statement)
        request = create(new())
        lost = await failure(client.users.CreateUser(request, metadata=root.metadata))
        assert (lost.reason, lost.info.metadata["outcome"]) == ("DEPENDENCY_UNAVAILABLE", "unknown")
        await client.sql("DROP TRIGGER slow ON users")
        first = await client.users.CreateUser(request, metadata=root.metadata)
        again = await client.users.CreateUser(request, metadata=root.metadata)
        assert (first.user.id, await users(client)) == (again.user.id, 1)


async def test_an_answer_lost_on_its_way_is_given_to_the_repeat_even_by_another_process(
    url: str, tmp_path: Path
) -> None:
    environ = environment(url, tmp_path, SERVER__PORT="0", OPS__ENABLED="false")
    request = create(new(), password=PASSWORD)
    async with serving(environ) as first, Client(first.address, url) as client:
        root = await client.administrator()
        async with deaf(first.address) as address, Client(address, url) as cut_off:
            call = cut_off.users.CreateUser(request, metadata=root.metadata, timeout=20)
            waiting = asyncio.ensure_future(call)
            async with asyncio.timeout(10):
                while not await users(client):
                    await asyncio.sleep(0.01)
            first.process.kill()
            with pytest.raises(grpc.aio.AioRpcError):
                await waiting
    async with serving(environ) as second, Client(second.address, url) as client:
        answer = await client.users.CreateUser(request, metadata=root.metadata)
        assert await users(client) == 1
        assert await client.sql("SELECT response FROM idempotency_keys") == [(answer.SerializeToString(),)]
        assert await client.sql("SELECT id::text FROM users WHERE email = %s", request.email) == [(answer.user.id,)]


@asynccontextmanager
async def deaf(address: str) -> AsyncIterator[str]:
    """A way to the server that brings back what HTTP/2 needs and no answer: headers and data come after settings."""
    host, port = address.rsplit(":", 1)
    tasks: set[asyncio.Task[None]] = set()

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_connection(host, int(port))
        both = asyncio.gather(forward(reader, downstream), frames(upstream, writer), return_exceptions=True)
        try:
            await both
        finally:
            downstream.close()
            writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        await join(reader, writer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


async def frames(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on the frames of the connection, not those of its streams (RFC 9113 §4.1)."""
    try:
        while True:
            head = await reader.readexactly(9)
            body = await reader.readexactly(int.from_bytes(head[:3]))
            if int.from_bytes(head[5:9]) == 0:
                writer.write(head + body)
    except asyncio.IncompleteReadError:
        writer.close()


# --- the mechanism is everyone's -------------------------------------------------------------------------------------

WITHOUT = {
    "gatelodge.auth.v1.AuthService/Login": "its answer is a secret, and a repeat is harmless",
    "gatelodge.auth.v1.AuthService/Refresh": "its answer is a secret, and a repeat gets the same successor",
}


def mutations() -> list[str]:
    """Return the methods of the contract that are not marked as reads."""
    contract = Path(__file__).parents[2] / "generated/gatelodge/descriptors.binpb"
    files = descriptor_pb2.FileDescriptorSet.FromString(contract.read_bytes()).file
    names = [
        f"{file.package}.{service.name}/{method.name}"
        for file in files
        if file.package.startswith("gatelodge.")
        for service in file.service
        for method in service.method
        if method.options.idempotency_level != descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS
    ]
    return [name for name in names if name not in WITHOUT]


@pytest.mark.parametrize("name", mutations())
def test_every_method_with_side_effects_takes_a_request_id(name: str) -> None:
    request_class = describe(name, client_streaming=False, server_streaming=False).request_class
    assert request_class is not None
    field = request_class.DESCRIPTOR.fields_by_name.get("request_id")
    assert field is not None, "declare request_id, or say NO_SIDE_EFFECTS"
    assert field.type == FieldDescriptor.TYPE_STRING
    assert "uuid: true" in str(field.GetOptions())
