"""Marked secrets go down every path, success and failure; afterwards no log, span, metric or error holds one (H4)."""

from __future__ import annotations

import asyncio
import signal
import uuid
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import grpc
from gatelodge.access.v1 import roles_pb2
from gatelodge.auth.v1 import auth_pb2, keys_pb2, revocations_pb2, sessions_pb2, tokens_pb2
from gatelodge.users.v1 import users_pb2
from google.protobuf import empty_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.trace.v1 import trace_pb2
from tests.app.client import Client, Login
from tests.app.collector import Collector, collecting
from tests.app.conftest import environment
from tests.app.process import Serving, serving
from tests.app.test_bad_input import raw_field
from tests.rpc import raw

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence
    from pathlib import Path

MARK = "canary"
PASSWORD = f"{MARK}-quiet-lantern-marble"
WRONG = f"{MARK}-quiet-lantern-gravel"
MASTER = f"{MARK}-master-secret-0123456789-abcdef"
PEPPER = f"{MARK}-pepper-0123456789"
EMAIL = f"{MARK}.address@example.com"
TOKEN = f"eyJ{MARK}"
NO_PROCESS: Any = None


class Errors:
    """Everything a caller was told by failing calls."""

    def __init__(self) -> None:
        self.told: list[str] = []

    async def of(self, call: Awaitable[object]) -> None:
        try:
            await call
        except grpc.aio.AioRpcError as error:
            self.told.append(f"{error.details()} {error.initial_metadata()} {error.trailing_metadata()!r}")


async def test_no_secret_reaches_a_log_a_span_a_metric_or_an_error(url: str, tmp_path: Path) -> None:
    async with collecting() as collector:
        environ = environment(
            url,
            tmp_path,
            AUTH__MASTER_SECRET=MASTER,
            AUTH__PASSWORD_PEPPER=PEPPER,
            AUTH__PREVIOUS_MASTER_SECRETS=f'["{MASTER}-before"]',
            LOG__LEVEL="DEBUG",
            TRACING__OTLP_ENDPOINT=collector.endpoint,
            TRACING__SAMPLE_RATIO="1",
            METRICS__OTLP_ENDPOINT=collector.endpoint,
            METRICS__INTERVAL_SECONDS="0.2",
        )
        errors = Errors()
        async with serving(environ) as server, Client(server.address, url) as client:
            tokens = await down_every_path(client, errors)
            events, answers = await kept(client)
            await asyncio.sleep(0.5)
            server.process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(server.process.wait(), 15) == 0
        check_that_there_was_something_to_find(server, collector, errors)
        assert leaks(server, collector, errors, (MARK, *tokens)) == []
        assert {"user.password_set", "session.revoked", "role.created"} <= {kind for kind, _ in events}
        assert found([text for _, text in events], (MARK, *tokens)) == []
        assert len(answers) >= 2
        assert found(answers, (PASSWORD, TOKEN, *tokens)) == []


async def down_every_path(client: Client, errors: Errors) -> list[str]:
    """Return the tokens that were given out, and the parts of them that are secret by themselves."""
    await client.register(EMAIL, PASSWORD)
    await client.register(EMAIL, WRONG)
    await client.sql("UPDATE users SET roles = '{admin}'")
    root = await client.login(EMAIL, PASSWORD)
    await client.auth.GetMe(auth_pb2.GetMeRequest(), metadata=root.metadata)
    create = users_pb2.CreateUserRequest(email=EMAIL, password=PASSWORD, display_name=MARK)
    await errors.of(client.users.CreateUser(create, metadata=root.metadata))
    await errors.of(client.login(EMAIL, WRONG))
    secrets = await through_the_life_of_a_password(client, errors, root)
    await errors.of(client.login(f"{MARK}@nowhere.example", WRONG))
    await errors.of(client.register(f"{MARK} no address", MARK))
    await errors.of(client.register(EMAIL, MARK + "\0" + PASSWORD))
    await errors.of(client.register(EMAIL, MARK * 10_000))
    await errors.of(client.register(EMAIL, MARK * 300_000))
    for header in (f"Bearer {TOKEN}", f"Basic {MARK}", f"Bearer {root.token}{MARK}", MARK):
        await errors.of(client.auth.GetMe(auth_pb2.GetMeRequest(), metadata=(("authorization", header),)))
    await errors.of(client.users.GetUser(users_pb2.GetUserRequest(user_id=MARK), metadata=root.metadata))
    keys = (("x-api-key", MARK), ("cookie", MARK), ("x-request-id", f"{MARK} {MARK}"))
    await errors.of(client.auth.GetMe(auth_pb2.GetMeRequest(), metadata=keys))
    await signing_keys(client, errors, root)
    secrets += await tokens_looked_at(client, errors, root)
    await roles_and_sessions(client, errors, root)
    await raw_bytes(client, errors)
    await broken_metadata(client.address)
    refresh_tokens = await refreshes(client, errors)
    await with_a_broken_database(client, errors, root)
    return [root.token, root.token.split(".")[2], *refresh_tokens, *secrets]


async def refreshes(client: Client, errors: Errors) -> list[str]:
    """Refresh, again, too late and with what is no token; return where the secrets of the tokens begin and end."""
    request = auth_pb2.LoginRequest(email=EMAIL, password=PASSWORD, device_label=f"{MARK} device")
    first = (await client.auth.Login(request)).refresh_token
    second = (await client.refresh(first)).refresh_token
    await client.refresh(first)
    third = (await client.refresh(second)).refresh_token
    for bad in (first, third, f"{third}{MARK}", f"glr_{MARK}", MARK * 100):
        await errors.of(client.refresh(bad))
    last = await client.login(EMAIL, PASSWORD)
    await client.sessions.ListSessions(
        sessions_pb2.ListSessionsRequest(user_id=last.user_id, page_size=1), metadata=last.metadata
    )
    await client.auth.LogoutAll(auth_pb2.LogoutAllRequest(keep_current=True), metadata=last.metadata)
    await client.auth.Logout(auth_pb2.LogoutRequest(), metadata=last.metadata)
    secrets = [token[52:] for token in (first, second, third, last.refresh_token)]
    return [part for secret in secrets for part in (secret[:20], secret[-20:])]


async def signing_keys(client: Client, errors: Errors, root: Login) -> None:
    """Rotate, and fail at it."""
    staged = await client.keys.StageSigningKey(keys_pb2.StageSigningKeyRequest(), metadata=root.metadata)
    activate = keys_pb2.ActivateSigningKeyRequest(key_id=staged.signing_key.id, force=True)
    await client.keys.ActivateSigningKey(activate, metadata=root.metadata)
    await errors.of(client.keys.ActivateSigningKey(activate, metadata=root.metadata))
    remove = keys_pb2.RetireSigningKeyRequest(key_id=MARK)
    await errors.of(client.keys.RetireSigningKey(remove, metadata=root.metadata))


async def tokens_looked_at(client: Client, errors: Errors, root: Login) -> tuple[str, ...]:
    """Introspect and revoke tokens of every kind, one at a time and together, and what is none; watch them die."""
    by = root.metadata
    first, second = [await client.auth.Login(auth_pb2.LoginRequest(email=EMAIL, password=PASSWORD)) for _ in range(2)]
    good = [first.access_token, first.refresh_token, second.access_token, second.refresh_token]
    bad = [
        TOKEN,
        f"glr_{MARK}",
        f"{first.access_token}{MARK}",
        f"{first.refresh_token}{MARK}",
        MARK * 2000,
        f"{MARK}\0",
    ]
    watch: Any = client.revocations.WatchRevocations(revocations_pb2.WatchRevocationsRequest(), metadata=by)
    resumed: Any = client.revocations.WatchRevocations(
        revocations_pb2.WatchRevocationsRequest(cursor=f"{MARK}{root.token[:200]}"), metadata=by
    )
    await errors.of(resumed.read())
    for token in (*good, *bad):
        await errors.of(client.tokens.IntrospectToken(tokens_pb2.IntrospectTokenRequest(token=token), metadata=by))
        await errors.of(client.tokens.IntrospectToken(tokens_pb2.IntrospectTokenRequest(token=token)))
    for tokens in (good + bad[:4], good + bad, bad * 20):
        batch = tokens_pb2.BatchIntrospectTokensRequest(tokens=tokens)
        await errors.of(client.tokens.BatchIntrospectTokens(batch, metadata=by))
    for token in (*bad, first.access_token, second.refresh_token):
        for request_id in (str(uuid.uuid4()), f"{MARK} no id"):
            request = tokens_pb2.RevokeTokenRequest(token=token, request_id=request_id)
            await errors.of(client.tokens.RevokeToken(request, metadata=by))
    async with asyncio.timeout(20):
        seen = 0
        while seen < 2:
            seen += len((await watch.read()).revocations)
    watch.cancel()
    refresh = [token[52:] for token in (first.refresh_token, second.refresh_token)]
    return (
        *(login.access_token.split(".")[2] for login in (first, second)),
        *(part for secret in refresh for part in (secret[:20], secret[-20:])),
        first.device_token,
        second.device_token,
    )


async def roles_and_sessions(client: Client, errors: Errors, root: Login) -> None:
    """Make, grant and end what takes texts of callers."""
    by = root.metadata
    for name in ("keeper", f"{MARK} no name"):
        role = roles_pb2.Role(name=name, permissions=["users.read"], description=f"{MARK} {TOKEN}")
        await errors.of(client.roles.CreateRole(roles_pb2.CreateRoleRequest(role=role), metadata=by))
    for request in (
        roles_pb2.GrantRoleRequest(user_id=root.user_id, role=f"{MARK}-unknown"),
        roles_pb2.GrantRoleRequest(user_id=MARK, role="keeper"),
    ):
        await errors.of(client.roles.GrantRole(request, metadata=by))
    revoke = sessions_pb2.RevokeSessionRequest(user_id=root.user_id, session_id=MARK)
    await errors.of(client.sessions.RevokeSession(revoke, metadata=by))
    await errors.of(client.users.ExplainLogin(users_pb2.ExplainLoginRequest(email=EMAIL), metadata=by))
    third, request_id = f"{MARK}.third@example.com", str(uuid.uuid4())
    await client.register(third, WRONG)
    user_id = (await client.login(third, WRONG)).user_id
    for password in (PASSWORD, f"{MARK}-of-another-request"):
        repeated = users_pb2.SetPasswordRequest(user_id=user_id, password=password, request_id=request_id)
        await errors.of(client.users.SetPassword(repeated, metadata=by))


async def kept(client: Client) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the record, each event with its type, and the stored answers, which may hold addresses."""
    events = await client.sql("SELECT type, events::text FROM events")
    answers = await client.sql("SELECT encode(response, 'escape') FROM idempotency_keys")
    return [(kind, text) for kind, text in events], [text for (text,) in answers]


async def through_the_life_of_a_password(client: Client, errors: Errors, root: Login) -> tuple[str, ...]:
    """Change it, set it, replace it, guess at it until that is refused; return the tokens of the device."""
    email, second, third = f"{MARK}.second@example.com", f"{MARK}-umbrella-over-walrus", f"{MARK}-zeppelin-at-anchor"
    await client.register(email, PASSWORD)
    first = await client.auth.Login(auth_pb2.LoginRequest(email=email, password=PASSWORD, device_label=MARK))
    mine = (("authorization", f"Bearer {first.access_token}"),)
    for current, new in (
        (WRONG, second),
        (PASSWORD, f"{MARK} short"),
        (PASSWORD, f"{email}{MARK}"),
        (PASSWORD, second),
    ):
        change = auth_pb2.ChangePasswordRequest(
            current_password=current, new_password=new, device_token=first.device_token
        )
        await errors.of(client.auth.ChangePassword(change, metadata=mine))
    for password in (f"{MARK}{MARK}{MARK}", third):
        request = users_pb2.SetPasswordRequest(user_id=first.user_id, password=password, must_change=True)
        await errors.of(client.users.SetPassword(request, metadata=root.metadata))
    for new in ("", f"{MARK}{MARK}{MARK}", f"{MARK}-ottoman-by-the-harbour"):
        login = auth_pb2.LoginRequest(email=email, password=third, new_password=new, device_token=first.device_token)
        await errors.of(client.auth.Login(login))
    for token in (f"gld_{MARK}", first.device_token + MARK):
        for _ in range(8):
            guess = auth_pb2.LoginRequest(email=email, password=WRONG, new_password=third, device_token=token)
            await errors.of(client.auth.Login(guess))
    return first.device_token, first.refresh_token, first.access_token.split(".")[2]


async def raw_bytes(client: Client, errors: Errors) -> None:
    """Send what cannot be decoded, and what asks for a method that is not there."""
    bad = raw_field(1, EMAIL.encode()) + raw_field(2, PASSWORD.encode() + b"\xff")
    for path in ("/gatelodge.auth.v1.AuthService/Login", "/gatelodge.auth.v1.AuthService/Nothing"):
        call = client.channel.unary_unary(path, lambda raw: raw, empty_pb2.Empty.FromString)
        await errors.of(call(bad))


async def broken_metadata(address: str) -> None:
    """Send header values that are no text, over a bare socket: gRPC's own library would quote them in its log."""
    values = ((b"x-api-key", MARK.encode() + b"\xff"), (b"cookie", b"\xff" + MARK.encode()))
    async with raw.Connection(SimpleNamespace(port=int(address.rpartition(":")[2]))) as connection:
        connection.send(raw.call(b"/gatelodge.auth.v1.AuthService/GetMe", *values))
        await connection.until(b"grpc-status")


async def with_a_broken_database(client: Client, errors: Errors, root: Login) -> None:
    """Make PostgreSQL complain about the very values it was given."""
    await client.sql("ALTER TABLE users ADD CONSTRAINT no_new CHECK (email NOT LIKE '%%broken%%')")
    await client.sql("ALTER TABLE passwords ADD CONSTRAINT no_hash CHECK (length(hash) < 10) NOT VALID")
    await errors.of(client.register(f"{MARK}.broken@example.com", PASSWORD))
    await errors.of(client.register(f"{MARK}.hash@example.com", PASSWORD))
    create = users_pb2.CreateUserRequest(email=f"{MARK}.broken@example.com", password=PASSWORD)
    await errors.of(client.users.CreateUser(create, metadata=root.metadata))
    await client.sql("ALTER TABLE passwords RENAME TO secrets")
    await errors.of(client.login(EMAIL, PASSWORD))


def check_that_there_was_something_to_find(server: Serving, collector: Collector, errors: Errors) -> None:
    codes = {line.get("code") for line in server.lines}
    assert {"OK", "INVALID_ARGUMENT", "UNAUTHENTICATED", "INTERNAL", "ALREADY_EXISTS", "UNIMPLEMENTED"} <= codes
    assert [line for line in server.lines if line["level"] == "error" and "CheckViolation" in str(line)]
    names = {span.name for span in collector.spans}
    assert {"auth.find_candidate", "users.insert", "argon2id hash", "argon2id verify"} <= names
    for method in (
        "Login",
        "SetPassword",
        "IntrospectToken",
        "BatchIntrospectTokens",
        "RevokeToken",
        "WatchRevocations",
    ):
        lines = [line for line in server.lines if line["event"] == "call" and line["rpc_method"].endswith(f"/{method}")]
        assert len({line["code"] for line in lines}) > 1, f"{method} only failed or only succeeded"
    assert any("AuthService/Login" in name for name in names)
    assert "gatelodge_logins" in str(collector.metrics)
    assert len(errors.told) > 10


def leaks(server: Serving, collector: Collector, errors: Errors, secrets: tuple[str, ...]) -> list[str]:
    """Return what stands around each secret found."""
    seen = [str(server.lines), *map(str, collector.traces), *map(str, collector.metrics), *errors.told]
    return found(seen, secrets)


def found(texts: Sequence[str], secrets: tuple[str, ...]) -> list[str]:
    """Return what stands around each secret in the texts."""
    places = [(text, text.find(secret)) for text in texts for secret in secrets]
    return [text[max(0, at - 200) : at + 80] for text, at in places if at >= 0]


async def test_the_canary_sings_wherever_a_secret_is_let_out() -> None:
    """The negative control: the same search finds a secret in each of the places it looks at."""
    line = {"event": "call", "request": str(auth_pb2.LoginRequest(password=PASSWORD))}
    span = trace_pb2.Span(name=PASSWORD)
    scope = trace_pb2.ScopeSpans(spans=[span])
    traced = trace_service_pb2.ExportTraceServiceRequest(resource_spans=[trace_pb2.ResourceSpans(scope_spans=[scope])])
    quiet, loud = Serving(NO_PROCESS), Serving(NO_PROCESS, [line])
    told, untold = Errors(), Errors()
    told.told.append(f"the password {PASSWORD} is wrong")
    assert leaks(quiet, Collector(""), untold, (MARK,)) == []
    for server, collector, errors in (
        (loud, Collector(""), untold),
        (quiet, Collector("", traces=[traced]), untold),
        (quiet, Collector("", metrics=[f"logins{{email={EMAIL}}}"]), untold),
        (quiet, Collector(""), told),
    ):
        assert len(leaks(server, collector, errors, (MARK,))) == 1
