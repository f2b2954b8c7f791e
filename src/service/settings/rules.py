"""Rules over more than one setting: what must fit together everywhere, and what production refuses."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from service.settings.faults import Fault
from service.settings.keys import Key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.settings.tree import Argon2, Server, Settings

OWASP_FLOORS = ((47_104, 1), (19_456, 2), (12_288, 3), (9_216, 4), (7_168, 5))
"""Argon2id (memory KiB, passes) pairs of equal strength from OWASP's password storage cheat sheet, 2025."""

_DAY_SECONDS = 86_400
_LEAST_DISTINCT = 8
"""A random secret of 32 characters has more different ones than that; ``changeme…`` or ``aaaa…`` has not."""


def broken(settings: Settings) -> Iterator[Fault]:
    """Yield a fault for every rule that `settings` breaks."""
    yield from _everywhere(settings)
    if settings.production:
        yield from _production(settings)


def _everywhere(settings: Settings) -> Iterator[Fault]:
    database, argon2 = settings.database, settings.auth.argon2
    if database.pool_min_size > database.pool_max_size:
        yield Fault("should not be more than database.pool_max_size", Key(("database", "pool_min_size")))
    if argon2.memory_kib < 8 * argon2.parallelism:
        yield Fault("should be at least 8 for each of auth.argon2.parallelism", Key(("auth", "argon2", "memory_kib")))

    if settings.events.retention_days * 86_400 <= settings.auth.revocation_window_seconds:
        yield Fault(
            "should be longer than auth.access_token_ttl_seconds and 11 minutes, or revoked tokens come to life again",
            Key(("events", "retention_days")),
        )
    if settings.server.max_connection_age_grace_seconds <= settings.server.default_deadline_seconds:
        yield Fault(
            "should be more than server.default_deadline_seconds, or calls are cut with their connection",
            Key(("server", "max_connection_age_grace_seconds")),
        )
    if settings.auth.key_publish_seconds >= settings.auth.key_rotation_days * _DAY_SECONDS:
        yield Fault("should be less than auth.key_rotation_days", Key(("auth", "key_publish_seconds")))
    yield from _transport(settings.server)
    if settings.env != "test" and not _strong_enough(argon2):
        yield Fault(
            "too cheap a hash: 19456 with time_cost 2 is the floor, or an equal pair",
            Key(("auth", "argon2", "memory_kib")),
        )


def _transport(server: Server) -> Iterator[Fault]:
    tls = server.tls
    for name, file, other in (("cert_file", tls.cert_file, tls.key_file), ("key_file", tls.key_file, tls.cert_file)):
        if file is None and other is not None:
            yield Fault("required: a certificate and its key go together", Key(("server", "tls", name)))
    if tls.client_auth == "required" and (tls.client_ca_file is None or tls.cert_file is None):
        yield Fault("needs cert_file, key_file and client_ca_file", Key(("server", "tls", "client_auth")))
    for name, given in (("client_ca_file", tls.client_ca_file), ("service_identities", tls.service_identities)):
        if given and tls.client_auth == "none":
            yield Fault("needs client_auth = required: nobody is asked for a certificate", Key(("server", "tls", name)))
    if server.unix_socket is not None and server.workers > 1:
        yield Fault("should be 1 on a Unix socket, which processes cannot share", Key(("server", "workers")))
    # In development, too: a machine whose APP_ENV was forgotten is not to offer development's defaults to others.
    protected = server.insecure or tls.cert_file is not None or server.unix_socket is not None
    if not protected and not is_loopback(server.host):
        yield Fault(
            "plaintext on an address other hosts can reach is refused: set server.tls, say true if something in front "
            "does TLS, or listen on 127.0.0.1",
            Key(("server", "insecure")),
        )


def _production(settings: Settings) -> Iterator[Fault]:
    auth = settings.auth
    if settings.database.url is None:
        yield Fault("required in production: the embedded PostgreSQL is for development", Key(("database", "url")))
    if auth.master_secret is None:
        yield Fault("required in production: 32 random characters or more", Key(("auth", "master_secret")))
    secrets = [("master_secret", auth.master_secret), ("password_pepper", auth.password_pepper)]
    secrets += [("previous_master_secrets", secret) for secret in auth.previous_master_secrets]
    for name, secret in secrets:
        if secret and len(set(secret.get_secret_value())) < _LEAST_DISTINCT:
            yield Fault("not random: it repeats a few characters", Key(("auth", name)))


def _strong_enough(argon2: Argon2) -> bool:
    return any(argon2.memory_kib >= memory and argon2.time_cost >= passes for memory, passes in OWASP_FLOORS)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach `host`. A name other than ``localhost`` may be anything."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
