"""What roles cannot be got round by: giving what one lacks, overpowering who holds more, going as the last one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.access import ADMIN
from service.errors import CredentialsInvalid, LastAdministrator, PermissionMissing
from service.roles.statements import FIND_HELD, HAS_OTHER_ADMINISTRATOR, IS_ADMINISTRATOR, LOCK_ADMINISTRATORS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from service.access import Principal
    from service.db import Connection
    from service.users.model import UserId


def demand(by: Principal, permissions: Iterable[str], *, roles: Iterable[str] = ()) -> None:
    """Let through who holds all of `permissions`, and `admin` if that is one of `roles`.

    Raises:
        PermissionMissing: naming the first that the caller lacks.

    """
    if ADMIN in roles and ADMIN not in by.roles:
        raise PermissionMissing(ADMIN)
    for permission in sorted(permissions):
        if not by.may(permission):
            raise PermissionMissing(permission)


class Guard:
    """Asked inside of the transaction that changes a user, by whoever holds the user's row."""

    async def may_act_on(self, conn: Connection, by: Principal, user_id: UserId) -> None:
        """Let a caller do to a user what could give them the user's powers, or take these away.

        Raises:
            PermissionMissing: the user's roles allow something that the caller may not do.
            CredentialsInvalid: they are the user, who may no longer log in: their token is about to die.

        """
        held = await FIND_HELD.optional(conn, user_id=user_id.value)
        if held is None:
            return  # nobody is overpowered; that there is no such user is for others to say
        if by.subject == str(user_id) and not held.may_log_in:
            raise CredentialsInvalid
        demand(by, held.permissions, roles=held.roles)

    async def keep_an_administrator(self, conn: Connection, user_id: UserId) -> None:
        """Let a user cease to be an administrator: someone who holds `admin` and can log in with a password.

        Raises:
            LastAdministrator: there is no other.

        """
        if not (await IS_ADMINISTRATOR.one(conn, user_id=user_id.value)).yes:
            return
        await LOCK_ADMINISTRATORS.one(conn)
        if not (await HAS_OTHER_ADMINISTRATOR.one(conn, user_id=user_id.value)).yes:
            raise LastAdministrator
