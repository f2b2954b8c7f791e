"""The ops port over a real socket."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from service.errors import CannotRun
from service.telemetry import ops
from service.telemetry.metrics import Metrics
from service.telemetry.ops import OpsServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Doors:
    """What the server is given, to be changed by a test."""

    alive = True
    ready = True
    keys = b'{"keys":[]}'


@pytest.fixture(name="doors")
def _doors() -> Doors:
    return Doors()


@pytest.fixture(name="server")
def _server(doors: Doors) -> Iterator[OpsServer]:
    def keys() -> bytes:
        if not doors.keys:
            raise RuntimeError("no keys")
        return doors.keys

    server = OpsServer(
        host="127.0.0.1",
        port=0,
        registry=Metrics(version="1", commit="x").registry,
        jwks=keys,
        alive=lambda: doors.alive,
        ready=lambda: doors.ready,
    )
    yield server
    server.close()


def _ask(server: OpsServer, path: str, method: str = "GET", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def _raw(server: OpsServer, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as peer:
        peer.sendall(request)
        answer = b""
        while part := peer.recv(65536):
            answer += part
        return answer


def test_metrics_are_served_in_the_format_asked_for(server: OpsServer) -> None:
    response, body = _ask(server, "/metrics")
    assert response.status == 200
    assert str(response.headers["Content-Type"]).startswith("text/plain; version=")
    assert "gatelodge_build" in {family.name.removesuffix("_info") for family in parse(body.decode())}
    response, body = _ask(server, "/metrics?x=1", Accept="application/openmetrics-text; version=1.0.0")
    assert str(response.headers["Content-Type"]).startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_the_public_keys_are_served_and_may_be_kept_a_minute(server: OpsServer) -> None:
    response, body = _ask(server, "/.well-known/jwks.json")
    assert (response.status, body) == (200, b'{"keys":[]}')
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Cache-Control"] == "public, max-age=60"


def test_probes_tell_what_they_are_told(server: OpsServer, doors: Doors) -> None:
    assert [_ask(server, path)[0].status for path in ("/healthz", "/readyz")] == [200, 200]
    doors.ready = False
    assert [_ask(server, path)[0].status for path in ("/healthz", "/readyz")] == [200, 503]


def test_a_page_that_fails_says_so_and_no_more(server: OpsServer, doors: Doors) -> None:
    doors.keys = b""
    response, body = _ask(server, "/.well-known/jwks.json")
    assert (response.status, body) == (500, b"failed: the log says why\n")
    assert _ask(server, "/healthz")[0].status == 200


def test_unknown_paths_and_methods_are_refused(server: OpsServer) -> None:
    assert _ask(server, "/")[0].status == 404
    assert _ask(server, "/metrics/../metrics")[0].status == 404
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"):
        response, _ = _ask(server, "/metrics", method)
        assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")


def test_a_head_request_gets_the_head_alone(server: OpsServer) -> None:
    response, body = _ask(server, "/healthz", "HEAD")
    assert (response.status, body, response.headers["Content-Length"]) == (200, b"", "3")


def test_nothing_tells_what_serves_and_bad_requests_are_not_repeated(server: OpsServer) -> None:
    for request in (
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
        b"<script> nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"h: v\r\n" * 200 + b"\r\n",
    ):
        answer = _raw(server, request)
        for word in (b"Server:", b"Python", b"BaseHTTP", b"script"):
            assert word not in answer
        assert answer


def test_an_address_in_use_is_an_error_at_once(server: OpsServer) -> None:
    with pytest.raises(CannotRun):
        OpsServer(
            host="127.0.0.1",
            port=server.port,
            registry=Metrics(version="1", commit="x").registry,
            jwks=lambda: b"",
            alive=lambda: True,
            ready=lambda: True,
        )


def test_slow_senders_are_cut_and_do_not_keep_others_out(server: OpsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "_CONNECTION_SECONDS", 0.3)
    slow = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(40)]
    try:
        for peer in slow[:16]:
            peer.sendall(b"GET /hea")
        deadline = time.monotonic() + 3
        while True:
            try:
                assert _ask(server, "/healthz")[0].status == 200
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        assert slow[0].recv(100) in {b"", b"HTTP/1.0 400"[:0]}
    finally:
        for peer in slow:
            peer.close()


def test_whoever_holds_all_places_does_not_keep_others_out_for_a_moment(server: OpsServer) -> None:
    held = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(16)]
    try:
        for peer in held:
            peer.sendall(b"GET /healthz HTTP/1.1\r\n")
        time.sleep(0.1)
        for _ in range(8):
            assert _ask(server, "/healthz")[0].status == 200
        assert held[0].recv(100) == b""
        held[-1].sendall(b"\r\n")
        assert held[-1].recv(100).startswith(b"HTTP/1.0 200")
    finally:
        for peer in held:
            peer.close()


def test_a_flood_of_requests_is_worked_on_a_few_at_a_time() -> None:
    working, most, release = [0], [0], threading.Event()

    def ready() -> bool:
        working[0] += 1
        most[0] = max(most[0], working[0])
        release.wait(5)
        working[0] -= 1
        return True

    server = OpsServer(
        host="127.0.0.1",
        port=0,
        registry=Metrics(version="1", commit="x").registry,
        jwks=lambda: b"",
        alive=lambda: True,
        ready=ready,
    )
    peers = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(16)]
    try:
        for peer in peers:
            peer.sendall(b"GET /readyz HTTP/1.1\r\n\r\n")
        _wait_until(lambda: working[0] == 16)
        for _ in range(10):
            with pytest.raises(OSError, match=r"reset|closed"):
                _ask(server, "/readyz")
        assert most[0] == 16
    finally:
        release.set()
        for peer in peers:
            peer.close()
        server.close()


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 3
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_many_scrapes_at_once_are_answered(server: OpsServer) -> None:
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: _ask(server, "/metrics")[0].status, range(64)))
    assert statuses == [200] * 64


def test_closing_takes_less_than_a_second_even_with_open_connections(doors: Doors) -> None:
    server = OpsServer(
        host="127.0.0.1",
        port=0,
        registry=Metrics(version="1", commit="x").registry,
        jwks=lambda: doors.keys,
        alive=lambda: True,
        ready=lambda: True,
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as idle:
        time.sleep(0.05)
        start = time.monotonic()
        server.close()
        assert time.monotonic() - start < 1
        assert idle.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), timeout=1)
