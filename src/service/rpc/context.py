"""What a servicer's method is handed beside the request. Ours are handed it and leave it alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import grpc.aio

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
