"""Changing one's own password: the current one is checked as at a login, and the other sessions end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.auth.statements import CHANGE_PASSWORD
from service.errors import Conflict, FieldViolation, InvalidFields, PasswordWrong
from service.events.model import UserPasswordSet

if TYPE_CHECKING:
    from service.access import Principal
    from service.auth.checking import PasswordCheck
    from service.auth.hashing import Hasher
    from service.auth.passwords import Password, PasswordPolicy
    from service.auth.profile import Profile
    from service.auth.sessions.ending import Ending
    from service.auth.statements import CandidateRow
    from service.db import Connection, Database
    from service.events.journal import Journal

_FIELD = "new_password"
_REASON = "password_changed"


class PasswordChange:
    """Replaces the password of whoever is logged in."""

    def __init__(
        self,
        *,
        database: Database,
        profile: Profile,
        check: PasswordCheck,
        hasher: Hasher,
        policy: PasswordPolicy,
        ending: Ending,
        journal: Journal,
    ) -> None:
        self._database = database
        self._profile = profile
        self._check = check
        self._hasher = hasher
        self._policy = policy
        self._ending = ending
        self._journal = journal

    async def __call__(
        self, principal: Principal, current: Password, new: str, *, source: str, device_token: str
    ) -> None:
        """Replace the password `current` by `new`, and end all sessions but the one that asks.

        Raises:
            InvalidFields: `new` breaks the policy, or is the current one.
            PasswordWrong: `current` is not the password; or there is none.
            TooManyAttempts, Overloaded: as in `PasswordCheck`.
            Conflict: the password was changed meanwhile.
            CredentialsInvalid: the account is gone or may not log in.

        """
        user = await self._profile.of(principal)
        chosen = chosen_anew(self._policy, new, current, about=(user.email, user.display_name))
        attempt = self._check.attempt(user.email_canonical, current, source=source, device_token=device_token)
        owner = (await self._check(attempt)).owner
        if owner is None:
            raise PasswordWrong
        hashed = await self._hasher.hash(chosen)
        await self._database.transact(lambda conn: self._replace(conn, owner, hashed, principal))

    async def _replace(self, conn: Connection, owner: CandidateRow, hashed: str, principal: Principal) -> None:
        # First, for it holds the user's row: whoever changes several rows of a user begins with that one.
        await self._ending.end_others(conn, owner.id, keep=principal.session_id, reason=_REASON)
        if not await CHANGE_PASSWORD.execute(conn, user_id=owner.id, old_hash=owner.hash, new_hash=hashed):
            raise Conflict
        await self._journal.record(conn, UserPasswordSet(owner.id, must_change=False))


def chosen_anew(policy: PasswordPolicy, text: str, current: Password, *, about: tuple[str, ...]) -> Password:
    """Read the password that is to replace `current`.

    Raises:
        InvalidFields: it breaks the policy, or is the current one.

    """
    chosen = policy.parse(text, field=_FIELD, about=about)
    if chosen == current:
        raise InvalidFields(FieldViolation(_FIELD, "must be another one than the current password"))
    return chosen
