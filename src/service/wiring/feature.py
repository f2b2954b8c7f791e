"""What a feature brings to the service: RPCs, jobs, and tasks beside the calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    import grpc.aio

    from service.jobs import Job

AddService: TypeAlias = "Callable[[grpc.aio.Server], None]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """What one feature brings."""

    services: Mapping[str, AddService] = field(default_factory=dict)
    """By its full name what adds each service to a server."""
    jobs: tuple[Job, ...] = ()
    """What is done now and then, once in the whole cluster."""
    tasks: Mapping[str, Callable[[], Awaitable[None]]] = field(default_factory=dict)
    """What runs beside the calls, by its name in logs and metrics."""
