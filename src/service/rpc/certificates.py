"""TLS: the server's certificate, its key and the clients' authorities, read again when their files change.

gRPC asks for the certificate at each handshake. What it is given was read and checked before, so no handshake waits for
a disk, and files that do not fit together, as while they are being replaced, are never used. At least TLS 1.2, gRPC's
own floor; its ciphers are ECDHE with AES-GCM or ChaCha20 (``GRPC_SSL_CIPHER_SUITES`` narrows them).
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import grpc
import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from service.errors import CannotRun

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from structlog.typing import FilteringBoundLogger

_EARLY = timedelta(minutes=5)
"""How far this machine's clock may be behind that of who made the certificate."""
_SECONDS = 1.0
"""Between two looks at the files."""


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where the PEM files are."""

    certificate: Path
    key: Path
    client_authorities: Path | None = None
    """Where given, clients must show a certificate that one of these authorities has signed."""


@dataclass(frozen=True, slots=True)
class _Pem:
    certificate: bytes
    key: bytes
    authorities: bytes | None


class _Unfit(Exception):
    """The files cannot be used; the text says why and shows nothing of them."""


class Certificates:
    """What the server shows at handshakes.

    Args:
        files: read now, and again whenever `look` finds that they changed.
        expires: is told when the certificate in use expires, Unix seconds.

    Raises:
        CannotRun: the files are no good.

    """

    def __init__(
        self, files: CertificateFiles, *, expires: Callable[[float], None], log: FilteringBoundLogger | None = None
    ) -> None:
        self._files = files
        self._expires = expires
        self._log: FilteringBoundLogger = log or structlog.get_logger("gatelodge.tls")
        self._looking = threading.Lock()
        self._warned = ""
        try:
            self._seen = _read(files)
            self._held = self._given = self._usable(self._seen)
        except _Unfit as error:
            raise CannotRun(f"the TLS certificate cannot be used: {error}") from error
        self.credentials = grpc.dynamic_ssl_server_credentials(
            self._held,
            self._fetch,  # type: ignore[arg-type]  # the stub does not know that None is for no change
            require_client_authentication=files.client_authorities is not None,
        )
        """For the port to listen on."""

    def look(self) -> bool:
        """Read the files, use them if they changed and fit together, and tell whether that is so. From any thread."""
        with self._looking:
            try:
                pem = _read(self._files)
                if pem == self._seen:
                    return False
                self._seen = pem
                self._held = self._usable(pem)
            except _Unfit as error:
                self._warn(str(error))
                return False
            self._log.info("certificate reloaded")
            self._warned = ""
            return True

    async def watch(self) -> None:
        """Look now and then until cancelled."""
        while True:
            await asyncio.sleep(_SECONDS)
            await asyncio.to_thread(self.look)

    def _warn(self, reason: str) -> None:
        """Say once what is wrong; looking goes on."""
        if reason != self._warned:
            self._warned = reason
            self._log.warning("certificate not reloaded, the one before stays", reason=reason)

    def _usable(self, pem: _Pem) -> grpc.ServerCertificateConfiguration:
        self._expires(_checked(pem).timestamp())
        return grpc.ssl_server_certificate_configuration([(pem.key, pem.certificate)], pem.authorities)

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Answer gRPC, in a thread of its own, before each handshake; None for no change."""
        held = self._held
        if held is self._given:
            return None
        self._given = held
        return held


def _read(files: CertificateFiles) -> _Pem:
    try:
        authorities = files.client_authorities.read_bytes() if files.client_authorities else None
        return _Pem(files.certificate.read_bytes(), files.key.read_bytes(), authorities)
    except OSError as error:
        raise _Unfit(f"{error.filename}: {error.strerror}") from None


def _checked(pem: _Pem) -> datetime:
    """Return when the certificate expires, after making sure that it and its key belong together."""
    certificate = _certificates(pem.certificate, "the certificate file")[0]
    if pem.authorities is not None:
        _certificates(pem.authorities, "the client authorities' file")
    try:
        key = serialization.load_pem_private_key(pem.key, None)
        same = key.public_key() == certificate.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Not chained: the library's own text may show what it read.
        raise _Unfit("the key file holds no unencrypted private key in PEM") from None
    if not same:
        raise _Unfit("the key is not the certificate's")
    now = datetime.now(UTC)
    if certificate.not_valid_after_utc <= now:
        raise _Unfit(f"the certificate expired at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M:%S} UTC")
    if certificate.not_valid_before_utc > now + _EARLY:
        raise _Unfit(f"the certificate is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M:%S} UTC")
    return certificate.not_valid_after_utc


def _certificates(pem: bytes, what: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise _Unfit(f"{what} holds no certificates in PEM") from None
