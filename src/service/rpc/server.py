"""The gRPC server: every option set on purpose, health and reflection beside the services."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from service.errors import CannotRun
from service.rpc.health import HealthServicer
from service.rpc.intake import IntakeServer
from service.rpc.methods import check_rules
from service.rpc.reflection import ReflectionServicer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from service.rpc.health import HealthBoard
    from service.rpc.interceptors.layer import Layer

_MOST_RECEIVED = 8 * 1024 * 1024
"""gRPC's own limit of a message, unless ours is higher. Between the two, ours answers, with a reason; what is larger
still is cut off when its length is read, without details. No message is received before its call is let in, so memory
is bounded by this times the calls in progress."""
_HANDSHAKE = 10.0
"""Seconds a new connection may take to say that it speaks HTTP/2."""
_COMPRESSION_LEVEL = 2
"""GRPC_COMPRESS_LEVEL_MED."""
_REFLECTION = "grpc.reflection.v1.ServerReflection"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transport:
    """What the transport allows. Sizes in bytes, times in seconds."""

    max_message_bytes: int = 4 * 1024 * 1024
    """The largest request that is served."""
    max_metadata_bytes: int = 16 * 1024
    """All headers of a call together."""
    max_streams_per_connection: int = 100
    """Calls at once on one connection; the next ones wait in the client."""
    max_connections: int = 10_000
    """What comes above is closed as it comes. Each takes a file descriptor."""
    max_connection_idle: float = 300.0
    """A connection without calls is asked to close after so long. One that watches health is not without."""
    max_connection_age: float = 3600.0
    """After this, a tenth more or less, connections are asked to close, so that balanced clients find new replicas. It
    also ends what nothing else does: peers that never take their answers."""
    max_connection_age_grace: float = 60.0
    """How long calls may go on after that. Longer than the longest call; streams are cut and connect anew."""
    keepalive: float = 60.0
    """How often an idle connection is pinged, so that dead peers are noticed."""
    keepalive_timeout: float = 20.0
    """How long the answer to a ping may take."""
    min_client_ping_interval: float = 10.0
    """Clients that ping more often, without data, are disconnected (ENHANCE_YOUR_CALM)."""
    gzip_responses: bool = False
    """Whether responses to clients that accept gzip are compressed. Compressed requests are always understood, and
    their size is limited decompressed."""
    share_port: bool = False
    """Whether other processes may listen on the same port. If not, a second one there is a mistake, and told."""


def build_server(interceptors: Sequence[Layer], transport: Transport) -> grpc.aio.Server:
    """Return a server without services, not yet listening. Needs a running event loop."""
    # No maximum_concurrent_rpcs: gRPC's counter underflows (grpc#41531). Deadline sheds, with a reason.
    server: Any = IntakeServer(interceptors, channel_arguments(transport))
    return cast("grpc.aio.Server", server)


def register(
    server: grpc.aio.Server,
    services: Mapping[str, Callable[[grpc.aio.Server], None]],
    board: HealthBoard,
    *,
    reflect: bool,
) -> None:
    """Add the services, health, and reflection if `reflect`.

    Args:
        server: from `build_server`.
        services: full service name → a function that adds the service, ``add_…Servicer_to_server`` with its servicer.
        board: what health answers from.
        reflect: whether callers may ask for the protos.

    Raises:
        ValueError: a method declares no usable access rule.

    """
    check_rules(services)
    for add in services.values():
        add(server)
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(board), server)
    if reflect:
        _add_reflection(server, (*services, "grpc.health.v1.Health"))


def listen(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    """Bind `address` (``host:port``, port 0 for any), in the clear without `credentials`; return the port.

    Raises:
        CannotRun: the address cannot be bound.

    """
    try:
        return server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    except RuntimeError as error:
        raise CannotRun(f"cannot listen on {address}: is the port taken, or the address not this machine's?") from error


async def broken(server: grpc.aio.Server) -> None:
    """Wait until `server` takes no calls any more although nobody stopped it; raise why."""
    await cast("IntakeServer", server).broken()


def channel_arguments(transport: Transport) -> tuple[tuple[str, int], ...]:
    """Return what gRPC calls the transport's settings."""
    return (
        ("grpc.max_receive_message_length", max(transport.max_message_bytes, _MOST_RECEIVED)),
        ("grpc.max_send_message_length", -1),  # what we send is ours to bound, by page sizes
        # Soft and hard limit alike: between them gRPC refuses at random.
        ("grpc.max_metadata_size", transport.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", transport.max_metadata_bytes),
        ("grpc.max_concurrent_streams", transport.max_streams_per_connection),
        ("grpc.max_allowed_incoming_connections", transport.max_connections),
        ("grpc.server_handshake_timeout_ms", _ms(_HANDSHAKE)),
        ("grpc.max_connection_idle_ms", _ms(transport.max_connection_idle)),
        ("grpc.max_connection_age_ms", _ms(transport.max_connection_age)),
        ("grpc.max_connection_age_grace_ms", _ms(transport.max_connection_age_grace)),
        ("grpc.keepalive_time_ms", _ms(transport.keepalive)),
        ("grpc.keepalive_timeout_ms", _ms(transport.keepalive_timeout)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _ms(transport.min_client_ping_interval)),
        ("grpc.so_reuseport", int(transport.share_port)),
        # A level, not an algorithm: gRPC then picks what the client accepts; an algorithm it forces on everyone.
        ("grpc.default_compression_level", _COMPRESSION_LEVEL if transport.gzip_responses else 0),
    )


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def _add_reflection(server: grpc.aio.Server, names: tuple[str, ...]) -> None:
    """Add reflection as v1alpha, which Python's package has, and as v1, which is the same on the wire."""
    servicer = ReflectionServicer((*names, _REFLECTION, reflection.SERVICE_NAME))
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    handlers = {
        "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(
            servicer.ServerReflectionInfo,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_REFLECTION, handlers),))
    server.add_registered_method_handlers(_REFLECTION, handlers)
