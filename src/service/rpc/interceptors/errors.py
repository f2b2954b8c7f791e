"""Turns whatever escapes from a call into one clean status."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import grpc.aio
import structlog

from service import call
from service.errors import DomainError, InternalError
from service.rpc.interceptors.layer import Context, Layer, Serve
from service.rpc.secrets import hide, secrets_of
from service.rpc.status import REQUEST_ID_KEY, code_for, message_of, reason_of, trailers_for
from service.telemetry.exceptions import render_exception, type_name

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from service.rpc.methods import Method

AnyError = TypeVar("AnyError", bound=BaseException)

_OF_THE_PROCESS = (GeneratorExit, KeyboardInterrupt, SystemExit)
"""What ends more than the call."""


class Errors(Layer):
    """Maps errors to statuses.

    Domain errors are told as the table says; anything else is a bug, told as INTERNAL with a fixed text and logged with
    its whole chain under the request id.

    Args:
        log: the logger, ``gatelodge.errors`` unless given.

    """

    def __init__(self, *, log: FilteringBoundLogger | None = None) -> None:
        self._log: FilteringBoundLogger = log or structlog.get_logger("gatelodge.errors")

    async def around(self, method: Method, proceed: Serve, request: Any, context: Context) -> Any:
        """Await the call and tell its errors. Dead connections pass: gRPC has dealt with them.

        A refused call returns None to the layers outside, which is no answer: they ask the context for its code.
        """
        try:
            return await proceed(request, context)
        except DomainError as error:
            refusal = _forgotten(error)
        except asyncio.CancelledError as error:
            if _really_cancelled():
                raise
            # Nobody cancelled this call. Let through, it would end without any status (grpc#29248).
            refusal = self._unexpected(method, error, context)
        except grpc.aio.AbortError as error:
            if context.done():
                _forgotten(error)
                return None
            refusal = self._unexpected(method, error, context)  # another call's: this one has no status yet
        except grpc.aio.InternalError:
            raise
        except _OF_THE_PROCESS:
            raise
        except BaseException as error:  # noqa: BLE001 - also what libraries in Rust raise when they panic
            refusal = self._unexpected(method, error, context)
        # Not within the handlers: gRPC logs what may go wrong here, and would log there what it came from as well.
        return await _refuse(context, refusal)

    def _unexpected(self, method: Method, error: BaseException, context: Context) -> DomainError:
        """Log a bug. What cannot be logged must not change the answer."""
        with suppress(Exception):
            current = call.current()
            if current is not None:
                current.facts["exception"] = type_name(error)
            self._log.error(
                "unexpected exception",
                rpc_method=method.name,
                request_id=current.request_id if current else None,
                exception=render_exception(error, clean=partial(hide, secrets=secrets_of(context))),
            )
        _forgotten(error)
        return InternalError()


def _really_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _refuse(context: Context, error: DomainError) -> None:
    """Send the status."""
    current = call.current()
    if current is not None:
        current.facts["reason"] = reason_of(error)
    trailers = trailers_for(error, current.request_id if current else "")
    kept = tuple(pair for pair in context.trailing_metadata() or () if pair[0] != REQUEST_ID_KEY)
    try:
        await context.abort(code_for(type(error)), message_of(error), kept + trailers)
    except grpc.aio.AbortError as aborted:
        # gRPC keeps it with the call, and raises it anew as soon as the handler has returned: it need not pass here.
        _forgotten(aborted)


def _forgotten(error: AnyError) -> AnyError:
    """Return the error without the traces of where it, and what it came from, was raised.

    Their frames know the call, the request and the password in it, and often the error itself: a circle, and all of it
    would stay in memory until the garbage collector comes by.
    """
    left, seen = deque[BaseException | None]([error]), set[int]()
    while left:
        one = left.popleft()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            left += (one.__cause__, one.__context__, *(one.exceptions if isinstance(one, BaseExceptionGroup) else ()))
    return error
