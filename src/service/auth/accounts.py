"""Making accounts: by their owners (Register), by operators (CreateUser) and by the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.auth.statements import FIND_CANDIDATE, INSERT_PASSWORD
from service.errors import EmailTaken, RegistrationClosed
from service.events.model import UserCreated, UserRegistered, UserRegistrationRepeated

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.auth.hashing import Hasher
    from service.auth.passwords import Password
    from service.db import Connection, Database
    from service.events.journal import Journal
    from service.users.directory import Directory
    from service.users.model import NewUser, User


class _Undone(Exception):
    """Ends a rehearsal's transaction by rolling it back."""

    def __init__(self, user: User) -> None:
        super().__init__()
        self.user = user


class Accounts:
    """An account is a user in the directory and, mostly, a password. `count` is told of each registration."""

    def __init__(
        self,
        *,
        database: Database,
        directory: Directory,
        hasher: Hasher,
        journal: Journal,
        registration_open: bool,
        count: Callable[[str], None],
    ) -> None:
        self._database = database
        self._directory = directory
        self._hasher = hasher
        self._journal = journal
        self._registration_open = registration_open
        self._count = count

    async def register(self, new: NewUser, password: Password) -> None:
        """Make an account for oneself. Does and answers the same when the address is taken.

        Raises:
            RegistrationClosed: the configuration does not offer it.
            Overloaded: too many passwords are being hashed.

        """
        if not self._registration_open:
            raise RegistrationClosed
        hashed = await self._hasher.hash(password)
        await self._database.transact(lambda conn: self._register(conn, new, hashed))
        self._count("accepted")

    async def create(self, new: NewUser, password: Password | None) -> User:
        """Make an account for someone else, with a password or without one.

        Raises:
            EmailTaken: another user has the address.
            Overloaded: too many passwords are being hashed.

        """
        hashed = None if password is None else await self._hasher.hash(password)
        return await self._database.transact(lambda conn: self._create(conn, new, hashed))

    async def rehearse(self, new: NewUser, _: Password | None) -> User:
        """Add the user as `create` does, but no password, and undo it (AIP-163). The user returned was never there.

        Raises:
            EmailTaken: another user has the address.

        """
        try:
            await self._database.transact(lambda conn: self._add_and_undo(conn, new))
        except _Undone as undone:
            return undone.user
        raise AssertionError("a rehearsal ends by being undone")

    async def _add_and_undo(self, conn: Connection, new: NewUser) -> None:
        raise _Undone(await self._directory.add(conn, new))

    async def _register(self, conn: Connection, new: NewUser, hashed: str) -> None:
        """Add the account, or only tell the journal: either way three statements and a commit that writes."""
        try:
            user = await self._add(conn, new, hashed)
        except EmailTaken:
            owner = await FIND_CANDIDATE.optional(conn, email_canonical=new.email.canonical)
            await self._journal.record(conn, UserRegistrationRepeated(owner.id if owner else None))
        else:
            await self._journal.record(conn, UserRegistered(user.id.value))

    async def _create(self, conn: Connection, new: NewUser, hashed: str | None) -> User:
        user = await self._add(conn, new, hashed)
        await self._journal.record(conn, UserCreated(user.id.value, roles=user.roles, has_password=hashed is not None))
        return user

    async def _add(self, conn: Connection, new: NewUser, hashed: str | None) -> User:
        user = await self._directory.add(conn, new)
        if hashed is not None:
            await INSERT_PASSWORD.execute(conn, user_id=user.id.value, hash=hashed)
        return user
