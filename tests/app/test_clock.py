"""Processes on machines whose clocks are five minutes off, or are set meanwhile, deal in good tokens all the same."""

from __future__ import annotations

import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import jwt
from tests.app.client import Client
from tests.app.conftest import environment
from tests.app.process import Serving, serving
from tests.app.test_signing_keys import me

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LAUNCHER = (sys.executable, "-m", "tests.app.shifted")
ROOT = Path(__file__).parents[2]
LIFE = 900


@asynccontextmanager
async def machine(url: str, folder: Path, shift: float) -> AsyncIterator[tuple[Serving, Client, Path]]:
    """Run the service on a machine whose clock is `shift` seconds off; the file changes that."""
    folder.mkdir()
    file = folder / "shift"
    file.write_text(str(shift))
    environ = {**environment(url, folder), "CLOCK_SHIFT": str(file), "PYTHONPATH": str(ROOT)}
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(environ, command=LAUNCHER))
        client = await stack.enter_async_context(Client(server.address, url))
        yield server, client, file


def off(server: Serving) -> float:
    """Return how far the machine's own clock is off, as its log shows it."""
    return datetime.fromisoformat(server.lines[-1]["timestamp"]).timestamp() - time.time()


async def test_clocks_five_minutes_off_either_way_fail_no_token(url: str, tmp_path: Path) -> None:
    async with (
        machine(url, tmp_path / "slow", -300) as (slow, late, late_file),
        machine(url, tmp_path / "fast", 300) as (fast, early, early_file),
    ):
        assert off(slow) < -250 < 250 < off(fast)  # or this would show nothing
        await late.register("ada@example.com")
        for issuer in (late, early):
            for shift in (None, 300, -300, 0):
                if shift is not None:  # set while they run
                    late_file.write_text(str(shift))
                    early_file.write_text(str(-shift))
                login = await issuer.login("ada@example.com")
                assert await me(late, login) == login.user_id
                assert await me(early, login) == login.user_id
                claims = jwt.decode(login.token, options={"verify_signature": False})
                assert abs(claims["iat"] - time.time()) < 5
                assert claims["exp"] - claims["iat"] == LIFE
        warned = [line["event"] for line in (*slow.lines, *fast.lines) if "system clock is off" in line["event"]]
        assert len(warned) == 2
