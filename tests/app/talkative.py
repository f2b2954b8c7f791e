"""Runs ``gatelodge`` with a task that nobody awaits and that has a last word when the loop ends it."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from service import cli, process

if TYPE_CHECKING:
    from service.settings import Settings

COMMAND = (sys.executable, "-m", "tests.app.talkative")
ENVIRONMENT = {"PYTHONPATH": str(Path(__file__).parents[2])}
_serve = process.serve


async def last_words() -> None:
    try:
        await asyncio.sleep(3600)
    finally:
        logging.getLogger("psycopg").warning("last words")


async def serve(settings: Settings) -> None:
    talking = asyncio.ensure_future(last_words())
    await _serve(settings)
    assert not talking.done()


if __name__ == "__main__":
    process.serve = serve
    sys.exit(cli.main())
