"""What a call brought that no log may hold, and how to take it out of a text."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.rpc.interceptors.layer import Context

_SHORTEST = 4
"""Shorter values would take ordinary words out of a text, and cannot be kept secret anyway."""


_request: ContextVar[Any] = ContextVar("gatelodge_request", default=None)


def remember(message: Any) -> None:
    """Keep the call's latest request message, in case something quotes it."""
    _request.set(message)


def secrets_of(context: Context) -> frozenset[str]:
    """Return the fields marked ``debug_redact`` in the call's latest request message, and the credential.

    Meant for the rare call that failed by a bug.
    """
    credentials = (v for key, v in context.invocation_metadata() or () if key in {"authorization", "x-api-key"})
    found = {part for value in credentials if isinstance(value, str) for part in value.split()}
    message = _request.get()
    if isinstance(message, Message):
        found.update(_redacted(message))
    return frozenset(secret for secret in found if len(secret) >= _SHORTEST)


def hide(text: str, secrets: frozenset[str]) -> str:
    """Return `text` with each of `secrets` replaced, longest first."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "<redacted>")
    return text


def _redacted(message: Message) -> Iterator[str]:
    for field, value in message.ListFields():
        items = value.values() if hasattr(value, "values") else value if field.is_repeated else (value,)
        for item in items:
            if isinstance(item, Message):
                yield from _redacted(item)
            elif isinstance(item, str) and field.GetOptions().debug_redact:
                yield item
