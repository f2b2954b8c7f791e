"""The composition root: builds the whole service once, in order, and closes it in reverse. Nothing else wires."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gatelodge.auth.v1 import auth_pb2_grpc, tokens_pb2_grpc
from gatelodge.info.v1 import info_pb2_grpc
from gatelodge.users.v1 import users_pb2_grpc
from uuid_utils.compat import uuid7

from service import options
from service.auth.accounts import Accounts
from service.auth.hashing import Hasher
from service.auth.keys import load_or_create
from service.auth.login import Login
from service.auth.passwords import PasswordPolicy
from service.auth.profile import Profile
from service.auth.sealing import Seal
from service.auth.servicer import AuthServicer, TokenServicer
from service.auth.tokens import TokenIssuer, TokenVerifier
from service.build import this_build
from service.clock import system_clock
from service.db import Database
from service.development import database_url, master_secret
from service.info.servicer import InfoServicer
from service.operations import prepare_schema
from service.rpc.drain import drain
from service.rpc.health import HealthBoard
from service.rpc.inflight import InFlight
from service.rpc.interceptors import chain
from service.rpc.readiness import Readiness
from service.rpc.server import build_server, listen, register
from service.supervisor import Supervisor
from service.telemetry import otlp_metrics, tracing
from service.telemetry.metrics import Metrics, measure_loop_lag
from service.telemetry.ops import OpsServer
from service.users.directory import Directory
from service.users.servicer import UserServicer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from service.build import Build
    from service.clock import Clock
    from service.settings import Settings


@dataclass(frozen=True, slots=True)
class App:
    """A service that serves."""

    build: Build
    address: str
    """Where gRPC listens, ``host:port``."""
    ops_address: str | None
    """Where the ops HTTP port listens; None when it is off."""


@asynccontextmanager
async def running(settings: Settings, *, clock: Clock = system_clock) -> AsyncIterator[App]:
    """Build the service, serve until the block is left, then drain and close.

    Raises:
        CannotRun: the schema, the signing keys or the embedded database are no good, or an address cannot be bound.
        DependencyUnavailable: the database cannot be reached.

    """
    async with AsyncExitStack() as stack:
        build = this_build()

        # What watches comes first, so that it sees everything else start and stop.
        who = tracing.resource(
            service="gatelodge", version=build.version, instance=f"{socket.gethostname()}-{os.getpid()}"
        )
        tracer_provider = tracing.provider(settings.tracing, who)
        if tracer_provider is not None:
            stack.push_async_callback(asyncio.to_thread, tracer_provider.shutdown)
        metrics = Metrics(version=build.version, commit=build.commit)
        if (pusher := otlp_metrics.pusher(settings.metrics, metrics.registry, who)) is not None:
            stack.push_async_callback(asyncio.to_thread, pusher.close)

        # What everything stands on.
        url = await stack.enter_async_context(_database_url(settings))
        await _prepare_schema(url, settings)
        database = await stack.enter_async_context(Database(url, options.pool(settings.database)))
        metrics.watch_pool(database.stats)
        hasher = await stack.enter_async_context(_hasher(settings, metrics))
        metrics.watch_hashing(hasher.stats)
        keys = await load_or_create(
            database, Seal(master_secret(settings.auth.master_secret, _private(settings) / "master-secret"))
        )

        # The rules.
        terms = options.terms(settings.auth)
        issuer = TokenIssuer(terms=terms, keys=keys, clock=clock, new_id=uuid7)
        directory = Directory(database=database, new_id=uuid7)
        accounts = Accounts(
            database=database,
            directory=directory,
            hasher=hasher,
            registration_open=settings.auth.registration == "open",
            count=metrics.registration,
        )
        login = Login(database=database, hasher=hasher, issuer=issuer, new_id=uuid7, count=metrics.login)
        policy = PasswordPolicy(settings.auth.password_min_length)

        # Their RPCs.
        users = UserServicer(directory=directory, accounts=accounts, policy=policy)
        auth = AuthServicer(accounts=accounts, login=login, profile=Profile(directory=directory), policy=policy)
        tokens = TokenServicer(keys=keys)
        info = InfoServicer(build=build, start_time=clock())
        services = {
            "gatelodge.users.v1.UserService": partial(users_pb2_grpc.add_UserServiceServicer_to_server, users),
            "gatelodge.auth.v1.AuthService": partial(auth_pb2_grpc.add_AuthServiceServicer_to_server, auth),
            "gatelodge.auth.v1.TokenService": partial(tokens_pb2_grpc.add_TokenServiceServicer_to_server, tokens),
            "gatelodge.info.v1.InfoService": partial(info_pb2_grpc.add_InfoServiceServicer_to_server, info),
        }

        # The server around them.
        board = HealthBoard(services, on_change=metrics.health)
        inflight = InFlight(max_calls=settings.server.max_concurrent_calls, max_streams=settings.server.max_streams)
        interceptors = chain(
            tracer_provider=tracer_provider,
            sampling_ratio=settings.tracing.sample_ratio,
            metrics=metrics.rpc,
            max_message_bytes=settings.server.max_message_bytes,
            inflight=inflight,
            default_deadline=settings.server.default_deadline_seconds,
            authenticate=TokenVerifier(terms=terms, keys=keys, clock=clock),
        )
        server = build_server(interceptors, options.transport(settings.server))
        register(server, services, board, reflect=settings.server.reflection)
        port = listen(server, f"{settings.server.host}:{settings.server.port}", None)

        # What runs beside the calls.
        tasks = await stack.enter_async_context(Supervisor(on_crash=metrics.crash))
        tasks.spawn("readiness", Readiness(probe=database.ping, tell=board.set_ready).run)
        tasks.spawn("event-loop-lag", partial(measure_loop_lag, metrics.loop_lag))
        if pusher is not None:
            tasks.spawn("otlp-metrics", pusher.run)
        ops = None
        if settings.ops.enabled:
            ops = OpsServer(
                host=settings.ops.host,
                port=settings.ops.port,
                registry=metrics.registry,
                jwks=keys.jwks,
                alive=lambda: True,
                ready=board.ready,
            )
            stack.push_async_callback(asyncio.to_thread, ops.close)

        # Last in, first out: the drain ends the calls while everything they need is still there.
        await server.start()
        stack.push_async_callback(
            drain,
            server,
            board=board,
            inflight=inflight,
            linger=settings.server.drain_linger_seconds,
            grace=settings.server.drain_grace_seconds,
        )
        await board.until_ready()
        yield App(build, f"{settings.server.host}:{port}", f"{settings.ops.host}:{ops.port}" if ops else None)


@asynccontextmanager
async def opened_accounts(settings: Settings) -> AsyncIterator[Accounts]:
    """Build only what making an account needs, for the command line. Raises as `running`."""
    metrics = Metrics(version="", commit="")
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(_database_url(settings))
        await _prepare_schema(url, settings)
        database = await stack.enter_async_context(Database(url, options.pool(settings.database)))
        hasher = await stack.enter_async_context(_hasher(settings, metrics))
        yield Accounts(
            database=database,
            directory=Directory(database=database, new_id=uuid7),
            hasher=hasher,
            registration_open=False,
            count=metrics.registration,
        )


def _database_url(settings: Settings) -> AbstractAsyncContextManager[str]:
    return database_url(settings.database.url, Path(settings.database.embedded_dir))


async def _prepare_schema(url: str, settings: Settings) -> None:
    of = settings.database
    await prepare_schema(url, migrate_on_start=of.migrate_on_start, patience=of.connect_patience_seconds)


def _private(settings: Settings) -> Path:
    """Return the folder that development keeps its own things in."""
    return Path(settings.database.embedded_dir).parent


def _hasher(settings: Settings, metrics: Metrics) -> Hasher:
    return Hasher(
        options.argon2(settings.auth),
        threads=options.hash_threads(settings.auth),
        queue=settings.auth.argon2.hash_queue,
        pepper=options.pepper(settings.auth),
        took=metrics.password_hash,
    )
