"""A servicer that does what each request wishes, and a server with the real chain around it."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from buf.validate import validate_pb2  # noqa: F401 - the dummy's proto imports it
from gatelodge.access.v1 import access_pb2  # noqa: F401
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.rpc import error_details_pb2, status_pb2
from grpc_tools import protoc  # type: ignore[import-untyped]
from psycopg.errors import UniqueViolation

from service.access import ADMIN, Principal
from service.errors import CredentialsInvalid, EmailTaken
from service.rpc.health import HealthBoard
from service.rpc.inflight import InFlight
from service.rpc.interceptors import Idempotency, RequestId, Tracing, chain
from service.rpc.server import Transport, build_server, listen, register
from service.rpc.source import Sources

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from opentelemetry.trace import TracerProvider

    from service.call import RequestKey

SERVICE = "dummy.v1.DummyService"
KINDS = ("Unary", "ServerStream", "ClientStream", "Bidi")
LIMIT = 10_000
TOKENS = {
    "alice": Principal("alice"),
    "admin": Principal("admin", frozenset({ADMIN})),
    "robot": Principal("robot", is_service=True),
    "reader": Principal("reader", permissions=frozenset({"dummies.read"})),
}
ALICE = (("authorization", "Bearer alice"),)


def load() -> tuple[Any, Any]:
    """Put the dummy's proto into the pool; return its request and response classes."""
    pool, here = descriptor_pool.Default(), Path(__file__).parent
    with tempfile.NamedTemporaryFile() as out:
        roots = (here, here.parents[1] / "protos", Path(protoc.__file__).parent / "_proto")
        flags = (*(f"-I{root}" for root in roots), f"--descriptor_set_out={out.name}", "dummy.proto")
        if protoc.main(["protoc", *flags]):
            raise AssertionError("protoc refused the dummy's proto")
        files = descriptor_pb2.FileDescriptorSet.FromString(Path(out.name).read_bytes())
    pool.AddSerializedFile(files.file[0].SerializeToString())
    names = ("dummy.v1.DummyRequest", "dummy.v1.DummyResponse")
    request, response = (message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in names)
    return request, response


Request, Response = load()


class BrokenText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


UniqueViolation.__module__ = "psycopg.errors"


@dataclass
class Servicer:
    """Does what requests wish."""

    release: asyncio.Event = field(default_factory=asyncio.Event)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    ended: list[str] = field(default_factory=list)
    seen: list[Any] = field(default_factory=list)

    async def fulfil(self, request: Any, context: Any) -> Any:
        self.seen.append(request)
        wish = request.wish
        if wish == "wait":
            await self._wait()
        elif wish == "abort":
            await context.abort(grpc.StatusCode.NOT_FOUND, "by hand")
        elif wish == "tell":
            raise ValueError(f"{request.password} {context.invocation_metadata()}")
        elif wish == "hold":
            held = ValueError("its traceback holds this frame, which holds it")
            raise held
        elif wish in _RAISED:
            raise _raised(wish)
        return "not a message" if wish == "wrong type" else Response(text=wish)

    async def _wait(self) -> None:
        self.begun.set()
        try:
            await self.release.wait()
            self.ended.append("finished")
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise

    async def unary(self, request: Any, context: Any) -> Any:
        return await self.fulfil(request, context)

    async def server_stream(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield Response(text="first")
        yield await self.fulfil(request, context)

    async def client_stream(self, requests: Any, context: Any) -> Any:
        return [await self.fulfil(request, context) async for request in requests][-1]

    async def bidi(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            yield await self.fulfil(request, context)

    def add_to(self, server: grpc.aio.Server) -> None:
        unary = grpc.unary_unary_rpc_method_handler
        names = ("Unary", "Public", "Permitted", "SelfOr", "ServiceOnly")
        handlers: dict[str, Any] = {name: _handler(unary, self.unary) for name in names} | {
            "ServerStream": _handler(grpc.unary_stream_rpc_method_handler, self.server_stream),
            "PermittedStream": _handler(grpc.unary_stream_rpc_method_handler, self.server_stream),
            "ClientStream": _handler(grpc.stream_unary_rpc_method_handler, self.client_stream),
            "Bidi": _handler(grpc.stream_stream_rpc_method_handler, self.bidi),
        }
        sync: Any = lambda request, context: Response()  # noqa: E731, ARG005
        add_handlers(server, SERVICE, handlers | {"Sync": _handler(unary, sync)})
        add_handlers(server, "dummy.v1.FaultyService", {"Undeclared": _handler(unary, self.unary)})


def _handler(factory: Any, behaviour: Any) -> Any:
    return factory(behaviour, Request.FromString, Response.SerializeToString)


def add_handlers(server: grpc.aio.Server, service: str, handlers: dict[str, Any]) -> None:
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    server.add_registered_method_handlers(service, handlers)


def _group() -> BaseException:
    return BaseExceptionGroup("several", [ValueError("one"), asyncio.CancelledError()])


def _raised(wish: str) -> BaseException:
    return _RAISED[wish]()


class Panic(BaseException):
    """As pyo3's PanicException: no Exception."""


_RAISED: dict[str, Callable[[], BaseException]] = {
    "domain": EmailTaken,
    "bug": lambda: ValueError("the cause"),
    "panic": lambda: Panic("a library in Rust panicked"),
    "broken text": BrokenText,
    "group": _group,
    "cancelled": asyncio.CancelledError,
    "timeout": TimeoutError,
    "misuse": lambda: grpc.aio.UsageError("misused"),
    "database": lambda: UniqueViolation("DETAIL: Key (email)=(a@b.example) already exists"),
}
BUGS = ("bug", "panic", "broken text", "group", "cancelled", "timeout", "misuse", "database", "wrong type")


class Meter:
    """Remembers what was measured."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.codes: list[str] = []

    def started(self) -> None:
        self.in_flight += 1

    def finished(self, code: str, seconds: float) -> None:
        assert seconds >= 0
        self.in_flight -= 1
        self.codes.append(code)


class Meters(dict[str, Meter]):
    def method(self, name: str) -> Meter:
        assert name not in self, "asked once per method"
        return self.setdefault(name, Meter())


def authenticate(token: str) -> Principal:
    if token not in TOKENS:
        raise CredentialsInvalid
    return TOKENS[token]


@dataclass
class House:
    """A running server and what stands around it."""

    servicer: Servicer
    board: HealthBoard
    inflight: InFlight
    meters: Meters
    layers: Sequence[grpc.aio.ServerInterceptor]
    server: grpc.aio.Server
    port: int
    channel: grpc.aio.Channel

    async def call(
        self, name: str, wish: str = "", *, metadata: Any = ALICE, seconds: float = 20, **fields: Any
    ) -> Any:
        """Call a method of any kind; return the texts answered."""
        return await self.send(
            f"/{SERVICE}/{name}", Request(wish=wish, **fields).SerializeToString(), metadata, seconds
        )

    async def send(self, path: str, raw: bytes, metadata: Any = ALICE, seconds: float = 5) -> list[str]:
        return [message.text async for message in self.open(path, raw, metadata, seconds)]

    def open(self, path: str, raw: bytes, metadata: Any = ALICE, seconds: float = 5) -> Any:
        """Start a call; on the wire, a single message looks the same in all four kinds."""
        start: Any = self.channel.unary_stream(path, None, Response.FromString)
        return start(raw, metadata=metadata, timeout=seconds)

    async def check_health(self) -> Any:
        """Ask for the whole server's health; return the answer's bytes."""
        check: Any = self.channel.unary_unary("/grpc.health.v1.Health/Check")
        return await check(b"")

    async def settle(self) -> None:
        """Wait until the server is done with every call: clients have an error's status before its line is written."""
        async with asyncio.timeout(20):
            while any(meter.in_flight for meter in self.meters.values()):
                await asyncio.sleep(0.001)

    async def close(self) -> None:
        self.servicer.release.set()
        await self.channel.close()
        await self.server.stop(0)


async def nothing_kept(key: RequestKey) -> bytes | None:
    """No request of the dummy's has an id."""
    raise AssertionError(key)


async def start(
    *,
    tracer_provider: TracerProvider | None = None,
    ratio: float = 1.0,
    default_deadline: float = 5.0,
    max_calls: int = 100,
    max_streams: int = 100,
    trusted: Sequence[str] = (),
    layers: Callable[[Sequence[Any]], Sequence[Any]] = lambda layers: layers,
    transport: Transport = Transport(max_message_bytes=LIMIT),  # noqa: B008 - frozen
) -> House:
    servicer, meters = Servicer(), Meters()
    inflight = InFlight(max_calls=max_calls, max_streams=max_streams)
    chosen = layers(
        chain(
            tracing=Tracing(provider=tracer_provider, ratio=ratio),
            request_id=RequestId(source=Sources(trusted)),
            metrics=meters,
            max_message_bytes=LIMIT,
            inflight=inflight,
            default_deadline=default_deadline,
            authenticate=authenticate,
            idempotency=Idempotency(find=nothing_kept, secret=b""),
        )
    )
    server, board = build_server(chosen, transport), HealthBoard([SERVICE])
    register(server, {SERVICE: servicer.add_to}, board, reflect=True)
    port = listen(server, "127.0.0.1:0", None)
    await server.start()
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    return House(servicer, board, inflight, meters, chosen, server, port, channel)


def details_of(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """Return the error's details by type name, after checking that each comes once."""
    trailers = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    assert status.code == error.code().value[0]
    found: dict[str, Any] = {}
    for packed in status.details:
        name = packed.type_url.rpartition(".")[2]
        assert name not in found
        found[name] = getattr(error_details_pb2, name)()
        if not packed.Unpack(found[name]):
            raise AssertionError(f"not a {name}")
    assert found["ErrorInfo"].domain == "gatelodge"
    assert found["RequestInfo"].request_id == trailers["x-request-id"]
    return found


def reason_of(error: grpc.aio.AioRpcError) -> str:
    return str(details_of(error)["ErrorInfo"].reason)
