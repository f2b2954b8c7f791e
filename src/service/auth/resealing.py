"""Changing the master secret: everything sealed under a previous one is sealed anew under the present one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.auth.root import label
from service.auth.statements import (
    LIST_ROOT_SECRETS,
    LIST_SIGNING_KEYS,
    LOCK_SIGNING_KEYS,
    RESEAL_ROOT_SECRET,
    RESEAL_SIGNING_KEY,
)

if TYPE_CHECKING:
    from service.auth.sealing import Seal
    from service.db import Connection, Database


@dataclass(frozen=True, slots=True)
class Resealed:
    """How many secrets were sealed anew, and how many there are."""

    done: int
    total: int


async def reseal(database: Database, seal: Seal) -> Resealed:
    """Seal signing keys and root secrets anew, all or none. Running processes notice nothing.

    Raises:
        KeysUnreadable: something opens under none of the master secrets.

    """
    return await database.transact(lambda conn: _reseal(conn, seal))


async def _reseal(conn: Connection, seal: Seal) -> Resealed:
    await LOCK_SIGNING_KEYS.execute(conn)
    keys = await LIST_SIGNING_KEYS.all(conn)
    roots = await LIST_ROOT_SECRETS.all(conn)
    done = 0
    for key in keys:
        if (box := seal.resealed(key.private_key, label=key.kid)) is not None:
            done += await RESEAL_SIGNING_KEY.execute(conn, kid=key.kid, private_key=box)
    for root in roots:
        if (box := seal.resealed(root.sealed, label=label(root.name))) is not None:
            done += await RESEAL_ROOT_SECRET.execute(conn, name=root.name, sealed=box)
    return Resealed(done, len(keys) + len(roots))
