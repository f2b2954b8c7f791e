"""Bytes to request messages: every way they can be bad is a typed error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from service.errors import FieldViolation, InvalidFields, MalformedRequest, MessageTooLarge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_NUL = "must not contain the character NUL"


class Decoder:
    """Decodes one method's requests.

    Args:
        deserialize: the generated one, which raises `DecodeError` for broken encoding, bad UTF-8 and nesting over 100.
        max_bytes: the size over which a request is refused, after decompression.

    """

    __slots__ = ("_deserialize", "_max_bytes")

    def __init__(self, deserialize: Callable[[bytes], Any], max_bytes: int) -> None:
        self._deserialize = deserialize
        self._max_bytes = max_bytes

    def __call__(self, raw: bytes) -> Any:
        """Return the message.

        Raises:
            MessageTooLarge: there are more than `max_bytes`.
            MalformedRequest: the bytes are no such message.
            InvalidFields: a string holds NUL, which PostgreSQL cannot store and C libraries stop at.

        """
        if len(raw) > self._max_bytes:
            raise MessageTooLarge(self._max_bytes)
        message = self._decode(raw)
        # Strings are walked only when there is a NUL byte at all: zero bytes are rare outside of numbers.
        if b"\0" in raw and isinstance(message, Message):
            _refuse_nul(message)
        return message

    def _decode(self, raw: bytes) -> Any:
        try:
            return self._deserialize(raw)
        except DecodeError:
            raise MalformedRequest from None


def _refuse_nul(message: Message) -> None:
    violations = tuple(FieldViolation(path, _NUL) for path, text in _strings(message, "") if "\0" in text)
    if violations:
        raise InvalidFields(*violations)


def _strings(message: Message, prefix: str) -> Iterator[tuple[str, str]]:
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        if field.type == FieldDescriptor.TYPE_STRING or field.message_type is not None:
            for place, item in _items(field, value, path):
                yield from _of(item, place)


def _items(field: FieldDescriptor, value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the values of a field with their paths; a map's keys are values, too, but never part of a path."""
    if not field.is_repeated:
        yield path, value
    elif hasattr(value, "items"):
        for index, (key, item) in enumerate(value.items()):
            yield f"{path}[{index}].key", key
            yield f"{path}[{index}].value", item
    else:
        yield from ((f"{path}[{index}]", item) for index, item in enumerate(value))


def _of(item: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(item, str):
        yield path, item
    elif isinstance(item, Message):
        yield from _strings(item, f"{path}.")
