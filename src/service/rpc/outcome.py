"""How a call ended, as far as the layers outside the error mapping can see it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import grpc.aio

if TYPE_CHECKING:
    from service.rpc.interceptors.layer import Context

FAULTS = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS})
"""The server's own bugs: the only codes worth an ERROR."""

TROUBLE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
"""Expected, but an operator may want to know."""


_A_LITTLE = 0.05
"""Seconds before the deadline in which a cancellation is taken for the client's own word of it."""


def code_of(context: Context, error: BaseException | None) -> grpc.StatusCode:
    """Return the status the caller got, or would have got had it waited, given what escaped from the call.

    Nothing escapes from a call that was answered, or refused by `Errors`. To gRPC no code is success.

    gRPC cancels the task both when the client cancels and when the client's deadline passes; time tells them apart. A
    client notices its deadline itself, and its word of it may be here a little before the time.
    """
    if error is None:
        code = context.code()
        return grpc.StatusCode.OK if code is None else _as_code(code)
    if isinstance(error, asyncio.CancelledError | grpc.aio.InternalError | GeneratorExit):
        left = context.time_remaining()
        return grpc.StatusCode.CANCELLED if left is None or left > _A_LITTLE else grpc.StatusCode.DEADLINE_EXCEEDED
    return grpc.StatusCode.UNKNOWN


def _as_code(code: grpc.StatusCode | int) -> grpc.StatusCode:
    """A servicer may have set a bare number."""
    if isinstance(code, grpc.StatusCode):
        return code
    return next((known for known in grpc.StatusCode if known.value[0] == code), grpc.StatusCode.OK)
