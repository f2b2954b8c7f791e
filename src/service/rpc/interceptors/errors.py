"""Turns whatever escapes from a call into one clean status."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

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

        To the layers outside a refused call returns, as others do: they ask the context for its code.
        """
        try:
            return await proceed(request, context)
        except DomainError as error:
            await _refuse(context, error)
        except asyncio.CancelledError as error:
            if _really_cancelled():
                raise
            # Nobody cancelled this call. Let through, it would end without any status (grpc#29248).
            await _refuse(context, self._unexpected(method, error, context))
        except grpc.aio.AbortError as aborted:
            _forget(aborted)
        except grpc.aio.InternalError:
            raise
        except _OF_THE_PROCESS:
            raise
        except BaseException as error:  # noqa: BLE001 - also what libraries in Rust raise when they panic
            await _refuse(context, self._unexpected(method, error, context))

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
        _forget(aborted)


def _forget(aborted: grpc.aio.AbortError) -> None:
    """Forget where the call was aborted. gRPC raises the error anew when the handler has returned; it need not pass.

    gRPC keeps it with the call, and its traceback's frames know the call, the request and the password in it: a circle,
    and all of it would stay until the garbage collector comes by.
    """
    aborted.__traceback__ = aborted.__context__ = None
