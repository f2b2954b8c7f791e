"""Server reflection whose descriptors carry JSON names.

Python's generated code drops them, and grpcurl, which takes them from there, would then print ``access_token`` in one
release and ``accessToken`` in the next. Otherwise this is the library's servicer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from grpc_reflection.v1alpha import reflection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.rpc.context import Context


class ReflectionServicer(reflection.aio.ReflectionServicer):  # type: ignore[misc]  # the library is untyped
    """``grpc.reflection.v1alpha.ServerReflection``; ``v1`` is the same on the wire."""

    async def ServerReflectionInfo(  # noqa: N802 - named by the proto
        self, request_iterator: AsyncIterator[Any], unused_context: Context
    ) -> AsyncIterator[Any]:
        """Answer each question with the library's answer, JSON names put in."""
        async for answer in super().ServerReflectionInfo(request_iterator, unused_context):
            files = answer.file_descriptor_response.file_descriptor_proto
            for index, file in enumerate(files):
                files[index] = _with_json_names(file)
            yield answer


def _with_json_names(serialized: bytes) -> bytes:
    file = FileDescriptorProto.FromString(serialized)
    for message in file.message_type:
        _name_fields(message, f"{file.package}.{message.name}".lstrip("."))
    return file.SerializeToString()


def _name_fields(message: DescriptorProto, full_name: str) -> None:
    fields = descriptor_pool.Default().FindMessageTypeByName(full_name).fields_by_name
    for field in message.field:
        field.json_name = fields[field.name].json_name
    for nested in message.nested_type:
        _name_fields(nested, f"{full_name}.{nested.name}")
