"""The values of sessions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from uuid import UUID

from service.errors import SessionNotFound
from service.users.model import DisplayName

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from service.auth.sessions.refresh_tokens import RefreshToken
    from service.auth.sessions.statements import SessionRow
    from service.auth.tokens import AccessToken

LABEL_MAX_CHARACTERS = 100


def session_id(text: str) -> UUID:
    """Read a session's id.

    Raises:
        SessionNotFound: the text is not a UUID; what is no id names no session.

    """
    try:
        return UUID(text)
    except ValueError as error:
        raise SessionNotFound from error


@dataclass(frozen=True, slots=True)
class Device:
    """What a login comes from, in its own words; proof of nothing. For the user to know the session by."""

    label: str
    user_agent: str
    source: str
    """The address without port."""

    @classmethod
    def parse(cls, label: str, *, user_agent: str, source: str, field: str = "device_label") -> Self:
        """Read a label of at most 100 characters, nothing invisible in it.

        Raises:
            InvalidFields: naming `field`.

        """
        name = DisplayName.parse(label, field=field).text
        return cls(name[:LABEL_MAX_CHARACTERS], user_agent, source)


@dataclass(frozen=True, slots=True)
class SessionTerms:
    """How long sessions go on, and how many of them."""

    lifetime: timedelta
    """However much it is used."""
    idle: timedelta
    """Without a refresh."""
    grace: timedelta
    """How long after a refresh its token may be given again, by a caller who lost the answer."""
    most: int
    """Of one user."""

    def tokens_until(self, last_use_time: datetime, expire_time: datetime) -> datetime:
        """Return until when access tokens may live: not beyond the end of their session if it is left idle."""
        return min(expire_time, last_use_time + self.idle)


@dataclass(frozen=True, slots=True)
class Session:
    """A login, as its user sees it."""

    id: UUID
    user_id: UUID
    device_label: str
    user_agent: str
    source: str
    last_source: str
    create_time: datetime
    last_use_time: datetime
    expire_time: datetime
    idle_expire_time: datetime
    revoke_time: datetime | None

    @classmethod
    def from_row(cls, row: SessionRow, terms: SessionTerms) -> Self:
        """Return the session that a row holds. Idleness is counted by today's terms."""
        return cls(
            id=row.id,
            user_id=row.user_id,
            device_label=row.device_label,
            user_agent=row.user_agent,
            source=row.source,
            last_source=row.last_source,
            create_time=row.create_time,
            last_use_time=row.last_use_time,
            expire_time=row.expire_time,
            idle_expire_time=min(row.last_use_time + terms.idle, row.expire_time),
            revoke_time=row.revoke_time,
        )


@dataclass(frozen=True, slots=True, repr=False)
class Grant:
    """What a login or a refresh gives. Never printed."""

    session_id: UUID
    session_expire_time: datetime
    access: AccessToken
    refresh: RefreshToken
