"""Asking a server for its health from outside, as ``gatelodge health`` and a container's HEALTHCHECK do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import grpc.aio
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.errors import CannotRun
from service.rpc.address import address

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.settings import Server


@dataclass(frozen=True, slots=True)
class Tls:
    """How to speak TLS to a server. Files are PEM."""

    ca_file: str | None = None
    """Who must have signed its certificate; None: those gRPC trusts."""
    server_name: str | None = None
    """The name its certificate must have; None: the address's."""
    cert_file: str | None = None
    """What to show a server that asks."""
    key_file: str | None = None


def local_target(server: Server) -> tuple[str, Tls | None]:
    """Return where the server of these settings listens, and how to speak to it.

    It is known by its own certificate, whoever signed that, and shown the same one if it asks for one.
    """
    tls = server.tls
    where = f"unix:{server.unix_socket}" if server.unix_socket else address(_reachable(server.host), server.port)
    if tls.cert_file is None:
        return where, None
    pair = (tls.cert_file, tls.key_file) if tls.client_auth == "required" else (None, None)
    return where, Tls(tls.cert_file, _name(_read(tls.cert_file)), *pair)


async def check(target: str, service: str, *, within: float, tls: Tls | None = None) -> str:
    """Return the serving status of `service` at `target` in at most `within` seconds, in the clear without `tls`.

    Returns:
        ``SERVING``, ``NOT_SERVING``, or the status code's name if the call failed (``UNAVAILABLE``, ``NOT_FOUND``).

    Raises:
        CannotRun: a certificate file cannot be read.

    """
    async with _channel(target, tls) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=within
            )
        except grpc.aio.AioRpcError as error:
            return error.code().name
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def _channel(target: str, tls: Tls | None) -> grpc.aio.Channel:
    if tls is None:
        return grpc.aio.insecure_channel(target)
    roots, key, chain = (_read(file) if file else None for file in (tls.ca_file, tls.key_file, tls.cert_file))
    options: Sequence[tuple[str, str]] = (
        (("grpc.ssl_target_name_override", tls.server_name),) if tls.server_name else ()
    )
    return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(roots, key, chain), options)


def _reachable(host: str) -> str:
    """Return where to find a server that listens on every address."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound


def _read(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise CannotRun(f"{file}: {error.strerror}") from error


def _name(pem: bytes) -> str | None:
    """Return a name that the certificate is good for, None where it has none."""
    try:
        certificate = x509.load_pem_x509_certificates(pem)[0]
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return None
    found = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    return next((name.replace("*", "any") for name in found), None)
