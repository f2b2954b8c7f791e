"""Makes a repeated mutation change nothing and answers it as the first time (AIP-155).

A method mutates if its request has a string field ``request_id``: that is all it takes. Servicers and rules know
nothing of it. The answer is kept in the transaction of the change, see ``service.db.idempotency``.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any
from uuid import UUID

from google.protobuf.descriptor import FieldDescriptor

from service import call
from service.call import Answered, Mutation, RequestKey
from service.errors import DomainError, RequestIdReused, Retryable
from service.rpc.interceptors.layer import Context, Handler, Layer, Serve

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from google.protobuf.message import Message

    from service.rpc.methods import Method

FIELD = "request_id"

_HOPELESS = (RequestIdReused, Retryable)
"""Failures after which no answer can have appeared, or none can be asked for."""


class Idempotency(Layer):
    """Replays the answers of mutations that were made before, and keeps those of the others.

    Args:
        find: returns the answer kept for a key, or None; raises `RequestIdReused`.
        secret: the key of the fingerprints. Requests hold passwords, and a plain hash of one can be guessed.

    """

    def __init__(self, *, find: Callable[[RequestKey], Awaitable[bytes | None]], secret: bytes) -> None:
        self._find = find
        self._secret = secret

    def bind(self, handler: Handler) -> Handler:
        """Only mutations are wrapped."""
        return super().bind(handler) if mutates(handler.method) else handler

    async def around(self, method: Method, proceed: Serve, request: Any, context: Context) -> Any:
        """Serve the call, or answer it as before.

        Raises:
            RequestIdReused: the caller made another request under this id.

        """
        current = call.current()
        if current is None:
            raise RuntimeError("a mutation was called outside of a call")
        key = self._key(method, current, request) if request.request_id else None
        current.mutation = Mutation(key)
        if key is None:
            return await proceed(request, context)
        stored = await self._find(key)
        if stored is not None:
            return _replayed(current, stored)
        try:
            return await _commit(current.mutation, await proceed(request, context))
        except Answered as before:
            return _replayed(current, before.answer)
        except DomainError as error:
            # What a repeat finds changed may be the first one's doing: ChangePassword's old password is wrong now.
            await _roll_back(current.mutation)
            stored = None if isinstance(error, _HOPELESS) else await self._find(key)
            if stored is None:
                raise
            return _replayed(current, stored)
        finally:
            await _roll_back(current.mutation)

    def _key(self, method: Method, current: call.Call, request: Message) -> RequestKey:
        fingerprint = self._fingerprint(method, request)
        # Strangers are no one caller: one must not learn of, or be refused for, what another sent.
        caller = current.principal.subject if current.principal else f"anonymous:{fingerprint.hex()}"
        return RequestKey(caller, UUID(getattr(request, FIELD)), method.name, fingerprint)

    def _fingerprint(self, method: Method, request: Message) -> bytes:
        """Return what tells the request from others, whatever its id."""
        copy = type(request)()
        copy.CopyFrom(request)
        copy.ClearField(FIELD)
        content = copy.SerializeToString(deterministic=True)
        return hmac.digest(self._secret, method.name.encode() + b"\0" + content, "sha256")


def mutates(method: Method) -> bool:
    """Tell whether the method takes a ``request_id``. Streams do not mutate."""
    if method.request_class is None or method.client_streaming or method.server_streaming:
        return False
    field = method.request_class.DESCRIPTOR.fields_by_name.get(FIELD)
    return field is not None and field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated


async def _commit(mutation: Mutation, answer: bytes) -> bytes:
    """Keep the answer with the change. Nothing is kept where nothing was changed (``validate_only``)."""
    transaction, mutation.transaction = mutation.transaction, None
    if transaction is not None:
        await transaction.commit(answer)
    return answer


async def _roll_back(mutation: Mutation) -> None:
    """Undo what was not committed: the call failed, or was cancelled, after the change."""
    transaction, mutation.transaction, mutation.begun = mutation.transaction, None, False
    if transaction is not None:
        await transaction.roll_back()


def _replayed(current: call.Call, answer: bytes) -> bytes:
    current.facts["replayed"] = True
    return answer
