"""Login: an email and a password for a session and its tokens, with one answer for every way it can fail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from service.auth.checking import Outcome
from service.auth.password_change import chosen_anew
from service.auth.statements import REPLACE_HASH, CandidateRow
from service.errors import (
    DomainError,
    FieldViolation,
    InvalidFields,
    LoginFailed,
    PasswordChangeRequired,
    TooManyAttempts,
)
from service.users.model import UserId

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.auth.checking import Attempt, Checked, PasswordCheck
    from service.auth.devices import Devices
    from service.auth.hashing import Hasher
    from service.auth.passwords import Password, PasswordPolicy
    from service.auth.sessions.model import Device, Grant
    from service.auth.sessions.opening import Opening
    from service.db import Database

_log = structlog.get_logger("gatelodge.auth")

_CHECKS = 2
"""How often a password is checked when its hash changes meanwhile: another login may have brought it up to date."""


@dataclass(frozen=True, slots=True, repr=False)
class LoggedIn:
    """Who logged in, and what they get. Never printed."""

    user_id: UserId
    grant: Grant
    device_token: str


class Login:
    """Opens sessions for right passwords. `count` is told how each attempt ended."""

    def __init__(
        self,
        *,
        database: Database,
        check: PasswordCheck,
        hasher: Hasher,
        policy: PasswordPolicy,
        devices: Devices,
        opening: Opening,
        count: Callable[[str], None],
    ) -> None:
        self._database = database
        self._check = check
        self._hasher = hasher
        self._policy = policy
        self._devices = devices
        self._opening = opening
        self._count = count

    async def __call__(self, attempt: Attempt, device: Device, *, new_password: str) -> LoggedIn:
        """Log a user in; `new_password` replaces the right one where an operator asked for that.

        Raises:
            LoginFailed: unknown, wrong, disabled or deleted; nobody is told which.
            TooManyAttempts: alike for accounts that exist and that do not.
            PasswordChangeRequired: the password is right; a new one must come with it.
            InvalidFields: the password is right; the new one breaks the policy, or none was asked for.
            Overloaded: too many passwords are being checked.

        """
        outcome = Outcome.WRONG
        for _ in range(_CHECKS):
            checked = await self._counted(attempt)
            outcome, found = checked.outcome, checked.owner
            if found is None or found.hash is None:
                break
            replacement = await self._replacement(found, attempt.password, new_password)
            grant = await self._opening(found.id, device, verified=found.hash, replacement=replacement)
            if grant is not None:
                self._count(outcome.value)
                if checked.outdated and replacement is None:
                    await self._rehash(found, attempt.password)
                token = self._devices.issue(attempt.canonical, attempt.device)
                return LoggedIn(UserId(found.id), grant, token)
            outcome = Outcome.WRONG
        self._count(outcome.value)
        raise LoginFailed

    async def _counted(self, attempt: Attempt) -> Checked:
        try:
            return await self._check(attempt)
        except TooManyAttempts:
            self._count("throttled")
            raise

    async def _replacement(self, found: CandidateRow, password: Password, new_password: str) -> str | None:
        """Return the hash of the password to have from now on, if one is asked for. Only after the right password."""
        if not found.must_change:
            if new_password:
                raise InvalidFields(FieldViolation("new_password", "must be empty: no new password is asked for"))
            return None
        if not new_password:
            self._count("password_change_required")
            raise PasswordChangeRequired
        chosen = chosen_anew(self._policy, new_password, password, about=(found.email, found.display_name))
        return await self._hasher.hash(chosen)

    async def _rehash(self, found: CandidateRow, password: Password) -> None:
        """Bring the stored hash to today's parameters. A login does not fail because this could not be done now."""
        try:
            new_hash = await self._hasher.hash(password)
            await self._database.transact(
                lambda conn: REPLACE_HASH.execute(conn, user_id=found.id, old_hash=found.hash, new_hash=new_hash)
            )
        except DomainError as error:
            _log.warning("rehash postponed", user_id=str(found.id), reason=error.reason)
        except Exception:  # noqa: BLE001 - the password was right: what went wrong here is for the log
            _log.exception("rehash failed", user_id=str(found.id))
