"""Health by the gRPC health protocol, reflection, and the ops port: what probes and newcomers meet first."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from typing import TYPE_CHECKING

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.app.client import Client, failure

if TYPE_CHECKING:
    from service.app import App

SERVING = health_pb2.HealthCheckResponse.SERVING
SERVICES = {
    "gatelodge.access.v1.RoleService",
    "gatelodge.auth.v1.AuthService",
    "gatelodge.auth.v1.SigningKeyService",
    "gatelodge.auth.v1.RevocationService",
    "gatelodge.auth.v1.SessionService",
    "gatelodge.auth.v1.TokenService",
    "gatelodge.events.v1.EventService",
    "gatelodge.info.v1.InfoService",
    "gatelodge.users.v1.UserService",
}


@pytest.mark.parametrize("name", ["", "liveness", "readiness", "revocations", *sorted(SERVICES)])
async def test_every_name_serves_without_a_token(client: Client, name: str) -> None:
    assert (await client.health.Check(health_pb2.HealthCheckRequest(service=name))).status == SERVING


async def test_an_unknown_name_is_not_found(client: Client) -> None:
    refused = await failure(client.health.Check(health_pb2.HealthCheckRequest(service="no.such.Service")))
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "SERVICE_UNKNOWN")


async def test_list_tells_every_status(client: Client) -> None:
    statuses = (await client.health.List(health_pb2.HealthListRequest())).statuses
    assert set(statuses) == {"", "liveness", "readiness", "revocations", *SERVICES}
    assert {answer.status for answer in statuses.values()} == {SERVING}


async def test_watch_tells_the_present_status_at_once(client: Client) -> None:
    watch = client.health.Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == SERVING
    watch.cancel()


async def test_reflection_lists_and_describes_every_service(client: Client) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(client.channel)
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="gatelodge.users.v1.UserService"),
    ]
    listed, described = [answer async for answer in stub.ServerReflectionInfo(iter(asked))]
    assert {service.name for service in listed.list_services_response.service} >= SERVICES
    files = map(FileDescriptorProto.FromString, described.file_descriptor_response.file_descriptor_proto)
    names = {field.json_name for file in files for message in file.message_type for field in message.field}
    assert {"displayName", "userId"} <= names


async def test_reflection_v1_answers_too(client: Client) -> None:
    call = client.channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    (answer,) = [a async for a in call(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))]
    assert "gatelodge.users.v1.UserService" in {s.name for s in answer.list_services_response.service}


async def get(app: App, path: str) -> bytes:
    def fetch() -> bytes:
        with urllib.request.urlopen(f"http://{app.ops_address}{path}", timeout=5) as answer:
            return bytes(answer.read())

    return await asyncio.to_thread(fetch)


async def test_the_ops_port_publishes_the_keys(app: App, client: Client) -> None:
    ada = await client.user()
    keys = json.loads(await get(app, "/.well-known/jwks.json"))["keys"]
    assert {key["kty"] for key in keys} == {"EC"}
    assert all("d" not in key for key in keys)
    assert ada.token


async def test_the_metrics_page_shows_calls_pool_hashing_and_loop_lag(app: App, client: Client) -> None:
    await client.user()
    async with asyncio.timeout(20):
        while "gatelodge_event_loop_lag_seconds_count 0.0" in (page := (await get(app, "/metrics")).decode()):
            await asyncio.sleep(0.05)
    counted = {line.split()[0]: float(line.split()[1]) for line in page.splitlines() if not line.startswith("#")}
    assert counted["gatelodge_event_loop_lag_seconds_count"] > 0
    assert counted["gatelodge_password_hash_duration_seconds_count"] >= 2
    assert counted["gatelodge_db_pool_requests_total"] > 0
    assert counted['gatelodge_registrations_total{outcome="accepted"}'] == 1
    assert counted['gatelodge_health{service="readiness"}'] == 1
    assert 'rpc_method="gatelodge.auth.v1.AuthService/Login"' in page
    for name in (
        "rpc_server_call_duration_seconds_bucket",
        "rpc_server_active_calls",
        "db_client_connection_count",
        "gatelodge_event_loop_lag_seconds",
        "gatelodge_build_info",
        'gatelodge_logins_total{outcome="success"} 1.0',
        "gatelodge_password_hash",
    ):
        assert name in page, name
