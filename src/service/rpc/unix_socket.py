"""Listening on a Unix socket: who may connect is the file's mode; a file left behind is no obstacle."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from service.errors import CannotRun
from service.rpc.server import listen

if TYPE_CHECKING:
    import grpc
    import grpc.aio

_OWNER_ONLY = 0o177
_PATIENCE = 1.0


def listen_unix(server: grpc.aio.Server, path: str, mode: int, credentials: grpc.ServerCredentials | None) -> str:
    """Bind the socket `path` with the file mode `mode`; return the address, ``unix:/path``.

    Raises:
        CannotRun: somebody listens there, it is another kind of file, or it cannot be made.

    """
    _check_free(Path(path))
    # gRPC removes whatever file is there. Nobody but the owner can connect before the mode is set.
    before = os.umask(_OWNER_ONLY)
    try:
        listen(server, f"unix:{path}", credentials)
        Path(path).chmod(mode)
    except OSError as error:
        raise CannotRun(f"cannot listen on unix:{path}: {error.strerror}") from error
    finally:
        os.umask(before)
    return f"unix:{path}"


def _check_free(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise CannotRun(f"cannot listen on unix:{path}: a file that is no socket is there")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
            knock.settimeout(_PATIENCE)
            knock.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        return  # nothing there, or left behind by a process that was killed
    except OSError as error:
        raise CannotRun(f"cannot listen on unix:{path}: {error.strerror}") from error
    raise CannotRun(f"cannot listen on unix:{path}: another process does")
