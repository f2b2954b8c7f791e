"""The composition root: builds the whole service once, in order, and closes it in reverse. Parts are in `wiring`."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from service import development, options
from service.auth.resealing import reseal
from service.auth.sealing import Seal
from service.build import this_build
from service.db.clock import DatabaseClock
from service.jobs import Jobs
from service.roles.guard import Guard
from service.rpc.drain import drain
from service.rpc.health import REVOCATIONS, HealthBoard
from service.rpc.inflight import InFlight
from service.rpc.leaving import leave
from service.rpc.readiness import Readiness
from service.rpc.server import broken, build_server, register
from service.supervisor import Supervisor
from service.telemetry import otlp
from service.telemetry.metrics import Metrics, measure_loop_lag
from service.wiring import ground as foundation
from service.wiring.auth import accounts, auth
from service.wiring.events import events, info
from service.wiring.roles import roles, roles_in_force
from service.wiring.serving import bind, certificates, interceptors, ops, tell_fresh
from service.wiring.users import users

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable

    from prometheus_client import Metric

    from service.auth.accounts import Accounts
    from service.auth.key_rotation import KeyRotation
    from service.auth.resealing import Resealed
    from service.build import Build
    from service.clock import Clock
    from service.settings import Settings

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
    broken: Callable[[], Coroutine[object, object, None]]
    """Waits until gRPC takes no calls any more although nobody stopped it; raises why."""
    leave: Callable[[], Coroutine[object, object, None]]
    """Leaves the port to the other processes that share it, before the block is left."""
    families: Callable[[], Iterable[Metric]]
    """The numbers, after the block is left, too."""


@asynccontextmanager
async def running(
    settings: Settings,
    *,
    clock: Clock | None = None,
    ops_socket: str | None = None,
    built: Callable[[], None] = lambda: None,
) -> AsyncIterator[App]:
    """Build the service, serve until the block is left, then drain and close.

    `clock` is the database's unless given; `built` is called when all is there, before the first call can come. With
    `ops_socket` the service is one of several workers: it shares its port, and shows its ops pages on that Unix socket.

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

        # What everything stands on, and the features.
        ground = await foundation.lay(stack, settings, metrics, clock)
        in_force, guard = await roles_in_force(ground), Guard()
        known = auth(ground, guard, in_force.permissions_of)
        features = [known.feature, users(ground, known, guard), events(ground), info(ground, build)]
        services = {name: add for feature in features for name, add in feature.services.items()}
        features.append(roles(ground, known, guard, in_force, services))
        services |= features[-1].services

        # The server around them.
        board = HealthBoard(services, apart=(REVOCATIONS,), on_change=metrics.health)
        inflight = InFlight(max_calls=settings.server.max_concurrent_calls, max_streams=settings.server.max_streams)
        chain = interceptors(ground, known, inflight, tracer_provider, in_force.permissions_of)
        server = build_server(chain, options.transport(settings.server, share_port=ops_socket is not None))
        register(server, services, board, reflect=settings.server.reflection)
        tls = certificates(settings.server.tls, metrics)

        # What runs beside the calls.
        tasks = await stack.enter_async_context(Supervisor(on_crash=metrics.crash))
        runner = Jobs(database=ground.database, instance=who.instance, meter=metrics.jobs)
        for feature in features:
            for name, run in feature.tasks.items():
                tasks.spawn(name, run)
            for job in feature.jobs:
                tasks.spawn(f"job {job.name}", partial(runner.keep, job))
        tasks.spawn("revocations-freshness", partial(known.revocations.report, partial(tell_fresh, board, metrics)))
        tasks.spawn("event-loop-lag", partial(measure_loop_lag, metrics.loop_lag))
        if pusher is not None:
            tasks.spawn("otlp-metrics", pusher.run)
        if tls is not None:
            tasks.spawn("certificates", tls.watch)
        ping = partial(ground.database.ping, within=_PING_SECONDS)
        tasks.spawn("readiness", Readiness(probe=ping, tell=board.set_ready, first=known.revocations.complete).run)
        ops_address = ops(stack, ground, board, path=ops_socket)

        # Listening begins when all is ready: on a shared port, calls come at once. Last in, first out: the drain ends
        # the calls while everything they need is still there.
        await board.until_ready()
        built()
        where = bind(server, settings.server, tls)
        await server.start()
        linger, grace = settings.server.drain_linger_seconds, settings.server.drain_grace_seconds
        stack.push_async_callback(drain, server, board=board, inflight=inflight, linger=linger, grace=grace)
        yield App(
            build,
            where,
            ops_address,
            reload=tls.look if tls else None,
            broken=partial(broken, server),
            leave=partial(leave, settings.server.port, within=options.leaving_seconds(settings.server)),
            families=metrics.registry.collect,
        )


@asynccontextmanager
async def opened_accounts(settings: Settings) -> AsyncIterator[Accounts]:
    """Build only what making an account needs, for the command line. Raises as `running`."""
    metrics = Metrics(version="", commit="")
    async with AsyncExitStack() as stack:
        database = await foundation.open_database(stack, settings)
        yield accounts(settings, database, await foundation.open_hasher(stack, settings, metrics), metrics)


@asynccontextmanager
async def opened_rotation(settings: Settings) -> AsyncIterator[KeyRotation]:
    """Build only what changing signing keys needs, for the command line. Raises as `running`."""
    async with AsyncExitStack() as stack:
        database = await foundation.open_database(stack, settings)
        clock = DatabaseClock(database)
        await clock.start()
        yield foundation.key_rotation(settings, database, Seal(*development.master_secrets(settings)), clock)


async def resealed(settings: Settings) -> Resealed:
    """Seal every secret in the database anew under the present master secret. Raises as `running`."""
    async with AsyncExitStack() as stack:
        database = await foundation.open_database(stack, settings)
        return await reseal(database, Seal(*development.master_secrets(settings)))
