"""The roles there are: made, read, listed, changed, removed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from service.errors import EtagMismatch, RoleBuiltIn, RoleExists, RoleInUse
from service.events.model import RoleCreated, RoleDeleted, RoleUpdated
from service.paging import page_size
from service.roles.guard import demand
from service.roles.model import Permission, Role
from service.roles.statements import DELETE, FIND, INSERT, IS_HELD, LIST, LOCK, SAVE

if TYPE_CHECKING:
    from service.access import Principal
    from service.clock import Clock
    from service.db import Connection, Database
    from service.events.journal import Journal
    from service.paging import PageTokens
    from service.roles.catalogue import Catalogue
    from service.roles.model import Changes, NewRole, RoleName
    from service.roles.statements import RoleRow

_DEFAULT_PAGE = 100
_LARGEST_PAGE = 1000
_BOUND_TO = b"roles"


class _Undone(Exception):
    """Ends a rehearsal's transaction by rolling it back."""

    def __init__(self, role: Role) -> None:
        super().__init__()
        self.role = role


@dataclass(frozen=True, slots=True)
class Page:
    """Some roles, and the token for the next ones; empty on the last page."""

    roles: tuple[Role, ...]
    next_token: str


class Roles:
    """Keeps roles. `catalogue` knows the permissions there are, `tokens` seals where a page begins."""

    def __init__(
        self, *, database: Database, journal: Journal, catalogue: Catalogue, tokens: PageTokens, clock: Clock
    ) -> None:
        self._database = database
        self._journal = journal
        self._catalogue = catalogue
        self._tokens = tokens
        self._clock = clock

    async def get(self, name: RoleName) -> Role:
        """Return a role. Raises `RoleNotFound`."""
        return from_row(await self._database.read(lambda conn: FIND.one(conn, name=name.text)))

    async def page(self, *, size: int, token: str) -> Page:
        """Return the page that `token` begins, or the first one, by name; `size` 0 is 100, more than 1000 is 1000.

        Raises:
            InvalidPageToken: the token is not ours.

        """
        limit = page_size(size, default=_DEFAULT_PAGE, most=_LARGEST_PAGE)
        after = str(self._tokens.open(token, _BOUND_TO)[0]) if token else ""
        rows = await self._database.read(lambda conn: LIST.all(conn, after=after, limit=limit + 1))
        next_token = self._tokens.seal([rows[limit - 1].name], _BOUND_TO) if len(rows) > limit else ""
        return Page(tuple(from_row(row) for row in rows[:limit]), next_token)

    async def create(self, new: NewRole, *, by: Principal) -> Role:
        """Make a role.

        Raises:
            PermissionMissing: `by` lacks one of its permissions.
            InvalidFields: there is no such permission.
            RoleExists: there is a role of this name.
            RoleInUse: somebody holds a role of this name, of which there is no definition: it would be granted by this.

        """
        self._may_add(by, new.permissions)
        return await self._database.transact(lambda conn: self._create(conn, new))

    async def rehearse(self, new: NewRole, *, by: Principal) -> Role:
        """Do as `create` does, and undo it (AIP-163). The role returned was never there. Raises as `create`."""
        self._may_add(by, new.permissions)
        try:
            await self._database.transact(lambda conn: self._create_and_undo(conn, new))
        except _Undone as undone:
            return undone.role
        raise AssertionError("a rehearsal ends by being undone")

    async def update(self, name: RoleName, changes: Changes, *, etag: str, by: Principal) -> Role:
        """Change a role; nothing to change returns it as it is.

        Raises:
            PermissionMissing: `by` lacks a permission to be added.
            InvalidFields: there is no such permission.
            RoleNotFound, RoleBuiltIn, EtagMismatch: as their names say.

        """

        async def work(conn: Connection) -> Role:
            before = await _hold(conn, name, etag)
            after = _changed(before, changes)
            if after == before:
                return before
            self._may_add(by, {Permission(added) for added in set(after.permissions) - set(before.permissions)})
            await self._journal.record(conn, RoleUpdated(None, after.name, after.permissions))
            return await self._save(conn, after)

        return await self._database.transact(work)

    async def delete(self, name: RoleName, *, etag: str) -> None:
        """Remove a role that nobody holds. Raises `RoleNotFound`, `RoleBuiltIn`, `EtagMismatch`, `RoleInUse`."""

        async def work(conn: Connection) -> None:
            await _hold(conn, name, etag)
            # A statement of its own, after the lock: it sees every grant that the lock waited for.
            if (await IS_HELD.one(conn, name=name.text)).yes:
                raise RoleInUse
            await DELETE.execute(conn, name=name.text)
            await self._journal.record(conn, RoleDeleted(None, name.text))

        await self._database.transact(work)

    def _may_add(self, by: Principal, permissions: set[Permission] | frozenset[Permission]) -> None:
        demand(by, [permission.name for permission in permissions])
        self._catalogue.check(permissions)

    async def _create(self, conn: Connection, new: NewRole) -> Role:
        row = await INSERT.optional(
            conn,
            name=new.name.text,
            description=new.description.text,
            permissions=sorted(permission.name for permission in new.permissions),
        )
        if row is None:
            raise RoleExists
        if (await IS_HELD.one(conn, name=new.name.text)).yes:
            raise RoleInUse
        await self._journal.record(conn, RoleCreated(None, row.name, tuple(row.permissions)))
        return from_row(row)

    async def _create_and_undo(self, conn: Connection, new: NewRole) -> None:
        raise _Undone(await self._create(conn, new))

    async def _save(self, conn: Connection, role: Role) -> Role:
        row = await SAVE.one(
            conn,
            name=role.name,
            description=role.description,
            permissions=list(role.permissions),
            update_time=self._clock(),
        )
        return from_row(row)


def from_row(row: RoleRow) -> Role:
    """Return the role that a row holds."""
    return Role(**row._asdict() | {"permissions": tuple(row.permissions)})


async def _hold(conn: Connection, name: RoleName, etag: str) -> Role:
    role = from_row(await LOCK.one(conn, name=name.text))
    if role.built_in:
        raise RoleBuiltIn
    if etag and etag != role.etag:
        raise EtagMismatch
    return role


def _changed(role: Role, changes: Changes) -> Role:
    if changes.description is not None:
        role = replace(role, description=changes.description.text)
    if changes.permissions is not None:
        role = replace(role, permissions=tuple(sorted(permission.name for permission in changes.permissions)))
    return role
