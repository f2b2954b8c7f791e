"""What a call's headers say, read once: gRPC makes them anew each time it is asked, for some microseconds."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from service.rpc.context import Context

Metadata: TypeAlias = "tuple[tuple[str, str | bytes], ...]"

_read: ContextVar[tuple[Any, Metadata]] = ContextVar("gatelodge_metadata")


def metadata_of(context: Context) -> Metadata:
    """Return the keys and values of the call's headers, in the order in which they came."""
    known = _read.get(None)
    if known is not None and known[0] is context:
        return known[1]
    metadata: Any = context.invocation_metadata() or ()
    _read.set((context, metadata))
    return metadata  # type: ignore[no-any-return]  # gRPC's stubs say less than is known
