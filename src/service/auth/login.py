"""Login: an email and a password for a session and its tokens, with one answer for every way it can fail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from service.auth.statements import FIND_CANDIDATE, REPLACE_HASH, CandidateRow
from service.errors import DomainError, LoginFailed
from service.users.model import UserId, UserState

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.auth.hashing import Hasher, Verdict
    from service.auth.passwords import Password
    from service.auth.sessions.model import Device, Grant
    from service.auth.sessions.opening import Opening
    from service.db import Database
    from service.users.model import Email

_log = structlog.get_logger("gatelodge.auth")

_CHECKS = 2
"""How often a password is checked when its hash changes meanwhile: another login may have brought it up to date."""


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """Who logged in, and what they get."""

    user_id: UserId
    grant: Grant


class Login:
    """Checks passwords and opens sessions.

    Unknown, wrong and disabled cost the same: one query, one hash, one answer (OWASP ASVS 5.0 V6.3.8). `count` is told
    how each attempt ended.
    """

    def __init__(
        self,
        *,
        database: Database,
        hasher: Hasher,
        opening: Opening,
        count: Callable[[str], None],
    ) -> None:
        self._database = database
        self._hasher = hasher
        self._opening = opening
        self._count = count

    async def __call__(self, email: Email, password: Password, device: Device) -> LoggedIn:
        """Log a user in.

        Raises:
            LoginFailed: unknown, wrong, disabled or deleted; nobody is told which.
            Overloaded: too many passwords are being checked.

        """
        outcome = "refused"
        for _ in range(_CHECKS):
            found, verdict = await self._check(email, password)
            outcome = _outcome(found, matches=verdict.matches)
            if found is None or found.hash is None or outcome != "success":
                break
            grant = await self._opening(found.id, device, verified=found.hash)
            if grant is not None:
                self._count(outcome)
                if verdict.outdated:
                    await self._rehash(found, password)
                return LoggedIn(UserId(found.id), grant)
            outcome = "refused"
        self._count(outcome)
        raise LoginFailed

    async def _check(self, email: Email, password: Password) -> tuple[CandidateRow | None, Verdict]:
        """Return whom the address belongs to, if anyone, and what is to be said of the password; always one hash."""
        canonical = email.canonical
        found = await self._database.read(lambda conn: FIND_CANDIDATE.optional(conn, email_canonical=canonical))
        return found, await self._hasher.verify(password, found.hash if found else None)

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


def _outcome(found: CandidateRow | None, *, matches: bool) -> str:
    """Return what is counted: not more than the caller learns, unless they know the password."""
    if found is None or not matches:
        return "refused"
    if found.delete_time is not None or found.state != UserState.ACTIVE:
        return "not_allowed"
    return "success"
