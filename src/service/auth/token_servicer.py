"""TokenService: proto to values, one call, values to proto."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatelodge.auth.v1 import tokens_pb2, tokens_pb2_grpc
from google.protobuf.timestamp_pb2 import Timestamp

if TYPE_CHECKING:
    from service.auth.introspection import Introspected, Introspection
    from service.auth.key_ring import KeyRing
    from service.rpc.context import Context


class TokenServicer(tokens_pb2_grpc.TokenServiceServicer):
    """Serves ``gatelodge.auth.v1.TokenService``."""

    def __init__(self, *, keys: KeyRing, introspection: Introspection) -> None:
        self._keys = keys
        self._introspection = introspection

    async def IntrospectToken(
        self, request: tokens_pb2.IntrospectTokenRequest, _: Context
    ) -> tokens_pb2.IntrospectTokenResponse:
        """Tell whether a token is good now."""
        return tokens_pb2.IntrospectTokenResponse(introspection=await self._look(request.token))

    async def BatchIntrospectTokens(
        self, request: tokens_pb2.BatchIntrospectTokensRequest, _: Context
    ) -> tokens_pb2.BatchIntrospectTokensResponse:
        """Tell it of several tokens."""
        return tokens_pb2.BatchIntrospectTokensResponse(
            introspections=[await self._look(token) for token in request.tokens]
        )

    async def RevokeToken(self, request: tokens_pb2.RevokeTokenRequest, _: Context) -> tokens_pb2.RevokeTokenResponse:
        """End the session of a token."""
        await self._introspection.revoke(request.token)
        return tokens_pb2.RevokeTokenResponse()

    async def GetJwks(self, _: tokens_pb2.GetJwksRequest, __: Context) -> tokens_pb2.GetJwksResponse:
        """Return the keys that verify access tokens."""
        return tokens_pb2.GetJwksResponse(
            keys=[tokens_pb2.JsonWebKey(**key.jwk()) for key in self._keys.verifying.values()]
        )

    async def _look(self, token: str) -> tokens_pb2.TokenIntrospection:
        found = await self._introspection.look(token)
        return tokens_pb2.TokenIntrospection() if found is None else _to_proto(found)


def _to_proto(found: Introspected) -> tokens_pb2.TokenIntrospection:
    return tokens_pb2.TokenIntrospection(
        active=True,
        token_type=found.token_type,
        iss=found.issuer,
        aud=found.audience,
        sub=found.subject,
        client_id=found.client_id,
        jti=found.token_id,
        sid=found.session_id,
        roles=found.roles,
        exp=Timestamp(seconds=found.expire_time),
        iat=Timestamp(seconds=found.issue_time),
        nbf=None if found.begin_time is None else Timestamp(seconds=found.begin_time),
        ver=found.version,
    )
