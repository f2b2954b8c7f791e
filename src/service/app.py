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
from gatelodge.auth.v1 import auth_pb2_grpc, keys_pb2_grpc, revocations_pb2_grpc, sessions_pb2_grpc, tokens_pb2_grpc
from gatelodge.events.v1 import events_pb2_grpc
from gatelodge.info.v1 import info_pb2_grpc
from gatelodge.users.v1 import users_pb2_grpc
from uuid_utils.compat import uuid7

from service import development, options
from service.access import ADMIN
from service.auth.accounts import Accounts
from service.auth.authentication import Authentication
from service.auth.checking import PasswordCheck
from service.auth.devices import Devices
from service.auth.explanation import LoginExplainer
from service.auth.introspection import Introspection
from service.auth.key_ring import KeyFollower, KeyRing
from service.auth.key_rotation import KeyRotation
from service.auth.key_servicer import SigningKeyServicer
from service.auth.key_store import KeyStore
from service.auth.login import Login
from service.auth.password_change import PasswordChange
from service.auth.password_setting import PasswordSetting
from service.auth.profile import Profile
from service.auth.resealing import reseal
from service.auth.revocation_servicer import RevocationServicer
from service.auth.revocation_stream import RevocationStream
from service.auth.revocations import Revocations
from service.auth.root import root_secret
from service.auth.sealing import Seal, derive
from service.auth.servicer import AuthServicer
from service.auth.sessions.ending import Ending
from service.auth.sessions.listing import SessionListing
from service.auth.sessions.logout import Logout
from service.auth.sessions.opening import Opening
from service.auth.sessions.refresh_tokens import RefreshTokens
from service.auth.sessions.refreshing import Refreshing
from service.auth.sessions.retention import SessionRetention
from service.auth.sessions.servicer import SessionServicer
from service.auth.throttle import Throttle
from service.auth.token_servicer import TokenServicer
from service.auth.tokens import TokenIssuer
from service.auth.verification import TokenVerifier
from service.build import this_build
from service.db import Answers, Database
from service.db.clock import DatabaseClock
from service.errors import PermissionMissing
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
from service.rpc.health import NOT_SERVING, REVOCATIONS, SERVING, HealthBoard
from service.rpc.inflight import InFlight
from service.rpc.interceptors import Idempotency, RequestId, Tracing, chain
from service.rpc.methods import permissions
from service.rpc.readiness import Readiness
from service.rpc.server import build_server, listen, register
from service.rpc.source import Sources
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
    from service.auth.resealing import Resealed
    from service.build import Build
    from service.clock import Clock
    from service.settings import Auth, Events, Ops, Settings
    from service.users.model import User

_PING_SECONDS = 0.3
"""Less than a probe may take, so that a pool that is merely busy is told from a database that is away."""
_NO_PERMISSIONS: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class App:
    """A service that serves."""

    build: Build
    address: str
    """Where gRPC listens, ``host:port``."""
    ops_address: str | None
    """Where the ops HTTP port listens; None when it is off."""


@asynccontextmanager
async def running(settings: Settings, *, clock: Clock | None = None) -> AsyncIterator[App]:
    """Build the service, serve until the block is left, then drain and close.

    `clock` is the database's unless given.

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
        shared_clock = await _shared_clock(database, metrics)
        clock = clock or shared_clock
        root, rotation, keys = await _secrets(settings, database, clock)
        answers = Answers(database)
        terms = options.terms(settings.auth)
        policy = options.policy(settings.auth)
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
        tokens = PageTokens(derived_key(root, "page-tokens"))
        accounts = _accounts(settings, database, hasher, metrics)
        issuer = TokenIssuer(terms=terms, keys=keys, clock=clock, new_id=uuid7)
        sessions = _sessions(
            settings,
            database,
            ending=ending,
            issuer=issuer,
            tokens=tokens,
            refresh_key=derive(root, "gatelodge/refresh-tokens/v1"),
            metrics=metrics,
            clock=clock,
        )
        profile = Profile(directory=directory)
        passwords = _passwords(settings, database, hasher, root=root, metrics=metrics, clock=clock)
        login = Login(
            database=database,
            check=passwords.check,
            hasher=hasher,
            policy=policy,
            devices=passwords.devices,
            opening=sessions.opening,
            count=metrics.login,
        )
        record = Record(database=database)
        feed = Feed(record=record)
        revocations = Revocations(
            record=record,
            feed=feed,
            clock=clock,
            window=options.revocation_window(settings.auth),
            staleness=settings.auth.revocation_staleness_seconds,
            lag=metrics.revocation_lag,
        )
        authentication = _authentication(settings.auth, database, keys, revocations, clock)
        services = _services(
            users=UserServicer(
                directory=directory,
                listing=Listing(database=database, tokens=tokens),
                export=Export(database=database, tokens=tokens),
                lifecycle=lifecycle,
                accounts=accounts,
                explainer=LoginExplainer(database=database, directory=directory, throttle=passwords.throttle),
                password_setting=PasswordSetting(
                    database=database,
                    directory=directory,
                    hasher=hasher,
                    policy=policy,
                    ending=ending,
                    journal=Journal(new_id=uuid7),
                    may_act_on=_may_act_on,
                ),
                policy=policy,
            ),
            auth=AuthServicer(
                accounts=accounts,
                check=passwords.check,
                login=login,
                password_change=PasswordChange(
                    database=database,
                    profile=profile,
                    check=passwords.check,
                    hasher=hasher,
                    policy=policy,
                    ending=ending,
                    journal=Journal(new_id=uuid7),
                ),
                refreshing=sessions.refreshing,
                logout=sessions.logout,
                profile=profile,
                policy=policy,
            ),
            sessions=SessionServicer(listing=sessions.listing, logout=sessions.logout),
            tokens=TokenServicer(
                keys=keys,
                introspection=Introspection(
                    authentication=authentication,
                    refresh_tokens=sessions.refresh_tokens,
                    database=database,
                    ending=ending,
                    terms=terms,
                    idle=options.session_terms(settings.auth).idle,
                    clock=clock,
                ),
            ),
            signing_keys=SigningKeyServicer(rotation=rotation),
            revocations=RevocationServicer(
                stream=RevocationStream(
                    record=record, feed=feed, clock=clock, window=options.revocation_window(settings.auth)
                ),
                window=options.revocation_window(settings.auth),
                master_secret=root,
            ),
            events=EventServicer(record=record, feed=feed, root=root),
            info=InfoServicer(build=build, start_time=clock()),
            roles=partial(_roles, database=database, ending=ending, tokens=tokens, clock=clock),
        )

        in_force = await _in_force(database, record, feed)

        # The server around them.
        board = HealthBoard(services, apart=(REVOCATIONS,), on_change=metrics.health)
        inflight = InFlight(max_calls=settings.server.max_concurrent_calls, max_streams=settings.server.max_streams)
        interceptors = chain(
            tracing=Tracing(provider=tracer_provider, ratio=settings.tracing.sample_ratio),
            request_id=RequestId(source=Sources(settings.server.trusted_proxies)),
            metrics=metrics.rpc,
            max_message_bytes=settings.server.max_message_bytes,
            inflight=inflight,
            default_deadline=settings.server.default_deadline_seconds,
            authenticate=authentication,
            idempotency=Idempotency(find=answers.find, secret=derive(root, "gatelodge/fingerprints/v1")),
        )
        server = build_server(interceptors, options.transport(settings.server))
        register(server, services, board, reflect=settings.server.reflection)
        port = listen(server, address(settings.server.host, settings.server.port), None)

        # What runs beside the calls.
        tasks = await stack.enter_async_context(Supervisor(on_crash=metrics.crash))
        tasks.spawn("revocations", revocations.run)
        tasks.spawn("revocations-freshness", partial(revocations.report, partial(_tell_fresh, board, metrics)))
        tasks.spawn(
            "readiness",
            Readiness(
                probe=partial(database.ping, within=_PING_SECONDS), tell=board.set_ready, first=revocations.complete
            ).run,
        )
        tasks.spawn("events", feed.run)
        tasks.spawn("roles", in_force.keep)
        tasks.spawn("event-notifications", partial(feed.listen, database.listener(CHANNEL)))
        tasks.spawn("signing-keys", KeyFollower(ring=keys, record=record, feed=feed).run)
        tasks.spawn("clock", shared_clock.follow)
        tasks.spawn("event-loop-lag", partial(measure_loop_lag, metrics.loop_lag))
        runner = Jobs(database=database, instance=who.instance, meter=metrics.jobs)
        retention = _retention(settings.events, record, clock)
        for job in _jobs(answers, lifecycle, retention, sessions.retention, passwords.throttle, rotation):
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


@asynccontextmanager
async def opened_rotation(settings: Settings) -> AsyncIterator[KeyRotation]:
    """Build only what changing signing keys needs, for the command line. Raises as `running`."""
    async with AsyncExitStack() as stack:
        database = await _database(stack, settings)
        clock = DatabaseClock(database)
        await clock.start()
        yield _rotation(settings, database, Seal(*development.master_secrets(settings)), clock)


async def resealed(settings: Settings) -> Resealed:
    """Seal every secret in the database anew under the present master secret. Raises as `running`."""
    async with AsyncExitStack() as stack:
        database = await _database(stack, settings)
        return await reseal(database, Seal(*development.master_secrets(settings)))


async def _database(stack: AsyncExitStack, settings: Settings) -> Database:
    url = await stack.enter_async_context(development.database_url(settings.database))
    await prepare_schema(url, settings.database)
    return await stack.enter_async_context(Database(url, options.pool(settings.database)))


async def _foundation(stack: AsyncExitStack, settings: Settings, metrics: Metrics) -> tuple[Database, Hasher]:
    database = await _database(stack, settings)
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


def _authentication(
    settings: Auth, database: Database, keys: KeyRing, revocations: Revocations, clock: Clock
) -> Authentication:
    verify = TokenVerifier(terms=options.terms(settings), keys=keys, clock=clock, remember=settings.token_cache_size)
    return Authentication(
        verify=verify,
        revocations=revocations,
        permissions_of=lambda _roles: _NO_PERMISSIONS,
        database=database,
        clock=clock,
    )


@dataclass(frozen=True, slots=True)
class _Sessions:
    """The rules of sessions."""

    opening: Opening
    refreshing: Refreshing
    logout: Logout
    listing: SessionListing
    retention: SessionRetention
    refresh_tokens: RefreshTokens


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
        refresh_tokens=refresh_tokens,
    )


async def _shared_clock(database: Database, metrics: Metrics) -> DatabaseClock:
    clock = DatabaseClock(database, tell=metrics.clock_offset)
    await clock.start()
    return clock


async def _secrets(settings: Settings, database: Database, clock: Clock) -> tuple[bytes, KeyRotation, KeyRing]:
    """Return the root secret, and the signing keys with their rules; make what is not there yet."""
    seal = Seal(*development.master_secrets(settings))
    root = await root_secret(database, seal)
    rotation = _rotation(settings, database, seal, clock)
    await rotation.begin()
    store = KeyStore(database=database, seal=seal, clock=clock, keep=rotation.terms.keep)
    return root, rotation, await KeyRing.opened(store)


def _rotation(settings: Settings, database: Database, seal: Seal, clock: Clock) -> KeyRotation:
    return KeyRotation(
        database=database,
        seal=seal,
        journal=Journal(new_id=uuid7),
        clock=clock,
        terms=options.key_terms(settings.auth),
    )


@dataclass(frozen=True, slots=True)
class _Passwords:
    """What every path that checks a password shares."""

    throttle: Throttle
    devices: Devices
    check: PasswordCheck


def _passwords(
    settings: Settings, database: Database, hasher: Hasher, *, root: bytes, metrics: Metrics, clock: Clock
) -> _Passwords:
    throttle = Throttle(
        database=database,
        terms=options.throttle_terms(settings.auth),
        key=derive(root, "gatelodge/throttle/v1"),
        clock=clock,
        refused=metrics.attempt_refused,
    )
    devices = Devices(
        key=derive(root, "gatelodge/device-tokens/v1"),
        lifetime=timedelta(days=settings.auth.device_token_days),
        clock=clock,
        random=secrets.token_bytes,
    )
    return _Passwords(
        throttle, devices, PasswordCheck(database=database, hasher=hasher, throttle=throttle, devices=devices)
    )


def _may_act_on(principal: Principal, user: User) -> None:
    """Refuse a user with roles that the caller does not have."""
    if ADMIN not in principal.roles and not principal.roles.issuperset(user.roles):
        raise PermissionMissing("users.set_password")


def _services(
    *,
    users: UserServicer,
    auth: AuthServicer,
    sessions: SessionServicer,
    tokens: TokenServicer,
    signing_keys: SigningKeyServicer,
    revocations: RevocationServicer,
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
        "gatelodge.auth.v1.SigningKeyService": partial(
            keys_pb2_grpc.add_SigningKeyServiceServicer_to_server, signing_keys
        ),
        "gatelodge.auth.v1.RevocationService": partial(
            revocations_pb2_grpc.add_RevocationServiceServicer_to_server, revocations
        ),
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


def _tell_fresh(board: HealthBoard, metrics: Metrics, fresh: bool) -> None:  # noqa: FBT001 - what is told
    board.set(REVOCATIONS, SERVING if fresh else NOT_SERVING)
    metrics.revocations_fresh(fresh)


def _retention(settings: Events, record: Record, clock: Clock) -> Retention:
    return Retention(record=record, clock=clock, keep=timedelta(days=settings.retention_days))


def _jobs(
    answers: Answers,
    lifecycle: Lifecycle,
    retention: Retention,
    sessions: SessionRetention,
    throttle: Throttle,
    rotation: KeyRotation,
) -> tuple[Job, ...]:
    """Return what is done now and then, once in the whole cluster."""
    return (
        Job("events.prune", timedelta(hours=6), retention.prune),
        Job("idempotency.prune", timedelta(minutes=10), answers.prune),
        Job("sessions.prune", timedelta(hours=1), sessions.prune),
        Job("keys.rotate", timedelta(minutes=5), rotation.rotate),
        Job("throttle.prune", timedelta(hours=1), throttle.prune),
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
