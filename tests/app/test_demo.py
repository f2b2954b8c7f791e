"""``make demo`` tours the whole API without a surprise."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

from tests.app.conftest import environment
from tests.app.process import serving

TOUR = Path(__file__).parents[2] / "demo" / "tour.py"


async def test_the_tour_calls_everything_and_meets_only_the_errors_it_means_to(url: str, tmp_path: Path) -> None:
    environ = environment(url, tmp_path)
    async with serving(environ) as server:
        tour = await asyncio.create_subprocess_exec(
            sys.executable,
            str(TOUR),
            server.address,
            env=environ,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(60):
            raw, _ = await tour.communicate()
    out = raw.decode()
    assert tour.returncode == 0, out
    failures = [
        line.split(":")[0].removeprefix("<- ")
        for line in out.splitlines()
        if line.startswith("<- ") and "{" not in line
    ]
    greeting = ["INVALID_ARGUMENT", "UNAUTHENTICATED", "NOT_FOUND", "PERMISSION_DENIED"]
    assert failures == [*greeting, "UNAUTHENTICATED", "PERMISSION_DENIED", "UNAUTHENTICATED"], out
    # Whole secrets, not the beginnings that show that there is one.
    assert not re.search(r"correct horse|glr_\w|gld_\w|\beyJ\w", out), out
