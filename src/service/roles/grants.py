"""Who holds a role: granted, revoked, asked for.

The user's row is locked first, then the role's, always; so neither a removal of the role nor another grant can come
between.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from service.access import ADMIN
from service.errors import FieldViolation, InvalidFields
from service.events.model import RoleGranted, RoleRevoked
from service.roles.guard import demand
from service.roles.statements import FIND, FIND_HELD, LOCK_SHARED, SET_HELD
from service.users.directory import hold, present

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from uuid import UUID

    from service.access import Principal
    from service.clock import Clock
    from service.db import Connection, Database
    from service.events.journal import Journal
    from service.events.model import Event
    from service.roles.guard import Guard
    from service.roles.model import RoleName
    from service.users.model import User, UserId

_MOST_ROLES = 64
"""As many as the table lets a user hold."""
_REASON = "roles_changed"


class Grants:
    """Gives users roles and takes them away; their access tokens, which name the roles, die with either.

    `expire` makes a user's access tokens worthless, for a reason, in the caller's transaction, which holds the row.
    """

    def __init__(
        self,
        *,
        database: Database,
        journal: Journal,
        guard: Guard,
        clock: Clock,
        expire: Callable[[Connection, UUID, str], Awaitable[object]],
    ) -> None:
        self._database = database
        self._journal = journal
        self._guard = guard
        self._clock = clock
        self._expire = expire

    async def grant(self, user_id: UserId, name: RoleName, *, etag: str, by: Principal) -> User:
        """Give a user a role; one that they hold already changes nothing.

        Raises:
            PermissionMissing: `by` lacks a permission of the role, or of the user.
            InvalidFields: the user holds as many roles as one can.
            UserNotFound, RoleNotFound, EtagMismatch: as their names say. Deleted users are given nothing.

        """

        async def work(conn: Connection) -> User:
            user = present(await hold(conn, user_id, etag))
            role = await LOCK_SHARED.one(conn, name=name.text)
            demand(by, role.permissions, roles=(role.name,))
            await self._guard.may_act_on(conn, by, user_id)
            if name.text in user.roles:
                return user
            if len(user.roles) >= _MOST_ROLES:
                raise InvalidFields(FieldViolation("role", f"cannot be held beside {_MOST_ROLES} others: revoke one"))
            return await self._change(conn, user, {*user.roles, name.text}, RoleGranted(user_id.value, name.text))

        return await self._database.transact(work)

    async def revoke(self, user_id: UserId, name: RoleName, *, etag: str, by: Principal) -> User:
        """Take a role from a user; one that they do not hold changes nothing. The role need not be defined.

        Raises:
            PermissionMissing: `by` lacks a permission of the role, or of the user.
            LastAdministrator: nobody else could log in as `admin`.
            UserNotFound, EtagMismatch: as their names say.

        """

        async def work(conn: Connection) -> User:
            user = present(await hold(conn, user_id, etag))
            role = await FIND.optional(conn, name=name.text)
            demand(by, role.permissions if role else (), roles=(name.text,))
            await self._guard.may_act_on(conn, by, user_id)
            if name.text not in user.roles:
                return user
            if name.text == ADMIN:
                await self._guard.keep_an_administrator(conn, user_id)
            return await self._change(conn, user, {*user.roles} - {name.text}, RoleRevoked(user_id.value, name.text))

        return await self._database.transact(work)

    async def check(self, user_id: UserId, permissions: Sequence[str]) -> list[bool]:
        """Tell of each permission whether the user holds it now. Who may not log in holds none.

        Raises:
            UserNotFound: there is no such user.

        """
        held = await self._database.read(lambda conn: FIND_HELD.one(conn, user_id=user_id.value))
        everything, some = ADMIN in held.roles, set(held.permissions)
        return [held.may_log_in and (everything or permission in some) for permission in permissions]

    async def _change(self, conn: Connection, user: User, roles: set[str], told: Event) -> User:
        row = await SET_HELD.one(conn, user_id=user.id.value, roles=sorted(roles), update_time=self._clock())
        await self._journal.record(conn, told)
        await self._expire(conn, user.id.value, _REASON)
        return replace(user, roles=tuple(row.roles), version=row.version)
