"""Signing keys end to end: on two instances, in three algorithms, by RPC and from the command line."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import jwt
import pytest
from gatelodge.auth.v1 import auth_pb2, keys_pb2, tokens_pb2
from gatelodge.events.v1 import events_pb2
from google.protobuf.json_format import MessageToDict
from tests.app.client import A_SECOND, Client, Login, failure
from tests.app.conftest import MASTER_SECRET, environment
from tests.app.process import gatelodge, serving
from tests.app.test_health import get

from service.app import App, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.app.conftest import SettingsFor

Key = keys_pb2.SigningKey
NEW_SECRET = "the next master secret, also long enough to be one"


@asynccontextmanager
async def pair(url: str, settings_for: SettingsFor, **environ: str) -> AsyncIterator[tuple[Client, Client, App, App]]:
    """Run two instances of the service on one database."""
    settings = settings_for(url, **environ)
    async with (
        running(settings) as one,
        running(settings) as two,
        Client(one.address, url) as first,
        Client(two.address, url) as second,
    ):
        yield first, second, one, two


async def me(client: Client, login: Login) -> str:
    answer = await client.auth.GetMe(auth_pb2.GetMeRequest(), metadata=login.metadata)
    return str(answer.user.id)


async def stage(client: Client, root: Login, **request: Any) -> Key:
    answer = await client.keys.StageSigningKey(keys_pb2.StageSigningKeyRequest(**request), metadata=root.metadata)
    return answer.signing_key


async def activate(client: Client, root: Login, kid: str) -> Key:
    request = keys_pb2.ActivateSigningKeyRequest(key_id=kid, force=True)
    return (await client.keys.ActivateSigningKey(request, metadata=root.metadata)).signing_key


async def published(client: Client) -> dict[str, dict[str, str]]:
    answer = await client.tokens.GetJwks(tokens_pb2.GetJwksRequest())
    return {key.kid: MessageToDict(key) for key in answer.keys}


async def alive(client: Client, login: Login) -> bool:
    """Tell whether a token is taken; a refusal of any other kind is a failure."""
    try:
        await me(client, login)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            return False
        raise
    return True


def kid_of(login: Login) -> str:
    return str(jwt.get_unverified_header(login.token)["kid"])


async def until_signed_with(client: Client, kid: str) -> Login:
    async with asyncio.timeout(20):
        while kid_of(login := await client.login("root@example.com")) != kid:
            await asyncio.sleep(0.02)
    return login


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA", "RS256"])
async def test_each_algorithm_signs_and_independent_verifiers_agree(
    url: str, settings_for: SettingsFor, algorithm: str
) -> None:
    settings = settings_for(url, AUTH__SIGNING_ALGORITHM=algorithm)
    async with running(settings) as app, Client(app.address, url) as client:
        ada = await client.user()
        assert await me(client, ada) == ada.user_id
        page = json.loads(await get(app, "/.well-known/jwks.json"))["keys"]
        assert {key["kid"]: key for key in page} == await published(client)
        (jwk,) = page
        assert jwk["alg"] == algorithm
        claims = jwt.decode(ada.token, jwt.PyJWK.from_dict(jwk), algorithms=[algorithm], audience="gatelodge")
        assert claims["sub"] == ada.user_id


async def test_a_rotation_under_traffic_fails_no_verification_and_leaves_no_gap(
    url: str, settings_for: SettingsFor
) -> None:
    async with pair(url, settings_for) as (first, second, _, _):
        root = await first.administrator()
        tokens, calls, stopped = [root], 0, False

        async def traffic() -> None:
            """Log in on one, call both with old and new tokens; look whether both publish what signs."""
            nonlocal calls
            while not stopped:
                login = await (first, second)[calls % 2].login("root@example.com")
                tokens.append(login)
                for client in (first, second):
                    assert kid_of(login) in await published(client)
                    for token in (tokens[0], login, tokens[calls % len(tokens)]):
                        assert await me(client, token) == root.user_id
                        calls += 1

        work = [asyncio.create_task(traffic()) for _ in range(3)]
        for algorithm in ("EdDSA", "RS256"):
            staged = await stage(first, root, algorithm=algorithm)
            async with asyncio.timeout(A_SECOND):
                while not (staged.id in await published(first) and staged.id in await published(second)):
                    await asyncio.sleep(0.02)
            await activate(second, root, staged.id)
            for client in (first, second):
                await until_signed_with(client, staged.id)
            async with asyncio.timeout(20):
                while staged.id not in map(kid_of, tokens):
                    await asyncio.sleep(0.02)
        stopped = True
        await asyncio.gather(*work)
        assert calls > 50
        assert len({kid_of(token) for token in tokens}) == 3


async def test_a_removed_keys_tokens_are_dead_everywhere_within_a_second(url: str, settings_for: SettingsFor) -> None:
    async with pair(url, settings_for) as (first, second, _, two):
        root = await first.administrator()
        ada = await first.user()
        leaked = kid_of(ada)
        staged = await stage(first, root)
        await activate(first, root, staged.id)
        root = await until_signed_with(first, staged.id)
        await until_signed_with(second, staged.id)
        assert await me(second, ada) == ada.user_id
        request = keys_pb2.RetireSigningKeyRequest(key_id=leaked)
        removed = (await first.keys.RetireSigningKey(request, metadata=root.metadata)).signing_key
        assert (removed.id, removed.state) == (leaked, Key.STATE_RETIRED)
        began = time.monotonic()
        for client in (first, second):
            while await alive(client, ada):
                assert time.monotonic() - began < A_SECOND
        print(f"dead on both after {(time.monotonic() - began) * 1000:.0f} ms")
        assert list(await published(second)) == [staged.id]
        assert leaked not in (await get(two, "/.well-known/jwks.json")).decode()
        assert await me(second, root) == root.user_id


async def test_operators_see_and_change_keys_and_every_change_is_recorded(client: Client) -> None:
    root = await client.administrator()

    async def listed() -> list[tuple[str, int]]:
        answer = await client.keys.ListSigningKeys(keys_pb2.ListSigningKeysRequest(), metadata=root.metadata)
        return [(key.id, key.state) for key in answer.signing_keys]

    ((old, state),) = await listed()
    assert state == Key.STATE_ACTIVE
    staged = await stage(client, root)
    assert (staged.algorithm, staged.state, staged.HasField("activate_time")) == ("ES256", Key.STATE_STAGED, False)
    assert await stage(client, root, algorithm="RS256") == staged
    early = keys_pb2.ActivateSigningKeyRequest(key_id=staged.id)
    refused = await failure(client.keys.ActivateSigningKey(early, metadata=root.metadata))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SIGNING_KEY_STATE")
    assert refused.info.metadata["state"] == "staged"
    missing = keys_pb2.RetireSigningKeyRequest(key_id="nobody")
    refused = await failure(client.keys.RetireSigningKey(missing, metadata=root.metadata))
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "SIGNING_KEY_NOT_FOUND")
    assert (await activate(client, root, staged.id)).state == Key.STATE_ACTIVE
    assert await listed() == [(old, Key.STATE_RETIRED), (staged.id, Key.STATE_ACTIVE)]
    root = await until_signed_with(client, staged.id)  # what the old key signed ends with it, sooner or later
    await client.keys.RetireSigningKey(keys_pb2.RetireSigningKeyRequest(key_id=old), metadata=root.metadata)
    assert await listed() == [(staged.id, Key.STATE_ACTIVE)]

    types = ["key.staged", "key.activated", "key.retired"]
    request = events_pb2.ListEventsRequest(types=types)
    events = (await client.events.ListEvents(request, metadata=root.metadata)).events
    told = [(event.WhichOneof("payload"), event.actor_id) for event in reversed(events)]
    assert told == [
        ("key_activated", ""),
        ("key_staged", root.user_id),
        ("key_retired", root.user_id),
        ("key_activated", root.user_id),
        ("key_retired", root.user_id),
    ]
    assert [event.key_retired.removed for event in reversed(events) if event.type == "key.retired"] == [False, True]


async def test_a_repeated_request_stages_one_key(client: Client) -> None:
    root = await client.administrator()
    request_id = "0192f0c1-2d3e-7abc-8def-0123456789ab"
    staged = await stage(client, root, request_id=request_id)
    await activate(client, root, staged.id)
    root = await until_signed_with(client, staged.id)
    assert await stage(client, root, request_id=request_id) == staged
    assert await client.sql("SELECT count(*) FROM signing_keys") == [(2,)]


async def test_keys_are_for_operators_only(client: Client) -> None:
    ada = await client.user()
    for call in (
        client.keys.ListSigningKeys(keys_pb2.ListSigningKeysRequest(), metadata=ada.metadata),
        client.keys.StageSigningKey(keys_pb2.StageSigningKeyRequest(), metadata=ada.metadata),
        client.keys.ActivateSigningKey(keys_pb2.ActivateSigningKeyRequest(key_id="x"), metadata=ada.metadata),
        client.keys.RetireSigningKey(keys_pb2.RetireSigningKeyRequest(key_id="x"), metadata=ada.metadata),
    ):
        assert (await failure(call)).code == grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.usefixtures("eager_jobs")
async def test_the_job_rotates_by_itself(url: str, settings_for: SettingsFor) -> None:
    """A key signs for two seconds, and is published for one before that."""
    settings = settings_for(url, AUTH__KEY_ROTATION_DAYS=str(2 / 86_400), AUTH__KEY_PUBLISH_SECONDS="1")
    async with running(settings) as app, Client(app.address, url) as client:
        root = await client.administrator()
        async with asyncio.timeout(30):
            while kid_of(await client.login("root@example.com")) == kid_of(root):
                await client.sql("UPDATE jobs SET next_run_time = now() WHERE name = 'keys.rotate'")
                await asyncio.sleep(0.2)
        assert await me(client, root) == root.user_id


async def test_the_command_line_rotates_beside_running_servers(client: Client, url: str, tmp_path: Path) -> None:
    environ = environment(url, tmp_path)
    root = await client.administrator()
    old = kid_of(root)

    async def keys(*arguments: str) -> str:
        status, out, err = await gatelodge("keys", *arguments, environ=environ)
        assert (status, err) == (0, "")
        return out

    assert [line.split()[:3] for line in (await keys("list")).splitlines()] == [[old, "ES256", "active"]]
    out = await keys("rotate")
    new = out.split()[1]
    assert out.startswith(f"staged {new} (ES256): published now")
    assert (await keys("rotate")).startswith(f"nothing done: {new} is staged and signs from 20")
    assert [line.split()[2] for line in (await keys("list")).splitlines()] == ["active", "staged"]
    assert new in await published(client)
    assert (await keys("rotate", "--now")).startswith(f"activated {new} (ES256): it signs from now on")
    await until_signed_with(client, new)
    assert await me(client, root) == root.user_id
    status, _, err = await gatelodge("keys", "retire", new, environ=environ)
    assert status == 1
    assert "activate another one first (SIGNING_KEY_STATE)" in err
    assert await keys("retire", old) == f"removed {old} (ES256): its tokens are dead\n"
    assert old not in await keys("list")
    async with asyncio.timeout(A_SECOND):
        while old in await published(client):
            await asyncio.sleep(0.02)
    assert (
        await keys("reseal") == "0 of 2 secrets were under another master secret; all are under the present one now\n"
    )


async def test_the_master_secret_is_changed_as_the_operators_page_says(
    url: str, tmp_path: Path, settings_for: SettingsFor
) -> None:
    """Each step leaves tokens, page tokens, cursors and stored answers good, and keys of its own for the next."""
    before = secrets(MASTER_SECRET)
    opens_new = secrets(MASTER_SECRET, NEW_SECRET)
    opens_old = secrets(NEW_SECRET, MASTER_SECRET)
    after = secrets(NEW_SECRET)
    told: dict[str, str] = {}
    login: Login | None = None
    for step in (before, opens_new, opens_old, after):
        if step is after:
            environ = environment(url, tmp_path, **opens_old)
            assert (await gatelodge("keys", "reseal", environ=environ))[1].startswith("5 of 6 secrets were under")
            assert (await gatelodge("keys", "reseal", environ=environ))[1].startswith("0 of 6 secrets were under")
        async with running(settings_for(url, **step)) as app, Client(app.address, url) as client:
            login = login or await client.administrator()
            assert await me(client, login) == login.user_id
            told = await still_good(client, login, told)
            await activate(client, login, (await stage(client, login)).id)
            await client.login("root@example.com")
    status, _, err = await gatelodge("serve", environ=environment(url, tmp_path, **before))
    assert status == 1
    assert "auth.previous_master_secrets" in err.splitlines()[-1]


def secrets(master: str, *previous: str) -> dict[str, str]:
    return {"AUTH__MASTER_SECRET": master, "AUTH__PREVIOUS_MASTER_SECRETS": json.dumps(previous)}


async def still_good(client: Client, root: Login, told: dict[str, str]) -> dict[str, str]:
    """Use what the first step gave out, and return it: a page token, a cursor, a stored answer."""
    if not told:
        page = await client.events.ListEvents(events_pb2.ListEventsRequest(page_size=1), metadata=root.metadata)
        cursor = await first_cursor(client, root, latest=True)
        staged = await stage(client, root, request_id="0192f0c1-2d3e-7abc-8def-0123456789ab")
        await activate(client, root, staged.id)
        return {"page": page.next_page_token, "cursor": cursor, "staged": staged.id}
    request = events_pb2.ListEventsRequest(page_size=1, page_token=told["page"])
    assert (await client.events.ListEvents(request, metadata=root.metadata)).events
    assert await first_cursor(client, root, cursor=told["cursor"])
    repeated = await stage(client, root, request_id="0192f0c1-2d3e-7abc-8def-0123456789ab")
    assert repeated.id == told["staged"]
    return told


async def first_cursor(client: Client, root: Login, **request: Any) -> str:
    call: Any = client.events.WatchEvents(events_pb2.WatchEventsRequest(**request), metadata=root.metadata)
    message = await call.read()
    call.cancel()
    return str(message.cursor)


async def test_reseal_is_noticed_by_no_running_process(url: str, tmp_path: Path) -> None:
    environ = environment(url, tmp_path, OPS__ENABLED="false")
    both = environment(url, tmp_path, **secrets(NEW_SECRET, MASTER_SECRET))
    async with serving(environ) as server, Client(server.address, url) as client:
        ada = await client.user()
        assert (await gatelodge("keys", "reseal", environ=both))[1].startswith("2 of 2 ")
        await client.login("ada@example.com")
        assert await me(client, ada) == ada.user_id
