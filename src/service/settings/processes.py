"""The environment that gRPC and the processes we start find."""

from __future__ import annotations

import os


def quiet_grpc() -> None:
    """Keep gRPC, before it is imported, from writing to standard error past every logger.

    It says there that a stranger's handshake failed, a line for each, and that a listener is closed, which a replaced
    worker does on purpose. ``GRPC_VERBOSITY`` in the environment wins.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def environment() -> dict[str, str]:
    """Return our own environment, for workers."""
    return dict(os.environ)
