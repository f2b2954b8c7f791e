"""The chain every call passes through, and the reason for each place in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.rpc.interceptors.access import Access
from service.rpc.interceptors.access_log import AccessLog, MethodMetrics, RpcMetrics
from service.rpc.interceptors.deadline import Deadline
from service.rpc.interceptors.errors import Errors
from service.rpc.interceptors.idempotency import Idempotency
from service.rpc.interceptors.request_id import RequestId
from service.rpc.interceptors.tracing import Tracing
from service.rpc.interceptors.validation import Validation
from service.rpc.peer import Services

if TYPE_CHECKING:
    from service.rpc.inflight import InFlight
    from service.rpc.interceptors.access import Authenticate
    from service.rpc.interceptors.layer import Layer

__all__ = [
    "Access",
    "AccessLog",
    "Deadline",
    "Errors",
    "Idempotency",
    "MethodMetrics",
    "RequestId",
    "RpcMetrics",
    "Tracing",
    "Validation",
    "chain",
]


def chain(  # noqa: PLR0913 - what each layer needs
    *,
    tracing: Tracing,
    request_id: RequestId,
    metrics: RpcMetrics,
    max_message_bytes: int,
    inflight: InFlight,
    default_deadline: float,
    authenticate: Authenticate,
    idempotency: Idempotency,
    services: Services | None = None,
) -> tuple[Layer, ...]:
    """Return the interceptors, outermost first.

    Args:
        tracing: the tracing interceptor.
        request_id: the one that makes each call known.
        metrics: where measurements go.
        max_message_bytes: the largest request.
        inflight: counts calls and ends them; shared with the drain.
        default_deadline: seconds a call with one response may take when its client does not say.
        authenticate: see `Access`.
        idempotency: the layer that knows repeated mutations.
        services: who callers with a certificate are; None where nobody is asked for one.

    """
    return (
        # Outermost, so that every refusal has a span.
        tracing,
        # Next, so that every line, error and trailer has the id.
        request_id,
        # Outside of errors, so that it sees the final code.
        AccessLog(metrics=metrics),
        # Outside of everything that can raise.
        Errors(),
        # Before any work, so that nothing is begun for a call that is too late or too much, and none waits for ever for
        # a request that does not come.
        Deadline(inflight=inflight, default_seconds=default_deadline),
        # Before the request is received: a stranger's is none of our memory, and validation tells them nothing.
        Access(authenticate=authenticate, service=(services or Services({})).principal),
        # Receives and decodes requests, so that everything further in sees valid ones only.
        Validation(max_message_bytes=max_message_bytes, inflight=inflight),
        # Innermost: compares decoded requests, and keeps the bytes of answers with the change they tell of.
        idempotency,
    )
