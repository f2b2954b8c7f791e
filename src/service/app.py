"""The composition root: builds the whole service once, in order, and closes it in reverse. Nothing else wires."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from gatelodge.access.v1 import roles_pb2_grpc
from gatelodge.auth.v1 import auth_pb2_grpc, sessions_pb2_grpc, tokens_pb2_grpc
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
from service.auth.sessions.ending import Ending
from service.auth.sessions.listing import SessionListing
from service.auth.sessions.logout import Logout
from service.auth.sessions.opening import Opening
from service.auth.sessions.refresh_tokens import RefreshTokens
from service.auth.sessions.refreshing import Refreshing
from service.auth.sessions.retention import SessionRetention
from service.auth.sessions.servicer import SessionServicer
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
from service.roles.catalogue import Catalogue
from service.roles.grants import Grants
from service.roles.guard import Guard
from service.roles.in_force import RolesInForce
from service.roles.roles import Roles
from service.roles.servicer import RoleServicer
from service.rpc.address import address
from service.rpc.drain import drain
from service.rpc.health import HealthBoard
from service.rpc.inflight import InFlight
from service.rpc.interceptors import Idempotency, chain
from service.rpc.methods import permissions
from service.rpc.readiness import Readiness
from service.rpc.server import build_server, listen, register
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
    from collections.abc import AsyncIterator, Callable, Mapping

    import grpc.aio

    from service.access import Principal
    from service.auth.hashing import Hasher
    from service.auth.keys import KeyRing
    from service.build import Build
    from service.clock import Clock
    from service.settings import Ops, Settings

_PING_SECONDS = 0.3
"""Less than a probe may take, so that a pool that is merely busy is told from a database that is away."""


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
        ending = Ending(journal=Journal(new_id=uuid7), clock=clock, terms=options.session_terms(settings.auth))
        lifecycle = Lifecycle(
            database=database,
            journal=Journal(new_id=uuid7),
            answers=answers,
            guard=Guard(),
            end_all=ending.end_all,
            clock=clock,
            retention=timedelta(days=settings.users.retention_days),
        )
        tokens = PageTokens(derived_key(master_secret, "page-tokens"))
        accounts = _accounts(settings, database, hasher, metrics)
        issuer = TokenIssuer(terms=terms, keys=keys, clock=clock, new_id=uuid7)
        sessions = _sessions(
            settings,
            database,
            ending=ending,
            issuer=issuer,
            tokens=tokens,
            refresh_key=derive(master_secret, "gatelodge/refresh-tokens/v1"),
            metrics=metrics,
            clock=clock,
        )
        login = Login(database=database, hasher=hasher, opening=sessions.opening, count=metrics.login)
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
            auth=AuthServicer(
                accounts=accounts,
                login=login,
                refreshing=sessions.refreshing,
                logout=sessions.logout,
                profile=Profile(directory=directory),
                policy=policy,
            ),
            sessions=SessionServicer(listing=sessions.listing, logout=sessions.logout),
            tokens=TokenServicer(keys=keys),
            events=EventServicer(record=record, feed=feed, master_secret=master_secret),
            info=InfoServicer(build=build, start_time=clock()),
            roles=partial(_roles, database=database, ending=ending, tokens=tokens, clock=clock),
        )

        in_force = await _in_force(database, record, feed)

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
            authenticate=_authenticate(TokenVerifier(terms=terms, keys=keys, clock=clock), in_force),
            idempotency=Idempotency(find=answers.find, secret=derive(master_secret, "gatelodge/fingerprints/v1")),
        )
        server = build_server(interceptors, options.transport(settings.server))
        register(server, services, board, reflect=settings.server.reflection)
        port = listen(server, address(settings.server.host, settings.server.port), None)

        # What runs beside the calls.
        tasks = await stack.enter_async_context(Supervisor(on_crash=metrics.crash))
        tasks.spawn(
            "readiness", Readiness(probe=partial(database.ping, within=_PING_SECONDS), tell=board.set_ready).run
        )
        tasks.spawn("events", feed.run)
        tasks.spawn("roles", in_force.keep)
        tasks.spawn("event-notifications", partial(feed.listen, database.listener(CHANNEL)))
        tasks.spawn("event-loop-lag", partial(measure_loop_lag, metrics.loop_lag))
        runner = Jobs(database=database, instance=who.instance, meter=metrics.jobs)
        for job in _jobs(answers, lifecycle, retention, sessions.retention):
            tasks.spawn(f"job {job.name}", partial(runner.keep, job))
        if pusher is not None:
            tasks.spawn("otlp-metrics", pusher.run)
        ops_address = _ops(stack, settings.ops, metrics, keys, board) if settings.ops.enabled else None

        # Last in, first out: the drain ends the calls while everything they need is still there.
        await server.start()
        linger, grace = settings.server.drain_linger_seconds, settings.server.drain_grace_seconds
        stack.push_async_callback(drain, server, board=board, inflight=inflight, linger=linger, grace=grace)
        await board.until_ready()
        yield App(build, address(settings.server.host, port), ops_address)


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


@dataclass(frozen=True, slots=True)
class _Sessions:
    """The rules of sessions."""

    opening: Opening
    refreshing: Refreshing
    logout: Logout
    listing: SessionListing
    retention: SessionRetention


def _sessions(
    settings: Settings,
    database: Database,
    *,
    ending: Ending,
    issuer: TokenIssuer,
    tokens: PageTokens,
    refresh_key: bytes,
    metrics: Metrics,
    clock: Clock,
) -> _Sessions:
    terms = options.session_terms(settings.auth)
    refresh_tokens = RefreshTokens(key=refresh_key, random=secrets.token_bytes)
    return _Sessions(
        opening=Opening(
            database=database,
            journal=Journal(new_id=uuid7),
            ending=ending,
            issuer=issuer,
            refresh_tokens=refresh_tokens,
            clock=clock,
            new_id=uuid7,
            terms=terms,
        ),
        refreshing=Refreshing(
            database=database,
            ending=ending,
            issuer=issuer,
            refresh_tokens=refresh_tokens,
            clock=clock,
            terms=terms,
            count=metrics.refresh,
        ),
        logout=Logout(database=database, ending=ending, terms=terms, may_act_on=Guard().may_act_on),
        listing=SessionListing(database=database, tokens=tokens, clock=clock, terms=terms),
        retention=SessionRetention(database=database, clock=clock),
    )


def _services(
    *,
    users: UserServicer,
    auth: AuthServicer,
    sessions: SessionServicer,
    tokens: TokenServicer,
    events: EventServicer,
    info: InfoServicer,
    roles: Callable[[Catalogue], RoleServicer],
) -> Mapping[str, Callable[[grpc.aio.Server], None]]:
    """Return by its full name what adds each service to a server. Roles know what permissions all of them need."""
    roles_name = "gatelodge.access.v1.RoleService"
    others = {
        "gatelodge.users.v1.UserService": partial(users_pb2_grpc.add_UserServiceServicer_to_server, users),
        "gatelodge.auth.v1.AuthService": partial(auth_pb2_grpc.add_AuthServiceServicer_to_server, auth),
        "gatelodge.auth.v1.SessionService": partial(sessions_pb2_grpc.add_SessionServiceServicer_to_server, sessions),
        "gatelodge.auth.v1.TokenService": partial(tokens_pb2_grpc.add_TokenServiceServicer_to_server, tokens),
        "gatelodge.events.v1.EventService": partial(events_pb2_grpc.add_EventServiceServicer_to_server, events),
        "gatelodge.info.v1.InfoService": partial(info_pb2_grpc.add_InfoServiceServicer_to_server, info),
    }
    servicer = roles(Catalogue(permissions((*others, roles_name))))
    return others | {roles_name: partial(roles_pb2_grpc.add_RoleServiceServicer_to_server, servicer)}


def _roles(
    catalogue: Catalogue, *, database: Database, ending: Ending, tokens: PageTokens, clock: Clock
) -> RoleServicer:
    journal = Journal(new_id=uuid7)
    expire = ending.expire_access_tokens
    return RoleServicer(
        roles=Roles(database=database, journal=journal, catalogue=catalogue, tokens=tokens, clock=clock),
        grants=Grants(database=database, journal=journal, guard=Guard(), clock=clock, expire=expire),
        catalogue=catalogue,
    )


async def _in_force(database: Database, record: Record, feed: Feed) -> RolesInForce:
    """Return what roles allow, complete."""
    in_force = RolesInForce(database=database, record=record, feed=feed)
    await in_force.load()
    return in_force


def _authenticate(verify: Callable[[str], Principal], in_force: RolesInForce) -> Callable[[str], Principal]:
    """Return what tells by a token who calls and what they may do now."""

    def authenticate(token: str) -> Principal:
        principal = verify(token)
        return replace(principal, permissions=in_force.permissions_of(principal.roles))

    return authenticate


def _jobs(answers: Answers, lifecycle: Lifecycle, retention: Retention, sessions: SessionRetention) -> tuple[Job, ...]:
    """Return what is done now and then, once in the whole cluster."""
    return (
        Job("events.prune", timedelta(hours=6), retention.prune),
        Job("idempotency.prune", timedelta(minutes=10), answers.prune),
        Job("sessions.prune", timedelta(hours=1), sessions.prune),
        Job("users.purge", timedelta(hours=1), lifecycle.purge),
    )


def _ops(stack: AsyncExitStack, settings: Ops, metrics: Metrics, keys: KeyRing, board: HealthBoard) -> str:
    server = OpsServer(
        host=settings.host,
        port=settings.port,
        registry=metrics.registry,
        jwks=keys.jwks,
        alive=metrics.loop_runs,
        ready=board.ready,
    )
    stack.push_async_callback(asyncio.to_thread, server.close)
    return address(settings.host, server.port)
