"""Runs ``gatelodge`` with a server that breaks at the first GetServerInfo; gRPC takes no call at all after that."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpc._cython import cygrpc

from service import cli
from service.rpc import intake

if TYPE_CHECKING:
    from service.rpc.interceptors.layer import Handler

COMMAND = (sys.executable, "-m", "tests.app.deaf")
ENVIRONMENT = {"PYTHONPATH": str(Path(__file__).parents[2])}
_begin = intake._CoreServer._begin


def begin(self: Any, path: str, handler: Handler, call: Any) -> None:
    if path.endswith("/GetServerInfo"):
        raise cygrpc.InternalError("as gRPC says when it cannot ask for a call")
    _begin(self, path, handler, call)


if __name__ == "__main__":
    intake._CoreServer._begin = begin  # type: ignore[method-assign]  # the fault itself
    sys.exit(cli.main())
