"""Lets in whom a method's rule admits."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast

from service import call
from service.access import Principal
from service.errors import CredentialsInvalid
from service.rpc.interceptors.layer import Context, Handler, Layer, Serve
from service.rpc.metadata import headers_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from service.rpc.methods import Method

    Authenticate = Callable[[str], Principal | Awaitable[Principal]]

_MAX_CHARACTERS = 8192
_SCHEME = "bearer "


class Access(Layer):
    """Authenticates the caller and applies the method's rule, before the request is even received.

    Whether a caller may touch the user a request names is decided as soon as the request is there, by `Validation`. On
    public methods nothing is looked at, not even a credential that came along.

    A stream lasts, and what its caller may do does not: it is asked again before each message.

    Args:
        authenticate: turns a token's text into who holds it, at once or when awaited; raises `CredentialsInvalid`.
        service: who a caller without a token is by the name in their certificate; None for strangers.

    """

    def __init__(
        self, *, authenticate: Authenticate, service: Callable[[str | None], Principal | None] = lambda _: None
    ) -> None:
        self._authenticate = authenticate
        self._service = service

    def bind(self, handler: Handler) -> Handler:
        """Public methods are not wrapped at all."""
        return handler if handler.method.public else super().bind(handler)

    async def around(self, method: Method, proceed: Serve, request: Any, context: Context) -> Any:
        """Apply the rule as far as it does not need the request.

        Raises:
            CredentialsMissing: nobody calls.
            CredentialsInvalid: the credential is no good.
            PermissionMissing: the caller may not.

        """
        token = _token(context)
        await self._admit(method, token)
        if method.server_streaming:
            context = cast("Context", _Guarded(context, partial(self._admit, method, token)))
        return await proceed(request, context)

    async def _admit(self, method: Method, token: str | None) -> None:
        current = call.current()
        if token is None:
            principal = self._service(current.peer_identity if current else None)
        else:
            found = self._authenticate(token)
            principal = found if isinstance(found, Principal) else await found
        if current is not None:
            current.principal = principal
        method.rule.admit(principal)


class _Guarded:
    """The context of a stream: each message goes only to a caller who may still have it."""

    def __init__(self, context: Context, admit: Callable[[], Awaitable[None]]) -> None:
        self._context = context
        self._admit = admit

    async def write(self, message: Any) -> None:
        """Send a message. Raises what admitting the caller does."""
        await self._admit()
        await self._context.write(message)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def _token(context: Context) -> str | None:
    """Return the bearer token; None when there is no credential at all.

    Raises:
        CredentialsInvalid: there is more than one, or one that is no bearer token.

    """
    values = headers_of(context).values("authorization")
    if not values:
        return None
    value = values[0]
    if len(values) > 1 or not isinstance(value, str) or len(value) > _MAX_CHARACTERS or not value.isascii():
        raise CredentialsInvalid
    if value[: len(_SCHEME)].lower() != _SCHEME or not value.isprintable():
        raise CredentialsInvalid
    return value[len(_SCHEME) :].strip(" ")
