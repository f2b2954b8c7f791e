"""TLS: certificates that change under load, clients known by theirs, and what is refused at the start."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import ssl
import uuid
from typing import TYPE_CHECKING

import grpc
import pytest
from gatelodge.auth.v1 import auth_pb2, auth_pb2_grpc, tokens_pb2, tokens_pb2_grpc
from gatelodge.events.v1 import events_pb2
from gatelodge.users.v1 import users_pb2, users_pb2_grpc
from tests.app.client import PASSWORD, Client, failure
from tests.app.conftest import environment
from tests.app.powers import let_in, make_role
from tests.app.process import gatelodge, serving
from tests.app.scrape import scrape
from tests.certificates import Authority, Pair, expiry

from service.rpc.peer import subject

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.app.process import Serving

URI = "spiffe://corp/billing"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def tls(url: str, folder: Path, pair: Pair, **more: str) -> Mapping[str, str]:
    certificate, key = pair.write(folder, "server")
    files = {"SERVER__TLS__CERT_FILE": str(certificate), "SERVER__TLS__KEY_FILE": str(key)}
    return environment(url, folder, **files, **more)


def mutual(url: str, folder: Path, authority: Authority, **more: str) -> Mapping[str, str]:
    """Return the environment of a server that asks for certificates, and knows one service."""
    (folder / "clients.pem").write_bytes(authority.pem)
    return tls(
        url,
        folder,
        authority.issue(dns=("localhost",)),
        SERVER__TLS__CLIENT_CA_FILE=str(folder / "clients.pem"),
        SERVER__TLS__CLIENT_AUTH="required",
        SERVER__TLS__SERVICE_IDENTITIES=json.dumps({URI: ["admin"], "robot": [], "dns.corp": []}),
        **more,
    )


def channel(address: str, authority: Authority, pair: Pair | None = None) -> grpc.aio.Channel:
    shown = (pair.key, pair.certificate) if pair else (None, None)
    return grpc.aio.secure_channel(
        address,
        grpc.ssl_channel_credentials(authority.pem, *shown),
        options=[("grpc.use_local_subchannel_pool", 1)],
    )


def shown_by(address: str, authority: Authority) -> bytes:
    """Return the certificate that a new handshake shows."""
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context(cadata=authority.pem.decode())
    context.set_alpn_protocols(["h2"])  # gRPC refuses who does not
    with (
        socket.create_connection((host, int(port)), 5) as plain,
        context.wrap_socket(plain, server_hostname=host) as at,
    ):
        found = at.getpeercert(binary_form=True)
    assert found
    return ssl.DER_cert_to_PEM_cert(found).encode()


async def keys(address: str, authority: Authority, pair: Pair | None = None) -> None:
    async with channel(address, authority, pair) as opened:
        stub: tokens_pb2_grpc.TokenServiceAsyncStub = tokens_pb2_grpc.TokenServiceStub(opened)
        await stub.GetJwks(tokens_pb2.GetJwksRequest(), timeout=5)


async def until_shown(server: Serving, authority: Authority, certificate: bytes) -> None:
    async with asyncio.timeout(20):
        while await asyncio.to_thread(shown_by, server.address, authority) != certificate:
            await asyncio.sleep(0.1)


async def test_a_certificate_is_replaced_under_load_within_five_seconds_and_no_call_fails(
    url: str, tmp_path: Path, authority: Authority
) -> None:
    old, new = (authority.issue(dns=("localhost",)) for _ in range(2))
    async with serving(tls(url, tmp_path, old)) as server:
        assert await asyncio.to_thread(shown_by, server.address, authority) == old.certificate
        stop, calls = asyncio.Event(), 0

        async def call(*, anew: bool) -> None:
            nonlocal calls
            async with channel(server.address, authority) as kept:
                stub: tokens_pb2_grpc.TokenServiceAsyncStub = tokens_pb2_grpc.TokenServiceStub(kept)
                while not stop.is_set():
                    if anew:
                        await keys(server.address, authority)
                    else:
                        await stub.GetJwks(tokens_pb2.GetJwksRequest(), timeout=5)
                    calls += 1
                    await asyncio.sleep(0.01)

        callers = [asyncio.ensure_future(call(anew=anew)) for anew in (True, True, False, False)]
        new.write(tmp_path, "server")
        await until_shown(server, authority, new.certificate)
        stop.set()
        await asyncio.gather(*callers)
        assert calls > 20
        page = await scrape(server.ops_address)
        assert page["gatelodge_tls_certificate_expiry_timestamp_seconds"] == expiry(new.certificate)


async def test_files_that_do_not_fit_together_keep_the_certificate_before_and_are_told_once(
    url: str, tmp_path: Path, authority: Authority
) -> None:
    old, new = (authority.issue(dns=("localhost",)) for _ in range(2))
    async with serving(tls(url, tmp_path, old)) as server:
        (tmp_path / "server.pem").write_bytes(new.certificate)
        await server.until("certificate not reloaded, the one before stays")
        (tmp_path / "server.pem").write_bytes(new.certificate[:100])
        await asyncio.sleep(2.5)
        assert await asyncio.to_thread(shown_by, server.address, authority) == old.certificate
        warnings = [line for line in server.lines if line["logger"] == "gatelodge.tls"]
        assert [line["reason"] for line in warnings] == [
            "the key is not the certificate's",
            "the certificate file holds no certificates in PEM",
        ]
        new.write(tmp_path, "server")
        await until_shown(server, authority, new.certificate)
        assert not any("BEGIN" in str(line) for line in server.lines)


async def test_sighup_reads_the_certificates_again_and_does_not_end_the_process(
    url: str, tmp_path: Path, authority: Authority
) -> None:
    async with serving(tls(url, tmp_path, authority.issue(dns=("localhost",)))) as server:
        server.process.send_signal(signal.SIGHUP)
        await server.until("SIGHUP: reading the certificates again")
        await keys(server.address, authority)
        server.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(server.process.wait(), 10) == 0


async def test_a_client_without_a_certificate_of_the_authority_cannot_connect(
    url: str, tmp_path: Path, authority: Authority
) -> None:
    async with serving(mutual(url, tmp_path, authority)) as server:
        await keys(server.address, authority, authority.issue("anyone"))
        for stranger in (None, Authority().issue(uri=(URI,))):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await keys(server.address, authority, stranger)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_service_is_known_by_its_certificate_and_has_the_roles_of_the_settings(
    url: str, tmp_path: Path, authority: Authority
) -> None:
    billing = authority.issue("ignored", uri=(URI,), dns=("billing.corp",))
    async with serving(mutual(url, tmp_path, authority)) as server:
        async with channel(server.address, authority, billing) as opened:
            users: users_pb2_grpc.UserServiceAsyncStub = users_pb2_grpc.UserServiceStub(opened)
            request = users_pb2.CreateUserRequest(email="ada@example.com", request_id=str(uuid.uuid4()))
            created = await users.CreateUser(request)
            assert await users.CreateUser(request) == created
        async with asyncio.timeout(20):
            while not (lines := [line for line in server.lines if line.get("rpc_method", "").endswith("CreateUser")]):
                await asyncio.sleep(0.02)
        line = lines[0]
        assert (line["peer"], line["principal"]) == (URI, subject(URI))
    async with (
        serving(mutual(url, tmp_path, authority)) as server,
        channel(server.address, authority, billing) as opened,
    ):
        users = users_pb2_grpc.UserServiceStub(opened)
        assert (await users.LookupUser(users_pb2.LookupUserRequest(email="ada@example.com"))).user.id == created.user.id


async def test_a_services_role_may_be_made_while_it_runs_and_its_acts_are_on_the_record(
    url: str, tmp_path: Path, authority: Authority
) -> None:
    """``auditor`` is named in the settings before anybody has defined it."""
    identities = json.dumps({URI: ["auditor"], "spiffe://corp/other": []})
    env = {**mutual(url, tmp_path, authority), "APP_SERVER__TLS__SERVICE_IDENTITIES": identities}
    mine, theirs = (authority.issue(uri=(uri,)) for uri in (URI, "spiffe://corp/other"))
    async with (
        serving(env) as server,
        Client(server.address, url, channel(server.address, authority, mine)) as auditor,
        Client(server.address, url, channel(server.address, authority, theirs)) as other,
    ):
        root = await other.administrator()
        lookup = users_pb2.LookupUserRequest(email="root@example.com")
        for client in (auditor, other):
            assert (await failure(client.users.LookupUser(lookup))).reason == "PERMISSION_MISSING"
        await make_role(other, root, "auditor", "users.read", "users.create")
        assert (await let_in(lambda: auditor.users.LookupUser(lookup))).user.id == root.user_id
        assert (await failure(other.users.LookupUser(lookup))).reason == "PERMISSION_MISSING"
        created = await auditor.users.CreateUser(users_pb2.CreateUserRequest(email="ada@example.com"))
        request = events_pb2.ListEventsRequest(user_id=created.user.id)
        (event,) = (await other.events.ListEvents(request, metadata=root.metadata)).events
        assert (event.type, event.actor_id) == ("user.created", subject(URI))
        assert str(uuid.UUID(event.actor_id)) == event.actor_id


async def test_a_certificate_that_the_settings_do_not_name_is_nobody(
    url: str, tmp_path: Path, authority: Authority
) -> None:
    async with serving(mutual(url, tmp_path, authority)) as server:
        # The common name counts only where there is no other.
        for pair, code in (
            (authority.issue("robot"), grpc.StatusCode.PERMISSION_DENIED),
            (authority.issue(dns=("dns.corp",)), grpc.StatusCode.PERMISSION_DENIED),
            (authority.issue("robot", dns=("other.corp",)), grpc.StatusCode.UNAUTHENTICATED),
            (authority.issue("stranger"), grpc.StatusCode.UNAUTHENTICATED),
            # A URI is vouched for as a URI or not at all: authorities may check common names less.
            (authority.issue(URI), grpc.StatusCode.UNAUTHENTICATED),
        ):
            async with channel(server.address, authority, pair) as opened:
                users: users_pb2_grpc.UserServiceAsyncStub = users_pb2_grpc.UserServiceStub(opened)
                refused = await failure(users.LookupUser(users_pb2.LookupUserRequest(email="ada@example.com")))
                assert refused.code is code


async def test_a_bearer_token_counts_more_than_the_certificate(url: str, tmp_path: Path, authority: Authority) -> None:
    billing = authority.issue(uri=(URI,))
    environ = mutual(url, tmp_path, authority)
    async with serving(environ) as server, channel(server.address, authority, billing) as opened:
        auth: auth_pb2_grpc.AuthServiceAsyncStub = auth_pb2_grpc.AuthServiceStub(opened)
        await auth.Register(auth_pb2.RegisterRequest(email="ada@example.com", password=PASSWORD))
        ada = await auth.Login(auth_pb2.LoginRequest(email="ada@example.com", password=PASSWORD))
        token = (("authorization", f"Bearer {ada.access_token}"),)
        assert (await auth.GetMe(auth_pb2.GetMeRequest(), metadata=token)).user.id == ada.user_id
        users: users_pb2_grpc.UserServiceAsyncStub = users_pb2_grpc.UserServiceStub(opened)
        lookup = users_pb2.LookupUserRequest(email="ada@example.com")
        refused = await failure(users.LookupUser(lookup, metadata=token))
        assert refused.code is grpc.StatusCode.PERMISSION_DENIED
        await users.LookupUser(lookup)
        bad = (("authorization", "Bearer nonsense"),)
        assert (await failure(users.LookupUser(lookup, metadata=bad))).reason == "CREDENTIALS_INVALID"


async def test_the_health_command_finds_the_server_of_its_settings(
    url: str, tmp_path: Path, authority: Authority
) -> None:
    plain = tls(url, tmp_path, authority.issue(dns=("localhost",)))
    socket_ = {**mutual(url, tmp_path, authority), "APP_SERVER__UNIX_SOCKET": str(tmp_path / "it.sock")}
    async with serving(socket_):
        assert (await gatelodge("health", environ=socket_))[0] == 0
    for environ in (plain, mutual(url, tmp_path, authority)):
        async with serving(environ) as server:
            port = server.address.rpartition(":")[2]
            found = await gatelodge("health", environ={**environ, "APP_SERVER__PORT": port})
            assert found[0] == 0, found
            asked = ("health", "--address", server.address)
            assert (await gatelodge(*asked, environ={}))[1].split()[-1] == "UNAVAILABLE"
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    certificate, key = authority.issue("prober").write(tmp_path, "prober")
    async with serving(environ) as server:
        asked = ("health", "--address", server.address)
        files = ("--ca-file", str(tmp_path / "ca.pem"), "--cert-file", str(certificate), "--key-file", str(key))
        assert (await gatelodge(*asked, *files, environ={}))[0] == 0


async def test_certificates_that_are_no_good_stop_the_start_with_one_message(
    url: str, tmp_path: Path, authority: Authority
) -> None:
    pair = authority.issue(dns=("localhost",))
    environ = tls(url, tmp_path, Pair(pair.certificate, authority.issue().key))
    status, _, err = await gatelodge("serve", environ=environ)
    assert status == 1
    assert err.splitlines()[-1] == "gatelodge: the TLS certificate cannot be used: the key is not the certificate's"


@pytest.mark.parametrize(("version", "fine"), [(ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True)])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
async def test_tls_begins_with_version_1_2(
    url: str, tmp_path: Path, authority: Authority, version: ssl.TLSVersion, *, fine: bool
) -> None:
    async with serving(tls(url, tmp_path, authority.issue(dns=("localhost",)))) as server:
        host, _, port = server.address.rpartition(":")
        context = ssl.create_default_context(cadata=authority.pem.decode())
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
        context.set_alpn_protocols(["h2"])
        with contextlib.nullcontext() if fine else pytest.raises((ssl.SSLError, ConnectionError)):
            _, writer = await asyncio.open_connection(host, int(port), ssl=context)
            writer.close()
