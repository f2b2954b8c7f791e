"""The root secret: what every other key of the service is derived from.

Made on first start and sealed under the master secret, so that the master secret can change and page tokens, cursors,
fingerprints and the like stay good.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from service.auth.statements import INSERT_ROOT_SECRET, LIST_ROOT_SECRETS

if TYPE_CHECKING:
    from service.auth.sealing import Seal
    from service.db import Database

_NAME = "root"
_BYTES = 32


def label(name: str) -> str:
    """Return what the box of a root secret is bound to; no signing key's id looks like it."""
    return f"root secret {name}"


async def root_secret(database: Database, seal: Seal) -> bytes:
    """Return the root secret in the database, making it when there is none.

    Raises:
        KeysUnreadable: no master secret opens it.

    """
    rows = await database.read(LIST_ROOT_SECRETS.all)
    if not rows:
        # Replicas that start together each bring one; the primary key lets one of them in.
        box = seal.seal(secrets.token_bytes(_BYTES), label=label(_NAME))
        await database.transact(lambda conn: INSERT_ROOT_SECRET.execute(conn, name=_NAME, sealed=box))
        rows = await database.read(LIST_ROOT_SECRETS.all)
    return next(seal.must_open(row.sealed, label=label(row.name)) for row in rows if row.name == _NAME)
