"""The service behind a real Envoy with our configuration: JSON and gRPC-Web, by clients written for these tests."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from gatelodge.auth.v1 import auth_pb2
from gatelodge.events.v1 import events_pb2
from gatelodge.info.v1 import info_pb2
from gatelodge.users.v1 import users_pb2
from google.protobuf import descriptor_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from tests.app import envoy as edge
from tests.app.client import PASSWORD, Client
from tests.app.envoy import Answer, Envoy, WebAnswer, asking, running_envoy

from service.errors import ShuttingDown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from google.protobuf.message import Message

    from service.app import App

pytestmark = pytest.mark.skipif(edge.MISSING is not None, reason=str(edge.MISSING))

ADA: dict[str, object] = {"email": "ada@example.com", "password": PASSWORD}


@pytest.fixture
async def envoy(app: App, tmp_path: Path) -> AsyncIterator[Envoy]:
    async with running_envoy(tmp_path, app.address) as running:
        yield running


async def ask(
    envoy: Envoy, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
) -> Answer:
    return await asyncio.to_thread(edge.ask, envoy.address, method, path, body, headers)


async def web(
    envoy: Envoy, path: str, request: Message, token: str = "", *, enough: int = 1 << 30, **headers: str
) -> WebAnswer:
    if token:
        headers["authorization"] = f"Bearer {token}"
    return await asyncio.to_thread(
        edge.web_call, envoy.address, path, request.SerializeToString(), headers, enough=enough
    )


async def test_register_login_and_get_me_in_json(envoy: Envoy) -> None:
    registered = await ask(envoy, "POST", "/v1/auth:register", ADA | {"displayName": "Ada"})
    assert (registered.status, registered.json) == (200, {})
    login = await ask(envoy, "POST", "/v1/auth:login", ADA)
    assert login.headers["content-type"] == "application/json"
    me = await ask(envoy, "GET", "/v1/me", None, {"authorization": f"Bearer {login.json['accessToken']}"})
    user = me.json["user"]
    assert (user["id"], user["displayName"], user["state"]) == (login.json["userId"], "Ada", "STATE_ACTIVE")


async def test_register_login_and_get_me_over_grpc_web(envoy: Envoy) -> None:
    service = "/gatelodge.auth.v1.AuthService"
    request = auth_pb2.RegisterRequest(email="ada@example.com", password=PASSWORD)
    assert (await web(envoy, f"{service}/Register", request)).code == 0
    answer = await web(envoy, f"{service}/Login", auth_pb2.LoginRequest(email="ada@example.com", password=PASSWORD))
    assert answer.headers["content-type"].startswith("application/grpc-web+proto")
    login = auth_pb2.LoginResponse.FromString(answer.messages[0])
    me = await web(envoy, f"{service}/GetMe", auth_pb2.GetMeRequest(), login.access_token)
    assert auth_pb2.GetMeResponse.FromString(me.messages[0]).user.id == login.user_id
    assert me.code == 0


async def test_paths_and_queries_become_fields(envoy: Envoy, client: Client) -> None:
    root = await client.administrator()
    headers = dict(root.metadata)
    assert (await ask(envoy, "GET", f"/v1/users/{root.user_id}", None, headers)).json["user"]["id"] == root.user_id
    page = await ask(envoy, "GET", "/v1/users?pageSize=1", None, headers)
    assert len(page.json["users"]) == 1
    ada = await client.user("ada.too@example.com")
    disabled = await ask(envoy, "POST", f"/v1/users/{ada.user_id}:disable", {"reason": "gone"}, headers)
    assert disabled.json["user"]["state"] == "STATE_DISABLED"


async def test_an_error_in_json_is_its_status_with_all_details(envoy: Envoy) -> None:
    answer = await ask(envoy, "POST", "/v1/auth:login", ADA, {"x-request-id": "asked-by-hand"})
    assert (answer.status, answer.headers["content-type"]) == (401, "application/json")
    details = {detail["@type"].rpartition(".")[2]: detail for detail in answer.json["details"]}
    assert answer.json["code"] == 16
    assert (details["ErrorInfo"]["reason"], details["ErrorInfo"]["domain"]) == ("LOGIN_FAILED", "gatelodge")
    assert details["RequestInfo"]["requestId"] == "asked-by-hand" == answer.headers["x-request-id"]
    invalid = await ask(envoy, "POST", "/v1/auth:login", {"email": "ada@example.com"})
    fields = [detail for detail in invalid.json["details"] if detail["@type"].endswith("BadRequest")]
    assert (invalid.status, fields[0]["fieldViolations"][0]["field"]) == (400, "password")


async def test_an_error_over_grpc_web_has_its_details_in_the_trailers(envoy: Envoy) -> None:
    request = auth_pb2.LoginRequest(email="ada@example.com", password=PASSWORD)
    answer = await web(envoy, "/gatelodge.auth.v1.AuthService/Login", request)
    assert (answer.code, answer.messages) == (16, [])
    raw = (answer.trailers or answer.headers)["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(base64.b64decode(raw + "=" * (-len(raw) % 4)))
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.reason, status.message) == ("LOGIN_FAILED", answer.message)


async def test_events_arrive_while_the_stream_is_open_over_grpc_web(envoy: Envoy, client: Client) -> None:
    root = await client.administrator()
    request = events_pb2.WatchEventsRequest(earliest=True)
    answer = await web(envoy, "/gatelodge.events.v1.EventService/WatchEvents", request, root.token, enough=2)
    events = [event for raw in answer.messages for event in events_pb2.WatchEventsResponse.FromString(raw).events]
    assert [event.type for event in events] == ["key.activated", "user.registered", "session.started"]
    assert answer.headers["x-request-id"]


async def test_events_arrive_as_lines_of_json_while_the_stream_is_open(envoy: Envoy, client: Client) -> None:
    root = await client.administrator()

    def lines() -> list[Any]:
        with asking(envoy.address, "GET", "/v1/events:watch?earliest=true", None, dict(root.metadata)) as response:
            return [json.loads(response.readline()) for _ in range(2)]

    first, second = await asyncio.to_thread(lines)
    assert [event["type"] for event in first["events"]] == ["key.activated", "user.registered", "session.started"]
    assert "userRegistered" in first["events"][1]
    assert "events" not in second
    assert second["cursor"]


async def test_plain_grpc_passes_too(envoy: Envoy, url: str) -> None:
    async with Client(envoy.address, url) as client:
        ada = await client.user()
        answer = await client.users.GetUser(users_pb2.GetUserRequest(user_id=ada.user_id), metadata=ada.metadata)
        assert answer.user.id == ada.user_id
        health = await client.health.Check(health_pb2.HealthCheckRequest(service="readiness"))
        assert health.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/v2/nothing", None, 404, 5),
        ("GET", "/v1/serverInfo?surprise=1", None, 400, 3),
        ("POST", "/v1/auth:login", "not an object", 400, 3),
        ("POST", "/v1/auth:login", {"email": "x" * 2_000_000}, 413, 3),
    ],
)
async def test_what_envoy_refuses_itself_has_the_same_shape(
    envoy: Envoy, method: str, path: str, body: object, status: int, code: int
) -> None:
    answer = await ask(envoy, method, path, body)
    assert (answer.status, answer.json["code"]) == (status, code)
    assert answer.json["message"]


async def test_without_a_replica_the_answer_has_the_same_shape_in_json_and_in_grpc(url: str, tmp_path: Path) -> None:
    async with running_envoy(tmp_path, f"127.0.0.1:{edge.free_ports(1)[0]}", healthy=0) as envoy:
        answer = await ask(envoy, "GET", "/v1/serverInfo")
        assert (answer.status, answer.json["code"]) == (503, 14)
        assert answer.json["message"].startswith("upstream connect error")
        async with Client(envoy.address, url) as client:
            with pytest.raises(grpc.aio.AioRpcError, match="upstream connect error") as caught:
                await client.info.GetServerInfo(info_pb2.GetServerInfoRequest())
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            assert str(caught.value.details()).startswith("upstream connect error")


async def test_headers_that_are_too_large_are_refused(envoy: Envoy) -> None:
    assert (await ask(envoy, "GET", "/v1/serverInfo", None, {"x-large": "x" * 20_000})).status == 431


async def test_no_page_of_another_origin_may_call(envoy: Envoy) -> None:
    headers = {"origin": "https://elsewhere.example", "access-control-request-method": "POST"}
    preflight = await ask(envoy, "OPTIONS", "/v1/auth:login", None, headers)
    assert "access-control-allow-origin" not in preflight.headers
    answer = await ask(envoy, "GET", "/v1/serverInfo", None, {"origin": "https://elsewhere.example"})
    assert "access-control-allow-origin" not in answer.headers


async def test_an_origin_that_is_let_in_may_read_answers_and_trailers(
    app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = edge.CONFIGURATION.read_text()
    told = re.compile(r"#   (allow_origin_string_match: .*)\n( *)(?=envoy\.filters\.http\.cors:)")
    (origins,) = [found[1] for found in told.finditer(text)]
    opened = tmp_path / "opened.yaml"
    opened.write_text(
        text.replace("forward_not_matching_preflights", f"{origins}\n{' ' * 18}forward_not_matching_preflights")
    )
    monkeypatch.setattr(edge, "CONFIGURATION", opened)
    async with running_envoy(tmp_path, app.address) as envoy:
        headers = {"origin": "https://console.example.com", "access-control-request-method": "POST"}
        preflight = await ask(envoy, "OPTIONS", "/v1/auth:login", None, headers)
        assert preflight.headers["access-control-allow-origin"] == "https://console.example.com"
        assert "x-grpc-web" in preflight.headers["access-control-allow-headers"]
        answer = await ask(envoy, "GET", "/v1/serverInfo", None, headers)
        assert "grpc-status" in answer.headers["access-control-expose-headers"]


async def test_the_methods_that_are_tried_again_are_those_without_side_effects() -> None:
    (pattern,) = re.findall(r"safe_regex: \{regex: '(.*)'\}", edge.CONFIGURATION.read_text())
    descriptors = descriptor_pb2.FileDescriptorSet.FromString(edge.DESCRIPTORS.read_bytes())
    methods = {
        f"/{file.package}.{service.name}/{method.name}": method.options.idempotency_level
        for file in descriptors.file
        for service in file.service
        for method in service.method
    }
    safe = {path for path, level in methods.items() if level == descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS}
    assert {path for path in methods if re.fullmatch(pattern, path)} == safe


async def test_changes_are_tried_again_when_a_replica_that_goes_away_has_refused_them() -> None:
    (prefix,) = re.findall(r'grpc-message, string_match: \{prefix: "(.*)"\}', edge.CONFIGURATION.read_text())
    assert ShuttingDown().message.startswith(prefix)


async def test_every_service_is_there_in_json() -> None:
    descriptors = descriptor_pb2.FileDescriptorSet.FromString(edge.DESCRIPTORS.read_bytes())
    services = {f"{file.package}.{service.name}" for file in descriptors.file for service in file.service}
    assert set(re.findall(r"- (gatelodge\.[a-zA-Z0-9.]+)\n", edge.CONFIGURATION.read_text())) == services
