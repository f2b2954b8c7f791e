"""What an account goes through after it was made: changed, disabled, enabled, deleted, undeleted, erased, purged.

Every change holds the user's row, compares the etag if one is given (AIP-154), and counts the version up. What an
operator does to a user passes the guard: `PermissionMissing` if the user may do more than they, `LastAdministrator`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from service.errors import PermissionMissing, UserNotDeleted, UserNotFound
from service.events.model import UserDeleted, UserDisabled, UserEnabled, UserErased, UserUndeleted, UserUpdated
from service.users.directory import from_row, hold, present
from service.users.model import User, UserState
from service.users.statements import ERASE, PURGE, SAVE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import timedelta
    from uuid import UUID

    from service.access import Principal
    from service.clock import Clock
    from service.db import Answers, Connection, Database
    from service.events.journal import Journal
    from service.events.model import Event
    from service.users.guard import Guard
    from service.users.model import DisplayName, Email, UserId

UPDATE = "users.update"
_PURGED_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be different about a user; None leaves it as it is."""

    email: Email | None = None
    display_name: DisplayName | None = None

    def apply(self, user: User) -> User:
        """Return the user with the changes. A new address, other than in spelling, is not verified."""
        if self.email is not None:
            verified = user.email_verified and self.email.canonical == user.email_canonical
            user = replace(user, email=self.email.typed, email_canonical=self.email.canonical, email_verified=verified)
        return user if self.display_name is None else replace(user, display_name=self.display_name.text)


class Lifecycle:
    """Changes users.

    `retention` is how long a deleted one can be undeleted. `end_all` ends, in the transaction it is given, all sessions
    and tokens of a user, for a reason in one word.
    """

    def __init__(
        self,
        *,
        database: Database,
        journal: Journal,
        answers: Answers,
        guard: Guard,
        end_all: Callable[[Connection, UUID, str], Awaitable[object]],
        clock: Clock,
        retention: timedelta,
    ) -> None:
        self._database = database
        self._journal = journal
        self._answers = answers
        self._guard = guard
        self._end_all = end_all
        self._clock = clock
        self._retention = retention

    async def update(self, user_id: UserId, changes: Changes, *, etag: str, by: Principal) -> User:
        """Change a user; nothing to change returns the user as it is.

        Raises:
            PermissionMissing: the address is to change and `by` may only change their own name.
            EtagMismatch, UserNotFound, EmailTaken: as their names say. Deleted users cannot be changed.

        """

        def alter(user: User) -> User:
            after = changes.apply(present(user))
            if after.email != user.email and not by.may(UPDATE):
                raise PermissionMissing(UPDATE)
            return after

        return await self._change(user_id, etag, alter, _updated, by)

    async def disable(self, user_id: UserId, *, reason: str, etag: str, by: Principal) -> User:
        """Stop a user from logging in, and end all their sessions. Raises `EtagMismatch`, `UserNotFound`."""
        return await self._change(
            user_id,
            etag,
            lambda user: replace(present(user), state=UserState.DISABLED, disable_reason=reason),
            lambda _, after: UserDisabled(after.id.value),
            by,
            ends="disabled",
        )

    async def enable(self, user_id: UserId, *, etag: str, by: Principal) -> User:
        """Let a user log in again; no session is revived. Raises `EtagMismatch`, `UserNotFound`."""
        return await self._change(
            user_id,
            etag,
            lambda user: replace(present(user), state=UserState.ACTIVE, disable_reason=""),
            lambda _, after: UserEnabled(after.id.value),
            by,
        )

    async def delete(self, user_id: UserId, *, etag: str, by: Principal, allow_missing: bool = False) -> User | None:
        """Delete a user softly (AIP-164), and end all their sessions.

        None: there was none to delete, and that is allowed (AIP-135).

        Raises:
            EtagMismatch: as its name says.
            UserNotFound: there is none, or it is deleted already.

        """
        now = self._clock()

        async def work(conn: Connection) -> User | None:
            # Decided in the transaction, so that "there was none" is an answer that a repeat gets again.
            try:
                before = present(await hold(conn, user_id, etag))
            except UserNotFound:
                if allow_missing:
                    return None
                raise
            after = replace(before, delete_time=now, purge_time=now + self._retention)
            await self._admit(conn, by, before, after)
            await self._journal.record(conn, UserDeleted(user_id.value))
            await self._end_all(conn, user_id.value, "deleted")
            return await self._save(conn, after)

        return await self._database.transact(work)

    async def undelete(self, user_id: UserId, *, etag: str, by: Principal) -> User:
        """Take a deletion back; no session is revived. Raises `UserNotDeleted`, `EtagMismatch`, `UserNotFound`."""
        return await self._change(user_id, etag, _undeleted, lambda _, after: UserUndeleted(after.id.value), by)

    async def erase(self, user_id: UserId, *, etag: str, by: Principal) -> None:
        """Remove a user for good, deleted or not. Raises `EtagMismatch`, `UserNotFound`."""

        async def work(conn: Connection) -> None:
            await hold(conn, user_id, etag)
            await self._guard.may_act_on(conn, by, user_id)
            await self._guard.keep_an_administrator(conn, user_id)
            await self._end_all(conn, user_id.value, "erased")
            await ERASE.execute(conn, user_id=user_id.value)
            await self._answers.forget(conn, str(user_id))
            await self._journal.record(conn, UserErased(user_id.value))

        await self._database.transact(work)

    async def purge(self) -> int:
        """Remove for good whom nobody undeleted in time; return how many."""
        purged = 0
        while True:
            some = await self._database.transact(self._purge_some)
            purged += some
            if some < _PURGED_AT_ONCE:
                return purged

    async def _purge_some(self, conn: Connection) -> int:
        rows = await PURGE.all(conn, now=self._clock(), limit=_PURGED_AT_ONCE)
        for row in rows:
            await self._answers.forget(conn, str(row.id))
            await self._journal.record(conn, UserErased(row.id))
        return len(rows)

    async def _change(
        self,
        user_id: UserId,
        etag: str,
        alter: Callable[[User], User],
        told: Callable[[User, User], Event],
        by: Principal,
        *,
        ends: str = "",
    ) -> User:
        """Change a user and write down what happened, in one transaction; a change of nothing is none.

        `ends`: the change ends all sessions, for this reason.
        """

        async def work(conn: Connection) -> User:
            before = await hold(conn, user_id, etag)
            after = alter(before)
            if after == before:
                return before
            await self._admit(conn, by, before, after)
            await self._journal.record(conn, told(before, after))
            if ends:
                await self._end_all(conn, user_id.value, ends)
            return await self._save(conn, after)

        return await self._database.transact(work)

    async def _admit(self, conn: Connection, by: Principal, before: User, after: User) -> None:
        """Ask the guard about every change but a name's: an address is a way in, and a state shuts out or lets in."""
        if replace(after, display_name=before.display_name) != before:
            await self._guard.may_act_on(conn, by, before.id)
        if before.may_log_in and not after.may_log_in:
            await self._guard.keep_an_administrator(conn, before.id)

    async def _save(self, conn: Connection, user: User) -> User:
        row = await SAVE.one(
            conn,
            user_id=user.id.value,
            email=user.email,
            email_canonical=user.email_canonical,
            email_verified=user.email_verified,
            display_name=user.display_name,
            state=user.state,
            disable_reason=user.disable_reason,
            delete_time=user.delete_time,
            purge_time=user.purge_time,
            update_time=self._clock(),
        )
        return from_row(row)


def _updated(before: User, after: User) -> Event:
    """Tell which fields changed, never from what to what: the record outlives the user."""
    changed = {"email": before.email != after.email, "display_name": before.display_name != after.display_name}
    return UserUpdated(after.id.value, tuple(name for name, differs in changed.items() if differs))


def _undeleted(user: User) -> User:
    if user.delete_time is None:
        raise UserNotDeleted
    return replace(user, delete_time=None, purge_time=None)
