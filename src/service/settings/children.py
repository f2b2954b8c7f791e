"""The environment of processes that the service starts."""

from __future__ import annotations

import os


def environment() -> dict[str, str]:
    """Return our own, and gRPC told to be quiet unless it was told otherwise.

    It writes to standard error past every logger, and says there that a listener is closed, which a worker that is
    replaced does on purpose.
    """
    return {"GRPC_VERBOSITY": "NONE", **os.environ}
