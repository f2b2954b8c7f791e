"""The directory: who has an account. Owns its reads; writes join the transaction of the use case that asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.errors import EmailTaken, EtagMismatch, UserNotFound
from service.users.model import User, UserId, UserState
from service.users.statements import FIND_ALL_BY_ID, FIND_BY_EMAIL, FIND_BY_ID, INSERT, LOCK, UserRow

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from service.db import Connection, Database
    from service.users.model import Email, NewUser


class Directory:
    """Finds and adds users. `new_id` makes UUIDv7s, so that ids grow with time and indexes stay compact."""

    def __init__(self, *, database: Database, new_id: Callable[[], UUID]) -> None:
        self._database = database
        self._new_id = new_id

    async def get(self, user_id: UserId) -> User:
        """Return the user with this id, also when deleted (AIP-164).

        Raises:
            UserNotFound: there is none.

        """
        return from_row(await self._database.one(FIND_BY_ID, user_id=user_id.value))

    async def get_all(self, user_ids: Sequence[UserId]) -> list[User]:
        """Return the users with these ids, in their order.

        Raises:
            UserNotFound: naming the first of them that does not exist.

        """
        wanted = [user_id.value for user_id in user_ids]
        rows = await self._database.read(lambda conn: FIND_ALL_BY_ID.all(conn, user_ids=wanted))
        found = {row.id: row for row in rows}
        for user_id in wanted:
            if user_id not in found:
                raise UserNotFound(user_id=str(user_id))
        return [from_row(found[user_id]) for user_id in wanted]

    async def lookup(self, email: Email) -> User:
        """Return the user whose address has this canonical form.

        Raises:
            UserNotFound: there is none.

        """
        canonical = email.canonical
        return from_row(await self._database.read(lambda conn: FIND_BY_EMAIL.one(conn, email_canonical=canonical)))

    async def add(self, conn: Connection, new: NewUser) -> User:
        """Add a user in the caller's transaction.

        Raises:
            EmailTaken: another user has the address; the transaction can go on.

        """
        row = await INSERT.optional(
            conn,
            user_id=self._new_id(),
            email=new.email.typed,
            email_canonical=new.email.canonical,
            display_name=new.display_name.text,
            roles=sorted(new.roles),
        )
        if row is None:
            raise EmailTaken
        return from_row(row)


async def hold(conn: Connection, user_id: UserId, etag: str) -> User:
    """Return a user whose row stays locked to the end of the transaction; an empty `etag` is not compared (AIP-154).

    Raises:
        EtagMismatch, UserNotFound: as their names say.

    """
    user = from_row(await LOCK.one(conn, user_id=user_id.value))
    if etag and etag != user.etag:
        raise EtagMismatch
    return user


def present(user: User) -> User:
    """Return a user who is not deleted.

    Raises:
        UserNotFound: they are.

    """
    if user.delete_time is not None:
        raise UserNotFound
    return user


def from_row(row: UserRow) -> User:
    """Return the user that a row holds."""
    return User(
        id=UserId(row.id),
        email=row.email,
        email_canonical=row.email_canonical,
        display_name=row.display_name,
        state=UserState(row.state),
        disable_reason=row.disable_reason,
        roles=tuple(row.roles),
        email_verified=row.email_verified,
        version=row.version,
        create_time=row.create_time,
        update_time=row.update_time,
        delete_time=row.delete_time,
        purge_time=row.purge_time,
    )
