"""The peer: what many would build instead, FastAPI on uvicorn with asyncpg, argon2 and PyJWT, serving the same user.

``peer.py bare|full DATABASE_URL JWKS_FILE ISSUER OTLP_ENDPOINT`` prints its port. ``full`` adds what a production has:
one JSON line a call (structlog) and OpenTelemetry's own instrumentation, set up as its documentation shows.
"""

import asyncio
import json
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import asyncpg
import jwt
import structlog
import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException, Request
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from pydantic import BaseModel

QUERY = """
    SELECT id, email, display_name, state, roles, email_verified, version, create_time, update_time, delete_time,
        purge_time
    FROM users WHERE id = $1
"""
_log = structlog.get_logger()


class User(BaseModel):
    """The user as JSON."""

    id: UUID
    email: str
    display_name: str
    state: str
    roles: list[str]
    email_verified: bool
    version: int
    create_time: datetime
    update_time: datetime
    delete_time: datetime | None
    purge_time: datetime | None


def build(database_url: str, jwks: dict[str, Any], issuer: str) -> FastAPI:
    """Return the application."""
    keys = {key["kid"]: jwt.PyJWK(key) for key in jwks["keys"]}

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with asyncpg.create_pool(database_url, min_size=2, max_size=20) as pool:
            app.state.pool = pool
            yield

    app = FastAPI(lifespan=lifespan)

    def subject(authorization: Annotated[str, Header()]) -> str:
        token = authorization.removeprefix("Bearer ")
        try:
            key = keys[jwt.get_unverified_header(token)["kid"]]
            claims = jwt.decode(token, key, algorithms=["ES256"], audience=issuer, issuer=issuer)
        except (jwt.PyJWTError, KeyError) as error:
            raise HTTPException(401) from error
        return str(claims["sub"])

    # FastAPI runs a plain function in a thread; a coroutine costs less.
    async def caller(authorization: Annotated[str, Header()]) -> str:
        return subject(authorization)

    @app.get("/v1/users/{user_id}")  # type: ignore[untyped-decorator]  # FastAPI is not installed for the check
    async def get_user(user_id: UUID, request: Request, caller_id: Annotated[str, Depends(caller)]) -> User:
        if caller_id != str(user_id):
            raise HTTPException(404)
        with trace.get_tracer("peer").start_as_current_span("SELECT users"):
            row = await request.app.state.pool.fetchrow(QUERY, user_id)
        if row is None:
            raise HTTPException(404)
        return User(**dict(row))

    return app


def observe(app: FastAPI, endpoint: str) -> None:
    """Add logs and traces."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    provider = TracerProvider(resource=Resource.create({"service.name": "peer"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint, insecure=True)))
    trace.set_tracer_provider(provider)

    @app.middleware("http")  # type: ignore[untyped-decorator]  # likewise
    async def line(request: Request, call_next: Callable[[Request], Awaitable[Any]]) -> Any:
        began = time.perf_counter()
        response = await call_next(request)
        _log.info(
            "call",
            method=request.method,
            path=request.url.path,
            status=response.status_code,
            duration_ms=round((time.perf_counter() - began) * 1000, 2),
        )
        return response

    FastAPIInstrumentor.instrument_app(app)


async def main() -> None:
    kind, database_url, jwks_file, issuer, endpoint = sys.argv[1:]
    app = build(database_url, json.loads(Path(jwks_file).read_text()), issuer)
    if kind == "full":
        observe(app, endpoint)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, loop="uvloop", http="httptools", log_level="warning", access_log=False)
    server = uvicorn.Server(config)
    serving = asyncio.ensure_future(server.serve(sockets=[listening]))
    while not server.started:
        await asyncio.sleep(0.01)
    print(listening.getsockname()[1], flush=True)
    await serving


if __name__ == "__main__":
    import uvloop

    uvloop.run(main())
