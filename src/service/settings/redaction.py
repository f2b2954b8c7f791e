"""The settings for people's eyes: ``gatelodge config show``."""

from __future__ import annotations

import re

from pydantic import BaseModel, SecretStr

REDACTED = "[redacted]"

_SHOWABLE_URL = re.compile(
    r"(?P<head>postgres(?:ql)?://[^:@/?#]*)(?::[^@/?#]*)?(?P<tail>@[^@/?#]*(?:/[^@/?#]*)?)(?:\?.*)?"
)


def redacted(section: BaseModel) -> dict[str, object]:
    """Return the settings as plain values with every secret, and the password in a URL, hidden."""
    return {name: _shown(value) for name, value in section}


def _shown(value: object) -> object:
    if isinstance(value, BaseModel):
        return redacted(value)
    if isinstance(value, SecretStr):
        return _url_without_password(value.get_secret_value())
    if isinstance(value, tuple):
        return [_shown(item) for item in value]
    return dict(value) if isinstance(value, dict) else value


def _url_without_password(secret: str) -> str:
    """Show user, host and name of a database URL, nothing of another secret. Its parameters may hold passwords too."""
    match = _SHOWABLE_URL.fullmatch(secret)
    return f"{match['head']}:{REDACTED}{match['tail']}" if match else REDACTED
