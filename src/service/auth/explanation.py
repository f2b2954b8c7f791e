"""Why a user cannot log in, for operators. Login itself tells nobody."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from service.auth.statements import FIND_CANDIDATE
from service.errors import UserNotFound
from service.users.model import UserId, UserState

if TYPE_CHECKING:
    from datetime import datetime

    from service.auth.statements import CandidateRow
    from service.auth.throttle import Throttle
    from service.db import Database
    from service.users.directory import Directory
    from service.users.model import Email


class Obstacle(Enum):
    """One thing that keeps a user from logging in."""

    DISABLED = "disabled"
    DELETED = "deleted"
    NO_PASSWORD = "no_password"  # noqa: S105 - not one
    THROTTLED = "throttled"
    PASSWORD_CHANGE_REQUIRED = "password_change_required"  # noqa: S105 - nor this


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything that keeps a user from logging in; nothing, if the right password would do."""

    user_id: UserId
    obstacles: tuple[Obstacle, ...]
    disable_reason: str
    throttled_until: datetime | None
    """When the account takes the next attempt from a device it does not know; None: at once."""


class LoginExplainer:
    """Looks at an account as Login would."""

    def __init__(self, *, database: Database, directory: Directory, throttle: Throttle) -> None:
        self._database = database
        self._directory = directory
        self._throttle = throttle

    async def explain(self, email: Email) -> Explanation:
        """Return what keeps the user with this address from logging in.

        Raises:
            UserNotFound: there is none.

        """
        canonical = email.canonical
        found = await self._database.read(lambda conn: FIND_CANDIDATE.optional(conn, email_canonical=canonical))
        if found is None:
            raise UserNotFound
        user = await self._directory.get(UserId(found.id))
        until = await self._throttle.next_time(canonical)
        return Explanation(user.id, _obstacles(found, until), user.disable_reason, until)


def _obstacles(found: CandidateRow, throttled_until: datetime | None) -> tuple[Obstacle, ...]:
    met = {
        Obstacle.DISABLED: found.state != UserState.ACTIVE,
        Obstacle.DELETED: found.delete_time is not None,
        Obstacle.NO_PASSWORD: found.hash is None,
        Obstacle.THROTTLED: throttled_until is not None,
        Obstacle.PASSWORD_CHANGE_REQUIRED: bool(found.must_change),
    }
    return tuple(obstacle for obstacle, stands in met.items() if stands)
