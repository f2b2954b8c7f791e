"""The SQL of sessions. Each statement is proven against the migrated schema before it ships."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, LiteralString, NamedTuple
from uuid import UUID

from service.db.statement import Command, Statement
from service.errors import SessionNotFound


class HeldUserRow(NamedTuple):
    """What a refresh must know of its user."""

    state: str
    roles: list[str]
    delete_time: datetime | None
    token_version: int


class OpenedRow(NamedTuple):
    """What a login must know of its user once its session is there."""

    roles: list[str]
    token_version: int
    others: int
    """How many other sessions of the user live."""


class SessionRow(NamedTuple):
    """A session as it is shown."""

    user_id: UUID
    id: UUID
    device_label: str
    user_agent: str
    source: str
    last_source: str
    create_time: datetime
    last_use_time: datetime
    expire_time: datetime
    revoke_time: datetime | None


class HeldSessionRow(NamedTuple):
    """What a refresh must know of its session."""

    last_use_time: datetime
    expire_time: datetime
    revoke_time: datetime | None
    generation: int
    refresh_hash: bytes
    refresh_salt: bytes | None


class EndedRow(NamedTuple):
    """A session that was ended."""

    id: UUID


class VersionRow(NamedTuple):
    """The version below which a user's access tokens are dead."""

    token_version: int


_COLUMNS: Final[LiteralString] = """
    user_id, id, device_label, user_agent, source, last_source, create_time, last_use_time, expire_time, revoke_time
"""
_LIVES: Final[LiteralString] = """
    revoke_time IS NULL AND expire_time > %(now)s AND last_use_time > %(idle_since)s
"""
_LIVES_PARAMS = {"now": datetime, "idle_since": datetime}
_REVOKE: Final[LiteralString] = "UPDATE sessions SET revoke_time = %(now)s, revoke_reason = %(reason)s "

# Shared by logins and refreshes; what changes the user, or ends all of their sessions, waits for them and they for it.
HOLD_USER = Statement(
    "sessions.hold_user",
    "SELECT state, roles, delete_time, token_version FROM users WHERE id = %(user_id)s FOR SHARE",
    row=HeldUserRow,
    params={"user_id": UUID},
)

HOLD_USER_ALONE = Statement(
    "sessions.hold_user_alone",
    "SELECT token_version FROM users WHERE id = %(user_id)s FOR UPDATE",
    row=VersionRow,
    params={"user_id": UUID},
)

# A login in one statement, a transaction of its own: the session and its event, if user and password are still what
# was verified. Both rows are locked, in this order: only so is each seen as it is after a wait for whoever changes it.
# It may be run twice: the session that is there already is found, and nothing is added.
OPEN = Statement(
    "sessions.open",
    """
    WITH held AS MATERIALIZED (
        SELECT users.state, users.roles, users.delete_time, users.token_version, passwords.hash
        FROM users JOIN passwords ON passwords.user_id = users.id
        WHERE users.id = %(user_id)s
        FOR SHARE OF users, passwords
    ), welcome AS (
        SELECT roles, token_version FROM held WHERE hash = %(hash)s AND state = 'active' AND delete_time IS NULL
    ), opened AS (
        INSERT INTO sessions (
            user_id, id, device_label, user_agent, source, last_source, create_time, last_use_time, expire_time,
            refresh_hash
        )
        SELECT
            %(user_id)s, %(session_id)s, %(device_label)s, %(user_agent)s, %(device_source)s, %(device_source)s,
            %(now)s, %(now)s, %(expire_time)s, %(refresh_hash)s
        FROM welcome
        ON CONFLICT DO NOTHING
        RETURNING id
    ), recorded AS (
        INSERT INTO events (id, type, subject, actor, request_id, source, payload)
        SELECT %(event_id)s, %(type)s, %(subject)s, %(actor)s, %(request_id)s, %(source)s, %(payload)s FROM opened
    )
    SELECT roles, token_version, (
        SELECT count(*) FROM sessions WHERE user_id = %(user_id)s AND id <> %(session_id)s AND"""
    + _LIVES
    + """
    ) AS others
    FROM welcome
    """,
    row=OpenedRow,
    params={
        "user_id": UUID,
        "hash": str,
        "session_id": UUID,
        "device_label": str,
        "user_agent": str,
        "device_source": str,
        "expire_time": datetime,
        "refresh_hash": bytes,
        "event_id": UUID,
        "type": str,
        "subject": UUID,
        "actor": UUID | None,
        "request_id": str,
        "source": str,
        "payload": dict[str, Any],
    }
    | _LIVES_PARAMS,
    not_null={"roles", "token_version", "others"},
)

HOLD = Statement(
    "sessions.hold",
    """
    SELECT last_use_time, expire_time, revoke_time, generation, refresh_hash, refresh_salt
    FROM sessions WHERE user_id = %(user_id)s AND id = %(session_id)s FOR UPDATE
    """,
    row=HeldSessionRow,
    params={"user_id": UUID, "session_id": UUID},
)

ROTATE = Command(
    "sessions.rotate",
    """
    UPDATE sessions SET
        generation = generation + 1,
        refresh_hash = %(refresh_hash)s,
        refresh_salt = %(refresh_salt)s,
        last_use_time = %(now)s,
        last_source = %(source)s
    WHERE user_id = %(user_id)s AND id = %(session_id)s
    """,
    params={
        "user_id": UUID,
        "session_id": UUID,
        "refresh_hash": bytes,
        "refresh_salt": bytes,
        "now": datetime,
        "source": str,
    },
)

# --- endings: sessions that have ended already stay as they are -------------------------------------------------------

REVOKE_ONE = Statement(
    "sessions.revoke_one",
    _REVOKE + "WHERE user_id = %(user_id)s AND id = %(session_id)s AND" + _LIVES + "RETURNING id",
    row=EndedRow,
    params={"user_id": UUID, "session_id": UUID, "reason": str} | _LIVES_PARAMS,
)

REVOKE_ALL = Statement(
    "sessions.revoke_all",
    _REVOKE
    + "WHERE user_id = %(user_id)s AND (%(keep)s::uuid IS NULL OR id <> %(keep)s) AND"
    + _LIVES
    + "RETURNING id",
    row=EndedRow,
    params={"user_id": UUID, "keep": UUID | None, "reason": str} | _LIVES_PARAMS,
)

# Locked in one order, so that logins of one user at the same moment do not wait for each other in a circle.
REVOKE_SURPLUS = Statement(
    "sessions.revoke_surplus",
    _REVOKE
    + """
    WHERE user_id = %(user_id)s AND id = ANY (ARRAY(
        SELECT id FROM sessions
        WHERE user_id = %(user_id)s AND revoke_time IS NULL AND id IN (
            SELECT id FROM sessions
            WHERE user_id = %(user_id)s AND id <> %(keep)s AND"""
    + _LIVES
    + """
            ORDER BY create_time DESC, id DESC OFFSET %(others)s
        )
        ORDER BY id FOR UPDATE
    ))
    RETURNING id
    """,
    row=EndedRow,
    params={"user_id": UUID, "keep": UUID, "others": int, "reason": str} | _LIVES_PARAMS,
)

RAISE_VERSION = Statement(
    "sessions.raise_token_version",
    "UPDATE users SET token_version = token_version + 1 WHERE id = %(user_id)s RETURNING token_version",
    row=VersionRow,
    params={"user_id": UUID},
)

# --- shown, and pruned ------------------------------------------------------------------------------------------------

LIST = Statement(
    "sessions.list",
    "SELECT"
    + _COLUMNS
    + "FROM sessions WHERE user_id = %(user_id)s AND"
    + _LIVES
    + """
    AND (create_time, id) < (%(after_time)s, %(after_id)s)
    ORDER BY create_time DESC, id DESC LIMIT %(limit)s
    """,
    row=SessionRow,
    params={"user_id": UUID, "after_time": datetime, "after_id": UUID, "limit": int} | _LIVES_PARAMS,
)

FIND = Statement(
    "sessions.find",
    "SELECT" + _COLUMNS + "FROM sessions WHERE user_id = %(user_id)s AND id = %(session_id)s",
    row=SessionRow,
    params={"user_id": UUID, "session_id": UUID},
    missing=SessionNotFound,
)

PRUNE = Command(
    "sessions.prune",
    """
    DELETE FROM sessions WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM sessions
        WHERE least(expire_time, coalesce(revoke_time, 'infinity')) <= %(before)s
        ORDER BY least(expire_time, coalesce(revoke_time, 'infinity'))
        LIMIT %(batch)s
        FOR UPDATE SKIP LOCKED
    ))
    """,
    params={"before": datetime, "batch": int},
)
