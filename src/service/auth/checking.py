"""The one way to check a password: counted, looked up, hashed, settled. Whatever asks for a password asks here.

Unknown, wrong and disabled cost the same: the same statements, one hash (OWASP ASVS 5.0 V6.3.8). An attempt that the
throttle refuses reaches neither the users nor the hasher, so it tells nothing either.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from service.auth.statements import FIND_CANDIDATE, CandidateRow
from service.users.model import UserState

if TYPE_CHECKING:
    from service.auth.devices import Devices, KnownDevice
    from service.auth.hashing import Hasher, Verdict
    from service.auth.passwords import Password
    from service.auth.throttle import Throttle
    from service.db import Database


class Outcome(Enum):
    """How a check ended: in words that say no more than the caller learns, unless they know the password."""

    RIGHT = "success"
    WRONG = "refused"
    """Or there is no such account, or it has no password."""
    NOT_ALLOWED = "not_allowed"
    """The password is right; the account may not log in."""


@dataclass(frozen=True, slots=True, repr=False)
class Attempt:
    """A password given for the account of an address. Never printed."""

    canonical: str
    """The address in its canonical form, so that all spellings count as one."""
    password: Password
    source: str
    """Where it comes from, an address without port."""
    device: KnownDevice | None
    """The known device it comes from."""


@dataclass(frozen=True, slots=True, repr=False)
class Checked:
    """What was found. Never printed."""

    outcome: Outcome
    owner: CandidateRow | None
    """Whose password it is; None unless it is right."""
    outdated: bool
    """Whether the stored hash is to be brought to today's parameters."""


class PasswordCheck:
    """Checks passwords. `devices` reads the tokens of known devices."""

    def __init__(self, *, database: Database, hasher: Hasher, throttle: Throttle, devices: Devices) -> None:
        self._database = database
        self._hasher = hasher
        self._throttle = throttle
        self._devices = devices

    def attempt(self, canonical: str, password: Password, *, source: str, device_token: str) -> Attempt:
        """Return an attempt; a device token that is not good for the account counts as none."""
        device = self._devices.read(device_token, canonical) if device_token else None
        return Attempt(canonical, password, source, device)

    async def __call__(self, attempt: Attempt) -> Checked:
        """Check a password.

        A wrong one stays counted, and so does one whose caller went away meanwhile: who cancels has had a guess, too.

        Raises:
            TooManyAttempts: it comes too soon after others.
            Overloaded, DependencyUnavailable: the server cannot check it now; it is not counted.

        """
        # In a storm most attempts end here: what they cost is taken from those that are let in, and from other calls.
        self._hasher.expect_room()
        reservation = await self._throttle.reserve(attempt.canonical, attempt.source, attempt.device)
        try:
            found, verdict = await self._look(attempt)
        except Exception:
            await self._throttle.release(reservation)
            raise
        outcome = _outcome(found, matches=verdict.matches)
        if outcome is not Outcome.RIGHT:
            return Checked(outcome, None, outdated=False)
        await self._throttle.settle(reservation)
        return Checked(outcome, found, verdict.outdated)

    async def _look(self, attempt: Attempt) -> tuple[CandidateRow | None, Verdict]:
        found = await self._database.optional(FIND_CANDIDATE, email_canonical=attempt.canonical)
        return found, await self._hasher.verify(attempt.password, found.hash if found else None)


def _outcome(found: CandidateRow | None, *, matches: bool) -> Outcome:
    if found is None or not matches:
        return Outcome.WRONG
    if found.delete_time is not None or found.state != UserState.ACTIVE:
        return Outcome.NOT_ALLOWED
    return Outcome.RIGHT
