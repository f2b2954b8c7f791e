"""Files that are made on first use, by whichever process comes first."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_PRIVATE = 0o600


def made_once(file: Path, make: Callable[[], str]) -> str:
    """Return what is in `file`; unless it is there, write what `make` gives, readable by its owner alone.

    Of several processes at once one writes and all return the same: the file appears with its content or not at all.
    """
    with suppress(FileNotFoundError):
        return file.read_text()
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE), "w") as stream:
        stream.write(make())
    try:
        with suppress(FileExistsError):
            os.link(draft, file)
    finally:
        draft.unlink()
    return file.read_text()
