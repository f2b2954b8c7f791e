"""The settings for people's eyes: ``gatelodge config show``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pydantic import BaseModel, SecretStr

if TYPE_CHECKING:
    from collections.abc import Mapping

    from service.settings.tree import Settings

REDACTED = "[redacted]"

_SHOWABLE_URL = re.compile(
    r"(?P<head>postgres(?:ql)?://[^:@/?#]*)(?::[^@/?#]*)?(?P<tail>@[^@/?#]*(?:/[^@/?#]*)?)(?:\?.*)?"
)


def redacted(settings: Settings) -> dict[str, object]:
    """Return the settings as plain values with every secret, and the password in a URL, hidden.

    Of a secret that was fetched from elsewhere, the scheme of the reference is told.
    """
    return _section(settings, "", settings.references)


def _section(section: BaseModel, path: str, references: Mapping[str, str]) -> dict[str, object]:
    return {name: _shown(value, f"{path}{name}", references) for name, value in section}


def _shown(value: object, dotted: str, references: Mapping[str, str]) -> object:
    if isinstance(value, BaseModel):
        return _section(value, f"{dotted}.", references)
    if isinstance(value, SecretStr):
        if dotted in references:
            return f"[redacted, from {references[dotted]}:]"
        return _url_without_password(value.get_secret_value())
    if isinstance(value, tuple):
        return [_shown(item, dotted, references) for item in value]
    return dict(value) if isinstance(value, dict) else value


def _url_without_password(secret: str) -> str:
    """Show user, host and name of a database URL, nothing of another secret. Its parameters may hold passwords too."""
    match = _SHOWABLE_URL.fullmatch(secret)
    return f"{match['head']}:{REDACTED}{match['tail']}" if match else REDACTED
