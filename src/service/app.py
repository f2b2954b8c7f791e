"""The composition root: builds the whole service once, in order, and closes it in reverse. Nothing else wires."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from gatelodge.auth.v1 import auth_pb2_grpc, tokens_pb2_grpc
from gatelodge.events.v1 import events_pb2_grpc
from gatelodge.info.v1 import info_pb2_grpc
from gatelodge.users.v1 import users_pb2_grpc
from uuid_utils.compat import uuid7

from service import development, options
from service.auth.accounts import Accounts
from service.auth.explanation import LoginExplainer
from service.auth.keys import load_or_create
from service.auth.login import Login
from service.auth.passwords import PasswordPolicy
from service.auth.profile import Profile
from service.auth.sealing import Seal, derive
from service.auth.servicer import AuthServicer, TokenServicer
from service.auth.tokens import TokenIssuer, TokenVerifier
from service.build import this_build
from service.clock import system_clock
from service.db import Answers, Database
from service.events.feed import CHANNEL, Feed
from service.events.journal import Journal
from service.events.record import Record
from service.events.retention import Retention
from service.events.servicer import EventServicer
from service.info.servicer import InfoServicer
from service.jobs import Job, Jobs
from service.operations import prepare_schema
from service.paging import PageTokens, derived_key
from service.rpc.address import address
from service.rpc.certificates import Certificates
from service.rpc.drain import drain
from service.rpc.health import HealthBoard
from service.rpc.inflight import InFlight
from service.rpc.interceptors import Idempotency, chain
from service.rpc.leaving import leave
from service.rpc.readiness import Readiness
from service.rpc.server import build_server, listen, register
from service.rpc.unix_socket import listen_unix
from service.supervisor import Supervisor
from service.telemetry import otlp
from service.telemetry.metrics import Metrics, measure_loop_lag
from service.telemetry.ops import OpsServer
from service.users.directory import Directory
from service.users.export import Export
from service.users.lifecycle import Lifecycle
from service.users.listing import Listing
from service.users.servicer import UserServicer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping

    import grpc.aio
    from prometheus_client import Metric

    from service.auth.hashing import Hasher
    from service.auth.keys import KeyRing
    from service.build import Build
    from service.clock import Clock
    from service.settings import Ops, Server, Settings, Tls

_PING_SECONDS = 0.3
"""Less than a probe may take, so that a pool that is merely busy is told from a database that is away."""


@dataclass(frozen=True, slots=True)
class App:
    """A service that serves."""

    build: Build
    address: str
    """Where gRPC listens, ``host:port``."""
    ops_address: str | None
    """Where the ops HTTP port listens; None when it is off, or on a Unix socket."""
    reload: Callable[[], bool] | None
    """Reads the certificates again, off the loop; None in the clear."""
    leave: Callable[[], Awaitable[None]]
    """Leaves the port to the other processes that share it, before the block is left."""
    families: Callable[[], Iterable[Metric]]
    """The numbers, after the block is left, too."""


@asynccontextmanager
async def running(
    settings: Settings, *, clock: Clock = system_clock, ops_socket: str | None = None
) -> AsyncIterator[App]:
    """Build the service, serve until the block is left, then drain and close.

    With `ops_socket` it is one of several workers: it shares its port, and shows its ops pages on that Unix socket.

    Raises:
        CannotRun: the schema, the signing keys or the embedded database are no good, or an address cannot be bound.
        DependencyUnavailable: the database cannot be reached.

    """
    async with AsyncExitStack() as stack:
        # What watches comes first, so that it sees everything else start and stop.
        build = this_build()
        who = otlp.Identity(service="gatelodge", version=build.version, instance=options.instance())
        metrics = Metrics(version=build.version, commit=build.commit)
        if (tracer_provider := otlp.traces(settings.tracing, who)) is not None:
            stack.push_async_callback(asyncio.to_thread, tracer_provider.shutdown)
        if (pusher := otlp.metrics(settings.metrics, metrics.registry, who)) is not None:
            stack.push_async_callback(asyncio.to_thread, pusher.close)

        # What everything stands on, the rules, and their RPCs.
        database, hasher = await _foundation(stack, settings, metrics)
        master_secret = development.master_secret(settings)
        keys = await load_or_create(database, Seal(master_secret))
        answers = Answers(database)
        terms = options.terms(settings.auth)
        policy = PasswordPolicy(settings.auth.password_min_length)
        directory = Directory(database=database, new_id=uuid7)
        lifecycle = Lifecycle(
            database=database,
            journal=Journal(new_id=uuid7),
            answers=answers,
            clock=clock,
            retention=timedelta(days=settings.users.retention_days),
        )
        tokens = PageTokens(derived_key(master_secret, "page-tokens"))
        accounts = _accounts(settings, database, hasher, metrics)
        issuer = TokenIssuer(terms=terms, keys=keys, clock=clock, new_id=uuid7)
        login = Login(database=database, hasher=hasher, issuer=issuer, new_id=uuid7, count=metrics.login)
        record = Record(database=database)
        retention = Retention(record=record, clock=clock, keep=timedelta(days=settings.events.retention_days))
        feed = Feed(record=record)
        services = _services(
            users=UserServicer(
                directory=directory,
                listing=Listing(database=database, tokens=tokens),
                export=Export(database=database, tokens=tokens),
                lifecycle=lifecycle,
                accounts=accounts,
                explainer=LoginExplainer(database=database, directory=directory),
                policy=policy,
            ),
            auth=AuthServicer(accounts=accounts, login=login, profile=Profile(directory=directory), policy=policy),
            tokens=TokenServicer(keys=keys),
            events=EventServicer(record=record, feed=feed, master_secret=master_secret),
            info=InfoServicer(build=build, start_time=clock()),
        )

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
            idempotency=Idempotency(find=answers.find, secret=derive(master_secret, "gatelodge/fingerprints/v1")),
            services=options.services(settings.server.tls),
        )
        server = build_server(interceptors, options.transport(settings.server, share_port=ops_socket is not None))
        register(server, services, board, reflect=settings.server.reflection)
        certificates = _certificates(settings.server.tls, metrics)

        # What runs beside the calls.
        tasks = await stack.enter_async_context(Supervisor(on_crash=metrics.crash))
        tasks.spawn(
            "readiness", Readiness(probe=partial(database.ping, within=_PING_SECONDS), tell=board.set_ready).run
        )
        tasks.spawn("events", feed.run)
        tasks.spawn("event-notifications", partial(feed.listen, database.listener(CHANNEL)))
        tasks.spawn("event-loop-lag", partial(measure_loop_lag, metrics.loop_lag))
        runner = Jobs(database=database, instance=who.instance, meter=metrics.jobs)
        for job in _jobs(answers, lifecycle, retention):
            tasks.spawn(f"job {job.name}", partial(runner.keep, job))
        if pusher is not None:
            tasks.spawn("otlp-metrics", pusher.run)
        if certificates is not None:
            tasks.spawn("certificates", certificates.watch)
        ops_address = _ops(stack, settings.ops, metrics, keys, board, path=ops_socket)

        # Listening begins when all is ready: on a shared port, calls come at once. Last in, first out: the drain ends
        # the calls while everything they need is still there.
        await board.until_ready()
        where = _listen(server, settings.server, certificates)
        await server.start()
        linger, grace = settings.server.drain_linger_seconds, settings.server.drain_grace_seconds
        stack.push_async_callback(drain, server, board=board, inflight=inflight, linger=linger, grace=grace)
        yield App(
            build,
            where,
            ops_address,
            reload=certificates.look if certificates else None,
            leave=partial(leave, settings.server.port, within=options.leaving_seconds(settings.server)),
            families=metrics.registry.collect,
        )


@asynccontextmanager
async def opened_accounts(settings: Settings) -> AsyncIterator[Accounts]:
    """Build only what making an account needs, for the command line. Raises as `running`."""
    metrics = Metrics(version="", commit="")
    async with AsyncExitStack() as stack:
        database, hasher = await _foundation(stack, settings, metrics)
        yield _accounts(settings, database, hasher, metrics)


async def _foundation(stack: AsyncExitStack, settings: Settings, metrics: Metrics) -> tuple[Database, Hasher]:
    url = await stack.enter_async_context(development.database_url(settings.database))
    await prepare_schema(url, settings.database)
    database = await stack.enter_async_context(Database(url, options.pool(settings.database)))
    metrics.watch_pool(database.stats)
    hasher = await stack.enter_async_context(options.hasher(settings.auth, took=metrics.password_hash))
    metrics.watch_hashing(hasher.stats)
    return database, hasher


def _accounts(settings: Settings, database: Database, hasher: Hasher, metrics: Metrics) -> Accounts:
    return Accounts(
        database=database,
        directory=Directory(database=database, new_id=uuid7),
        hasher=hasher,
        journal=Journal(new_id=uuid7),
        registration_open=settings.auth.registration == "open",
        count=metrics.registration,
    )


def _services(
    *, users: UserServicer, auth: AuthServicer, tokens: TokenServicer, events: EventServicer, info: InfoServicer
) -> Mapping[str, Callable[[grpc.aio.Server], None]]:
    """Return by its full name what adds each service to a server."""
    return {
        "gatelodge.users.v1.UserService": partial(users_pb2_grpc.add_UserServiceServicer_to_server, users),
        "gatelodge.auth.v1.AuthService": partial(auth_pb2_grpc.add_AuthServiceServicer_to_server, auth),
        "gatelodge.auth.v1.TokenService": partial(tokens_pb2_grpc.add_TokenServiceServicer_to_server, tokens),
        "gatelodge.events.v1.EventService": partial(events_pb2_grpc.add_EventServiceServicer_to_server, events),
        "gatelodge.info.v1.InfoService": partial(info_pb2_grpc.add_InfoServiceServicer_to_server, info),
    }


def _jobs(answers: Answers, lifecycle: Lifecycle, retention: Retention) -> tuple[Job, ...]:
    """Return what is done now and then, once in the whole cluster."""
    return (
        Job("events.prune", timedelta(hours=6), retention.prune),
        Job("idempotency.prune", timedelta(minutes=10), answers.prune),
        Job("users.purge", timedelta(hours=1), lifecycle.purge),
    )


def _certificates(settings: Tls, metrics: Metrics) -> Certificates | None:
    files = options.certificate_files(settings)
    return Certificates(files, expires=metrics.certificate_expires) if files else None


def _listen(server: grpc.aio.Server, settings: Server, certificates: Certificates | None) -> str:
    credentials = certificates.credentials if certificates else None
    if settings.unix_socket is not None:
        return listen_unix(server, settings.unix_socket, int(settings.unix_socket_mode, 8), credentials)
    return address(settings.host, listen(server, address(settings.host, settings.port), credentials))


def _ops(
    stack: AsyncExitStack, settings: Ops, metrics: Metrics, keys: KeyRing, board: HealthBoard, *, path: str | None
) -> str | None:
    if not settings.enabled:
        return None
    server = OpsServer(
        host=settings.host,
        port=settings.port,
        registry=metrics.registry,
        jwks=keys.jwks,
        alive=metrics.loop_runs,
        ready=board.ready,
        path=path,
    )
    stack.push_async_callback(asyncio.to_thread, server.close)
    return address(settings.host, server.port) if path is None else None
