"""Receives requests, decodes them and checks them against the constraints declared in their protos."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import grpc.aio
from buf.validate import validate_pb2
from protovalidate import Validator

from service import call
from service.access import Kind
from service.errors import FieldViolation, InvalidFields, MalformedRequest
from service.rpc.decoding import Decoder
from service.rpc.interceptors.layer import Context, Handler, Layer
from service.rpc.secrets import remember

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from protovalidate import Violation

    from service.rpc.inflight import InFlight
    from service.rpc.methods import Method

    Take = Callable[[bytes], Any]

_KEY_CHARACTERS = 40
_MOMENT = 0.005


class Validation(Layer):
    """Hands servicers valid requests only. Descriptions say what a rule is, never what the value was.

    A single request is the first message that comes; there is no telling whether it is the only one without a second
    read, for which every call would pay.

    Args:
        max_message_bytes: the largest request.
        inflight: is told when a single request is there.

    """

    def __init__(self, *, max_message_bytes: int, inflight: InFlight) -> None:
        self._arrived = inflight.arrived
        self._max_message_bytes = max_message_bytes
        self._validator = Validator()

    def bind(self, handler: Handler) -> Handler:
        """Receive what the method's kind expects. Raises what `_taker` does, and `MalformedRequest` for no message."""
        take, proceed, arrived = self._taker(handler), handler.serve, self._arrived

        async def one(_requests: Any, context: Context) -> Any:
            raw = await context.read()
            if raw is grpc.aio.EOF:
                await _really_ended()
                raise MalformedRequest
            arrived()
            return await proceed(take(raw), context)

        async def many(requests: AsyncIterator[bytes], context: Context) -> Any:
            return await proceed(_each(requests, take), context)

        return Handler(handler.method, many if handler.method.client_streaming else one, handler.decode)

    def _taker(self, handler: Handler) -> Take:
        """Return what makes a valid message from bytes.

        It raises what `Decoder` does, `UserNotFound` for a user whom the caller may not touch, and `InvalidFields` with
        every violation, in this order.
        """
        method, decode, violations_of = (
            handler.method,
            Decoder(handler.decode, self._max_message_bytes),
            self._validator.collect_violations,
        )
        targeted = method.rule.kind is Kind.SELF_OR
        constrained = method.request_class is not None and _has_rules(method.request_class.DESCRIPTOR)

        def take(raw: bytes) -> Any:
            message = decode(raw)
            remember(message)
            if targeted:
                _admit_target(method, message)
            if constrained and (violations := violations_of(message)):
                raise InvalidFields(*map(_violation, violations))
            return message

        return take


async def _each(requests: AsyncIterator[bytes], take: Take) -> AsyncIterator[Any]:
    async for raw in requests:
        yield take(raw)
    await _really_ended()


async def _really_ended() -> None:
    """Wait a moment for the call's cancellation.

    gRPC tells the end of a request for that as well, a little earlier, and what a client broke off must not be taken
    for complete.
    """
    await asyncio.sleep(_MOMENT)


def _admit_target(method: Method, message: Any) -> None:
    current = call.current()
    method.rule.admit_target(current.principal if current else None, message.user_id)


def _has_rules(message: Any, seen: frozenset[str] = frozenset()) -> bool:
    """Tell whether a message, or one inside of it, has any constraint; without, nobody need ask."""
    if message.full_name in seen:
        return False
    seen |= {message.full_name}
    return (
        message.GetOptions().HasExtension(validate_pb2.message)
        or any(oneof.GetOptions().HasExtension(validate_pb2.oneof) for oneof in message.oneofs)
        or any(field.GetOptions().HasExtension(validate_pb2.field) for field in message.fields)
        or any(_has_rules(field.message_type, seen) for field in message.fields if field.message_type is not None)
    )


def _violation(violation: Violation) -> FieldViolation:
    proto = violation.proto
    elements = proto.field.elements if proto.field else ()
    path = ".".join(_element(element) for element in elements)
    return FieldViolation(path, proto.message or proto.rule_id or "is not valid")


def _element(element: Any) -> str:
    """Return ``name``, ``name[2]`` or ``name["key"]``."""
    subscript = element.subscript
    if subscript is None:
        return str(element.field_name)
    value = subscript.value
    return f"{element.field_name}[{json.dumps(value[:_KEY_CHARACTERS]) if isinstance(value, str) else value}]"
