"""From the settings tree to the narrow arguments that most rooms take."""

from __future__ import annotations

import os
import resource
import socket
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from service.auth import argon2_bindings
from service.auth.blocklist import Blocklist
from service.auth.key_rotation import KeyTerms
from service.auth.passwords import PasswordPolicy
from service.auth.sessions.model import SessionTerms
from service.auth.throttle import Scope
from service.auth.throttle import Terms as ThrottleTerms
from service.auth.tokens import TokenTerms
from service.db.lending import PoolOptions
from service.errors import CannotRun
from service.rpc.certificates import CertificateFiles
from service.rpc.peer import Services
from service.rpc.server import Transport

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.auth.hashing import Hasher
    from service.settings import Auth, Database, Server, Tls

_KEY_MARGIN = timedelta(minutes=2)
"""How long a retired key verifies beyond the life of a token: a replica may hear of it a minute late, and clocks may
differ by another."""
_DEVICES = 10
"""How many devices' free attempts an account has in all."""
_PRODUCT = "gatelodge"
_OTHER_FILES = 200
"""Open files that are no callers' connections: the database's, the ops port's, gRPC's own."""


def pool(settings: Database) -> PoolOptions:
    """Return how the pool behaves."""
    return PoolOptions(
        min_size=settings.pool_min_size,
        max_size=settings.pool_max_size,
        acquire_timeout=settings.acquire_timeout_seconds,
        max_idle=settings.max_idle_seconds,
        max_lifetime=settings.max_lifetime_seconds,
        max_waiting=settings.max_waiting,
        fast_connections=settings.fast_connections,
        # PgBouncer takes no startup options: there the role sets the timeout.
        statement_timeout=settings.statement_timeout_seconds if settings.prepare_statements else None,
        prepare_threshold=0 if settings.prepare_statements else None,
    )


def transport(settings: Server, *, share_port: bool) -> Transport:
    """Return what the transport allows."""
    return Transport(
        max_message_bytes=settings.max_message_bytes,
        max_metadata_bytes=settings.max_metadata_bytes,
        gzip_responses=settings.gzip_responses,
        max_connections=min(settings.max_connections, _most_connections()),
        max_connection_idle=settings.max_connection_idle_seconds,
        max_connection_age=settings.max_connection_age_seconds,
        max_connection_age_grace=settings.max_connection_age_grace_seconds,
        share_port=share_port,
    )


def leaving_seconds(settings: Server) -> float:
    """Return after how long every connection has been asked to go: gRPC stretches their age by up to a tenth."""
    return settings.max_connection_age_seconds * 1.1 + 1


def services(settings: Tls, permissions_of: Callable[[frozenset[str]], frozenset[str]]) -> Services | None:
    """Return the services known by their certificates; None where nobody is asked for one."""
    return Services(settings.service_identities, permissions_of) if settings.client_auth == "required" else None


def certificate_files(settings: Tls) -> CertificateFiles | None:
    """Return where the certificates are; None in the clear."""
    if settings.cert_file is None or settings.key_file is None:
        return None
    authorities = settings.client_ca_file if settings.client_auth == "required" else None
    pair = Path(settings.cert_file), Path(settings.key_file)
    return CertificateFiles(*pair, Path(authorities) if authorities else None)


def terms(settings: Auth) -> TokenTerms:
    """Return who issues tokens, for whom and for how long."""
    return TokenTerms(settings.issuer, settings.audience, timedelta(seconds=settings.access_token_ttl_seconds))


def revocation_window(settings: Auth) -> timedelta:
    """Return how long a revocation matters."""
    return timedelta(seconds=settings.revocation_window_seconds)


def session_terms(settings: Auth) -> SessionTerms:
    """Return how long sessions go on, and how many of them."""
    return SessionTerms(
        lifetime=timedelta(days=settings.session_lifetime_days),
        idle=timedelta(days=settings.session_idle_days),
        grace=timedelta(seconds=settings.refresh_grace_seconds),
        most=settings.max_sessions_per_user,
    )


def key_terms(settings: Auth) -> KeyTerms:
    """Return how signing keys come and go."""
    return KeyTerms(
        algorithm=settings.signing_algorithm,
        rotate_after=timedelta(days=settings.key_rotation_days),
        publish=timedelta(seconds=settings.key_publish_seconds),
        keep=timedelta(seconds=settings.access_token_ttl_seconds) + _KEY_MARGIN,
    )


def policy(settings: Auth) -> PasswordPolicy:
    """Return what new passwords must be.

    Raises:
        CannotRun: the operator's list of passwords cannot be read.

    """
    extra = settings.password_blocklist_file
    try:
        blocklist = Blocklist.load(names=(_PRODUCT, settings.issuer), extra=Path(extra) if extra else None)
    except (OSError, UnicodeDecodeError) as error:
        raise CannotRun(f"auth.password_blocklist_file cannot be read as UTF-8 text: {type(error).__name__}") from error
    return PasswordPolicy(settings.password_min_length, blocklist)


def throttle_terms(settings: Auth) -> ThrottleTerms:
    """Return how often passwords may be guessed."""
    throttle = settings.throttle
    return ThrottleTerms(
        free={
            Scope.ACCOUNT: throttle.account_free_attempts,
            Scope.SOURCE: throttle.source_free_attempts,
            Scope.DEVICE: throttle.device_free_attempts,
            # More than one device spends in the long run, so that one alone does not shut the others out.
            Scope.DEVICES: throttle.device_free_attempts * _DEVICES,
        },
        decay=throttle.decay_seconds,
        base_delay=throttle.base_delay_seconds,
        max_delay=throttle.max_delay_seconds,
    )


def hasher(settings: Auth, *, took: Callable[[float], None], bound: Callable[[str], None]) -> Hasher:
    """Return the hasher of passwords, not yet entered.

    `took` is told the seconds of each hash, `bound` at once which build of argon2 computes them.
    """
    bound(argon2_bindings.choose(settings.argon2.bindings).bindings)
    from service.auth.hashing import Argon2Parameters, Hasher  # noqa: PLC0415 - imports argon2, bound by now

    cost, pepper = settings.argon2, settings.password_pepper
    return Hasher(
        Argon2Parameters(cost.memory_kib, cost.time_cost, cost.parallelism),
        threads=cost.hash_threads or cores(),
        queue=cost.hash_queue,
        background=cost.hash_priority == "idle",
        pepper=pepper.get_secret_value().encode() if pepper else None,
        took=took,
    )


def instance() -> str:
    """Return what tells this process from others in telemetry."""
    return f"{socket.gethostname()}-{os.getpid()}"


def _most_connections() -> int:
    """Return how many connections the limit of open files leaves room for, beside what else is open."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if limit == resource.RLIM_INFINITY else max(limit - _OTHER_FILES, 1)


def cores() -> int:
    """Return how many cores this process may use; where the system does not say, how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
