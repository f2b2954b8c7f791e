"""SigningKeyService: proto to values, one call, values to proto."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatelodge.auth.v1 import keys_pb2, keys_pb2_grpc

from service.auth.key_store import KeyState
from service.rpc.timestamps import timestamp

if TYPE_CHECKING:
    from service.auth.key_rotation import KeyRotation
    from service.auth.key_store import KeyRecord
    from service.rpc.context import Context

_STATES = {
    KeyState.STAGED: keys_pb2.SigningKey.STATE_STAGED,
    KeyState.ACTIVE: keys_pb2.SigningKey.STATE_ACTIVE,
    KeyState.RETIRED: keys_pb2.SigningKey.STATE_RETIRED,
}


class SigningKeyServicer(keys_pb2_grpc.SigningKeyServiceServicer):
    """Serves ``gatelodge.auth.v1.SigningKeyService``."""

    def __init__(self, *, rotation: KeyRotation) -> None:
        self._rotation = rotation

    async def ListSigningKeys(
        self, _: keys_pb2.ListSigningKeysRequest, __: Context
    ) -> keys_pb2.ListSigningKeysResponse:
        """Return the keys that verify."""
        return keys_pb2.ListSigningKeysResponse(signing_keys=map(_to_proto, await self._rotation.keys()))

    async def StageSigningKey(
        self, request: keys_pb2.StageSigningKeyRequest, _: Context
    ) -> keys_pb2.StageSigningKeyResponse:
        """Make the next key."""
        staged = await self._rotation.stage(request.algorithm)
        return keys_pb2.StageSigningKeyResponse(signing_key=_to_proto(staged))

    async def ActivateSigningKey(
        self, request: keys_pb2.ActivateSigningKeyRequest, _: Context
    ) -> keys_pb2.ActivateSigningKeyResponse:
        """Have the staged key sign."""
        active = await self._rotation.activate(request.key_id, force=request.force)
        return keys_pb2.ActivateSigningKeyResponse(signing_key=_to_proto(active))

    async def RetireSigningKey(
        self, request: keys_pb2.RetireSigningKeyRequest, _: Context
    ) -> keys_pb2.RetireSigningKeyResponse:
        """Remove a key that must not verify any more."""
        removed = await self._rotation.remove(request.key_id)
        return keys_pb2.RetireSigningKeyResponse(signing_key=_to_proto(removed))


def _to_proto(key: KeyRecord) -> keys_pb2.SigningKey:
    return keys_pb2.SigningKey(
        id=key.kid,
        algorithm=key.algorithm,
        state=_STATES[key.state],
        create_time=timestamp(key.create_time),
        activate_time=timestamp(key.activate_time),
        retire_time=timestamp(key.retire_time),
    )
