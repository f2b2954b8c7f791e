"""One PostgreSQL server process: made, found again, started, stopped. Everything here blocks and is called in a thread.

The caller holds the instance's guard lock.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from service.db.embedded_home import ROLE, EmbeddedError, make_sockets, own

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO

    from service.db.embedded_home import Home

_POLL = 0.01
_PATIENCE = 30.0
_SOCKET = ".s.PGSQL.5432"
_SSL_REQUEST = bytes.fromhex("0000000804d2162f")
"""The first message of PostgreSQL's protocol that is answered with a single byte, to anyone."""
_ANSWER_SECONDS = 1.0
_PID_FILE_LIMIT = 4096
_NO_PID = "2147483646"  # beyond every system's pid_max
_ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/bin:/bin", "TZ": "UTC"}  # nothing of ours: it can hold secrets
_FAST_AND_LOOSE = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "autovacuum=off", "max_wal_size=4GB")


class Postmaster:
    """The server of the instance that lives in `home`."""

    def __init__(self, home: Home, *, durable: bool) -> None:
        self.home = home
        self._durable = durable
        self._child: subprocess.Popen[bytes] | None = None

    def running(self) -> int | None:
        """Return the process id of the server of this instance, if there is one, whoever started it."""
        if self._child is not None:
            self._child.poll()  # a dead child would look alive until it is reaped
        with suppress(OSError, ValueError, IndexError):
            pid = int(self._pid_file()[0])
            return pid if _is_postmaster(pid, self.home.data) else None
        return None

    def ensure_running(self) -> None:
        """Start the server unless it runs, and return when it takes connections.

        Raises:
            EmbeddedError: it does not start.

        """
        make_sockets(self.home)
        self._make_data()
        give_up = time.monotonic() + _PATIENCE
        while True:
            found = self.running() is not None
            if not found:
                self._forget_dead()
                self._start()
            try:
                return _wait(self._is_ready, self._fault)
            except EmbeddedError as error:
                # One that was found may have been dying; after a kill -9 its last children take a moment to notice.
                if not (found or "shared memory block" in str(error)) or time.monotonic() > give_up:
                    raise
                time.sleep(_POLL)

    def shut_down(self) -> None:
        """Stop the server: fast, and if that does not help within 30 s, at once."""
        for how in (signal.SIGINT, signal.SIGQUIT):
            pid = self.running()
            if pid is None:
                break
            with suppress(ProcessLookupError, EmbeddedError):
                os.kill(pid, how)
                _wait(lambda: self.running() is None, lambda: None)
        if self._child is not None:
            self._child.wait()
        with suppress(OSError):
            self.home.sockets.rmdir()

    def leave(self) -> None:
        """Let the server run on for its other users."""
        if self._child is not None and self._child.poll() is None:
            self._child.returncode = 0  # it outlives us on purpose: no ResourceWarning

    def _make_data(self) -> None:
        data = self.home.data
        if (data / "PG_VERSION").exists():
            return
        scratch = data.with_suffix(".new")
        shutil.rmtree(scratch, ignore_errors=True)  # of an initdb that was killed
        own(scratch, self.home.account)
        extra = () if self._durable else ("--no-sync",)
        with _append(self.home.log) as log:
            code = self._run(log, "initdb", "-D", str(scratch), *_INITDB, *extra).wait()
        if code != 0:
            raise EmbeddedError(f"initdb failed with {code}:\n{self._tail()}")
        self._write_access(scratch)
        scratch.rename(data)

    def _write_access(self, data: Path) -> None:
        """Let in, by the operating system's word, only who started it: as root not even the server's own account."""
        name = "root" if self.home.account.switch else self.home.account.name
        _overwrite(data / "pg_hba.conf", "local all all peer map=gatelodge\n")
        _overwrite(data / "pg_ident.conf", f'gatelodge "{name}" {ROLE}\n')

    def _forget_dead(self) -> None:
        """Bury our own, and write a process id nobody can have over a dead server's: it may be another process's now.

        The file itself stays: by its other lines PostgreSQL makes sure that the dead server's children are gone.
        """
        if self._child is not None:
            self._child.kill()
            self._child.wait()
        for name in (_SOCKET, f"{_SOCKET}.lock"):  # the folder is this instance's alone
            (self.home.sockets / name).unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            _overwrite(self.home.data / "postmaster.pid", "\n".join([_NO_PID, *self._pid_file()[1:], ""]))

    def _start(self) -> None:
        home = self.home
        settings = ["listen_addresses=", f"unix_socket_directories={home.sockets}", "unix_socket_permissions=0700"]
        settings += [] if self._durable else _FAST_AND_LOOSE
        with _append(home.log) as log:
            arguments = [part for setting in settings for part in ("-c", setting)]
            self._child = self._run(log, "postgres", "-D", str(home.data), *arguments)

    def _run(self, log: IO[bytes], program: str, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603 - our binaries, our arguments, no shell
            self.home.account.command(str(self.home.binaries / program), *arguments),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=_ENVIRONMENT,
            start_new_session=True,
            umask=0o077,
        )

    def _pid_file(self) -> list[str]:
        # As root: the server's account could have put a link or a pipe there.
        handle = os.open(self.home.data / "postmaster.pid", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle) as stream:
            return stream.read(_PID_FILE_LIMIT).splitlines() if stat.S_ISREG(os.fstat(handle).st_mode) else []

    def _is_ready(self) -> bool:
        with suppress(OSError, IndexError):
            return self._pid_file()[7].strip() == "ready" and self.running() is not None and self._answers()
        return False

    def _answers(self) -> bool:
        """Tell whether the server answers: one that was killed is listed, and even listens, for a moment longer."""
        with socket.socket(socket.AF_UNIX) as knock:
            knock.settimeout(_ANSWER_SECONDS)
            knock.connect(str(self.home.sockets / _SOCKET))
            knock.sendall(_SSL_REQUEST)
            return knock.recv(1) in {b"N", b"S"}

    def _fault(self) -> str | None:
        if self._child is not None and self._child.poll() is not None:
            return f"PostgreSQL did not start (exit {self._child.returncode}):\n{self._tail()}"
        if self._child is None and self.running() is None:
            return "PostgreSQL was ending"
        return None

    def _tail(self) -> str:
        return "\n".join(self.home.log.read_text(errors="replace").splitlines()[-15:])


_INITDB = (
    f"--username={ROLE}",
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--auth=peer",
    "--no-instructions",
)


def _is_postmaster(pid: int, data: Path) -> bool:
    """Tell whether `pid` is a server on `data`, and not another process that has its number now."""
    try:
        os.kill(pid, 0)
        return os.fsencode(data) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (ProcessLookupError, PermissionError):
        return False
    except OSError:
        return True  # no /proc here: better to believe the file than to start a second server on the same data


def _append(log: Path) -> IO[bytes]:
    return os.fdopen(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600), "ab")


def _overwrite(path: Path, text: str) -> None:
    """Write an existing file in the account's folder, never through a link of its making."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW), "w") as file:
        file.write(text)


def _wait(done: Callable[[], bool], fault: Callable[[], str | None]) -> None:
    give_up = time.monotonic() + _PATIENCE
    while not done():
        if reason := fault():
            raise EmbeddedError(reason)
        if time.monotonic() > give_up:
            raise EmbeddedError(f"PostgreSQL did not do as told within {_PATIENCE:.0f} s")
        time.sleep(_POLL)
