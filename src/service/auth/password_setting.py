"""Giving somebody else a password: for operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.auth.statements import SET_PASSWORD
from service.errors import FieldViolation, InvalidFields
from service.events.model import UserPasswordSet
from service.users.directory import hold, present

if TYPE_CHECKING:
    from service.access import Principal
    from service.auth.hashing import Hasher
    from service.auth.passwords import PasswordPolicy
    from service.auth.sessions.ending import Ending
    from service.db import Connection, Database
    from service.events.journal import Journal
    from service.users.directory import Directory
    from service.users.guard import Guard
    from service.users.model import UserId

_REASON = "password_set"


class PasswordSetting:
    """Sets passwords. `guard` refuses a user who may do what the caller may not."""

    def __init__(
        self,
        *,
        database: Database,
        directory: Directory,
        hasher: Hasher,
        policy: PasswordPolicy,
        ending: Ending,
        journal: Journal,
        guard: Guard,
    ) -> None:
        self._database = database
        self._directory = directory
        self._hasher = hasher
        self._policy = policy
        self._ending = ending
        self._journal = journal
        self._guard = guard

    async def __call__(self, user_id: UserId, text: str, *, must_change: bool, by: Principal) -> None:
        """Give a user a password, to be replaced at the next login if `must_change`, and end all sessions.

        Raises:
            UserNotFound: there is none, or it is deleted.
            PermissionMissing: the user may do what `by` may not.
            InvalidFields: the password breaks the policy, or the user is the caller, who must know the old one.
            Overloaded: too many passwords are being hashed.

        """
        if by.subject == str(user_id):
            raise InvalidFields(FieldViolation("user_id", "must be another user's: change your own by ChangePassword"))
        await self._database.read(lambda conn: self._guard.may_act_on(conn, by, user_id))
        user = present(await self._directory.get(user_id))
        password = self._policy.parse(text, about=(user.email, user.display_name))
        hashed = await self._hasher.hash(password)

        async def work(conn: Connection) -> None:
            # Again, now that the row is held: roles may have been granted meanwhile.
            present(await hold(conn, user_id, etag=""))
            await self._guard.may_act_on(conn, by, user_id)
            await self._ending.end_all(conn, user_id.value, _REASON)
            await SET_PASSWORD.execute(conn, user_id=user_id.value, hash=hashed, must_change=must_change)
            await self._journal.record(conn, UserPasswordSet(user_id.value, must_change=must_change))

        await self._database.transact(work)
