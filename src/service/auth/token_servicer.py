"""TokenService: proto to values, one call, values to proto."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatelodge.auth.v1 import tokens_pb2, tokens_pb2_grpc

if TYPE_CHECKING:
    from service.auth.keys import KeyRing
    from service.rpc.context import Context


class TokenServicer(tokens_pb2_grpc.TokenServiceServicer):
    """Serves ``gatelodge.auth.v1.TokenService``."""

    def __init__(self, *, keys: KeyRing) -> None:
        self._keys = keys

    async def GetJwks(self, _: tokens_pb2.GetJwksRequest, __: Context) -> tokens_pb2.GetJwksResponse:
        """Return the keys that verify access tokens."""
        return tokens_pb2.GetJwksResponse(
            keys=[tokens_pb2.JsonWebKey(**key.jwk()) for key in self._keys.verifying.values()]
        )
