"""The safety net under every log line: makes any value plain, bounded and free of secrets. Features still pass none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from datetime import date, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from itertools import islice
from pathlib import PurePath
from uuid import UUID

from pydantic import SecretBytes, SecretStr

from service.telemetry.exceptions import REDACTED, describe, scrub

_SECRET_PARTS = ("password", "passwd", "secret", "authorization", "pepper", "private_key", "api_key", "apikey")
_SECRET_ENDINGS = frozenset({"token", "tokens", "jwt", "cookie", "bearer", "credential", "credentials", "otp", "totp"})
_TEXT = 8192
_ITEMS = 100
_DEPTH = 5
_WIDEST_INT = 2**63


@lru_cache(maxsize=1024)
def is_secret(name: str) -> bool:
    """Tell whether a field of that name holds a secret: ``new_password``, ``refresh-token``, ``Authorization``."""
    plain = name.lower().replace("-", "_")
    return any(part in plain for part in _SECRET_PARTS) or plain.rsplit("_", 1)[-1] in _SECRET_ENDINGS


def safe_fields(fields: Mapping[object, object], depth: int = 0) -> dict[str, object]:
    """Return `fields` with plain values, the secret ones replaced."""
    return {
        name: REDACTED if is_secret(name) and value is not None else safe(value, depth)
        for name, value in ((_text(str(key)), value) for key, value in islice(fields.items(), _ITEMS))
    }


def safe(value: object, depth: int = 0) -> object:
    """Return `value` as something JSON has. What is not known to be harmless becomes its type's name alone."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, Enum):
        return safe(value.value, depth)
    if isinstance(value, int):
        return value if -_WIDEST_INT <= value < _WIDEST_INT else str(value)[:_TEXT]
    if isinstance(value, str):
        return _text(str(value))
    return _compound(value, depth + 1)


def _compound(value: object, depth: int) -> object:
    if isinstance(value, SecretStr | SecretBytes):
        return REDACTED
    if isinstance(value, BaseException):
        return describe(value)
    if isinstance(value, date | timedelta | UUID | Decimal | PurePath):
        return _text(str(value))
    if isinstance(value, Mapping) and depth < _DEPTH:
        return safe_fields(value, depth)
    if isinstance(value, list | tuple | AbstractSet) and depth < _DEPTH:
        items: Iterable[object] = islice(value, _ITEMS)
        return [safe(item, depth) for item in items]
    # A message's or a dataclass's repr prints its fields, passwords among them.
    return f"<{type(value).__qualname__}>"


def _text(text: str) -> str:
    if len(text) > _TEXT:
        text = text[:_TEXT] + "…"
    if not text.isascii():  # a lone surrogate is no text to any encoder
        text = re.sub(r"[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", text)
    return scrub(text)
