"""The ops port: metrics, the public keys and probes over plain HTTP, for scrapers and people. No RPC passes here.

Runs in threads of its own, so that it answers while the event loop is busy; few of them, and none for long.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import TYPE_CHECKING, cast

from prometheus_client.exposition import choose_encoder

from service.errors import CannotRun
from service.telemetry.families import dump
from service.telemetry.logging import logger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from prometheus_client import CollectorRegistry

_log = logger("gatelodge.ops")

FAMILIES = "/families"
"""Where a worker's parent gets its numbers."""

_MOST_CONNECTIONS = 16
_CONNECTION_SECONDS = 3.0
_POLL_SECONDS = 0.1
_METHOD_NOT_ALLOWED, _NOT_IMPLEMENTED = 405, 501


@dataclass(frozen=True, slots=True)
class Page:
    """An answer."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    cache: str = "no-store"


class _Handler(BaseHTTPRequestHandler):
    """One connection, one request. Says nothing of what serves it."""

    timeout = _CONNECTION_SECONDS

    def do_GET(self) -> None:
        server = cast("_Server", self.server)
        page = server.pages.get(self.path.partition("?")[0])
        if page is None:
            self._answer(Page(404, b"not found\n"))
            return
        server.working.add(self.request)
        try:
            answer = page(self.headers.get("Accept", ""))
        except Exception:  # noqa: BLE001 - logged, and the other pages go on
            _log.exception("ops page failed", path=self.path)
            answer = Page(500, b"failed: the log says why\n")
        finally:
            server.working.discard(self.request)
        self._answer(answer)

    do_HEAD = do_GET  # noqa: N815 - http.server's name

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a request that is none, without repeating it as the library would."""
        del message, explain
        known = _METHOD_NOT_ALLOWED if code == _NOT_IMPLEMENTED else code
        self._answer(Page(known, b"refused\n"))

    def _answer(self, page: Page) -> None:
        self.send_response_only(page.status)
        self.send_header("Date", self.date_time_string())
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(page.body)))
        self.send_header("Cache-Control", page.cache)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Connection", "close")
        if page.status == _METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Log nothing: scrapes are no news."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    block_on_close = False

    def __init__(self, address: tuple[str, int] | str, pages: Mapping[str, Callable[[str], Page]]) -> None:
        self.address_family = _family(address)
        self.pages = pages
        self.working = set[object]()
        self._open: dict[socket.socket, float] = {}
        super().__init__(address, _Handler)  # type: ignore[arg-type]  # the stub knows no Unix sockets

    def server_bind(self) -> None:
        # HTTPServer's own asks the DNS for this machine's name, which can take seconds.
        TCPServer.server_bind(self)

    def process_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]  # the stub knows datagrams, too
        if len(self._open) >= _MOST_CONNECTIONS and not self._make_room():
            super().shutdown_request(request)
            return
        self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]  # likewise
        self._open.pop(request, None)
        super().shutdown_request(request)

    def _make_room(self) -> bool:
        """Cut the oldest connection that waits for its peer: none may keep the probes out by holding all places.

        Those whose answer is being made are left alone, or a flood of requests would start threads without end.
        """
        waiting = next((request for request in list(self._open) if request not in self.working), None)
        if waiting is not None:
            self._open.pop(waiting, None)
            _wake(waiting)
        return waiting is not None

    def service_actions(self) -> None:
        """Cut connections that take too long; the idle timeout alone lets a slow sender hold one for ever."""
        self.cut(older_than=_CONNECTION_SECONDS)

    def cut(self, *, older_than: float) -> None:
        now = time.monotonic()
        for request, since in list(self._open.items()):
            if now - since >= older_than:
                _wake(request)

    def handle_error(self, request: object, client_address: object) -> None:
        del request
        _log.debug("ops connection failed", peer=str(client_address), exc_info=True)


def _family(address: tuple[str, int] | str) -> socket.AddressFamily:
    if isinstance(address, str):
        return socket.AF_UNIX
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET


def _wake(request: socket.socket) -> None:
    try:
        request.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # closed meanwhile


class OpsServer:
    """The server. `alive` and `ready` answer the probes; `jwks` gives the public keys as JSON. All from any thread.

    With `path` it listens on that Unix socket in place of `host` and `port`, for a parent that puts the pages of its
    workers together, and has one page more: the numbers as JSON.

    Raises:
        CannotRun: the address cannot be bound.

    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        registry: CollectorRegistry,
        jwks: Callable[[], bytes],
        alive: Callable[[], bool],
        ready: Callable[[], bool],
        path: str | None = None,
    ) -> None:
        pages: dict[str, Callable[[str], Page]] = {
            "/metrics": lambda accept: _metrics(registry, accept),
            "/.well-known/jwks.json": lambda _: Page(200, jwks(), "application/json", "public, max-age=60"),
            "/healthz": lambda _: _probe(alive()),
            "/readyz": lambda _: _probe(ready()),
        }
        if path is not None:
            pages[FAMILIES] = lambda _: Page(200, json.dumps(dump(registry.collect())).encode(), "application/json")
        try:
            self._server = _Server(path or (host, port), pages)
        except OSError as error:
            raise CannotRun(f"cannot listen on {host}:{port} for the ops port: {error.strerror}") from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_SECONDS,), name="ops", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that is bound. None is on a Unix socket."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop listening and cut what is open. Takes about `_POLL_SECONDS` where a system does not wake the thread."""
        _wake(self._server.socket)
        self._server.shutdown()
        self._server.server_close()
        self._server.cut(older_than=0)
        self._thread.join(_POLL_SECONDS)


def _metrics(registry: CollectorRegistry, accept: str) -> Page:
    encode, content_type = choose_encoder(accept)
    return Page(200, encode(registry), content_type)


def _probe(good: bool) -> Page:  # noqa: FBT001 - the page is the answer to one question
    return Page(200, b"ok\n") if good else Page(503, b"not ready\n")
