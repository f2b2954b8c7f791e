"""Listening on a Unix socket."""

from __future__ import annotations

import asyncio
import signal
import socket
import stat
from typing import TYPE_CHECKING

import pytest
from gatelodge.auth.v1 import auth_pb2
from tests.app.client import Client
from tests.app.conftest import environment
from tests.app.process import gatelodge, serving

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("mode", ["0600", "0660"])
async def test_the_service_is_called_over_a_unix_socket_with_the_mode_asked_for(
    url: str, tmp_path: Path, mode: str
) -> None:
    path = tmp_path / "gatelodge.sock"
    environ = environment(url, tmp_path, SERVER__UNIX_SOCKET=str(path), SERVER__UNIX_SOCKET_MODE=mode)
    async with serving(environ) as server, Client(server.address, url) as client:
        assert server.address == f"unix:{path}"
        assert stat.S_IMODE(path.stat().st_mode) == int(mode, 8)
        ada = await client.user()
        await client.auth.GetMe(auth_pb2.GetMeRequest(), metadata=ada.metadata)
        assert (await gatelodge("health", environ=environ))[0] == 0
        server.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(server.process.wait(), 10) == 0
        assert {line["source"] for line in server.lines if line["event"] == "call"} == {"unix"}
    assert not path.exists()


async def test_a_socket_that_a_killed_process_left_behind_is_replaced(url: str, tmp_path: Path) -> None:
    path = tmp_path / "gatelodge.sock"
    environ = environment(url, tmp_path, SERVER__UNIX_SOCKET=str(path))
    async with serving(environ) as server:
        server.process.kill()
        await server.process.wait()
    assert path.exists()
    async with serving(environ) as server, Client(server.address, url) as client:
        await client.user()


async def test_a_socket_on_which_somebody_listens_and_a_file_that_is_none_are_left_alone(
    url: str, tmp_path: Path
) -> None:
    path = tmp_path / "gatelodge.sock"
    environ = environment(url, tmp_path, SERVER__UNIX_SOCKET=str(path))
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        status, _, err = await gatelodge("serve", environ=environ)
        assert status == 1
        assert err.splitlines()[-1] == f"gatelodge: cannot listen on unix:{path}: another process does"
        with socket.socket(socket.AF_UNIX) as still:
            still.connect(str(path))
    path.unlink()
    path.write_text("dear")
    status, _, err = await gatelodge("serve", environ=environ)
    assert status == 1
    assert "a file that is no socket is there" in err
    assert path.read_text() == "dear"
