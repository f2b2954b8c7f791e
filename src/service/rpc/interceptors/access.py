"""Lets in whom a method's rule admits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service import call
from service.errors import CredentialsInvalid
from service.rpc.interceptors.layer import Context, Handler, Layer, Serve

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.access import Principal
    from service.rpc.methods import Method

_MAX_CHARACTERS = 8192
_SCHEME = "bearer "


class Access(Layer):
    """Authenticates the caller and applies the method's rule, before the request is even received.

    Whether a caller may touch the user a request names is decided as soon as the request is there, by `Validation`. On
    public methods nothing is looked at, not even a credential that came along.

    Args:
        authenticate: turns a token's text into who holds it; raises `CredentialsInvalid`. Must not block.
        service: who a caller without a token is by the name in their certificate; None for strangers.

    """

    def __init__(
        self,
        *,
        authenticate: Callable[[str], Principal],
        service: Callable[[str | None], Principal | None] = lambda _: None,
    ) -> None:
        super().__init__()
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
        principal = None if token is None else self._authenticate(token)
        current = call.current()
        if current is not None:
            if token is None:
                principal = self._service(current.peer_identity)
            current.principal = principal
        method.rule.admit(principal)
        return await proceed(request, context)


def _token(context: Context) -> str | None:
    """Return the bearer token; None when there is no credential at all.

    Raises:
        CredentialsInvalid: there is more than one, or one that is no bearer token.

    """
    values = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
    if not values:
        return None
    value = values[0]
    if len(values) > 1 or not isinstance(value, str) or len(value) > _MAX_CHARACTERS or not value.isascii():
        raise CredentialsInvalid
    if value[: len(_SCHEME)].lower() != _SCHEME or not value.isprintable():
        raise CredentialsInvalid
    return value[len(_SCHEME) :].strip(" ")
