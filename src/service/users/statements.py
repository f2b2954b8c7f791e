"""The users feature's SQL. Each statement is proven against the migrated schema before it ships."""

from __future__ import annotations

from datetime import datetime
from typing import Final, LiteralString, NamedTuple
from uuid import UUID

from service.db.statement import Command, Statement
from service.errors import EmailTaken, UserNotFound


class UserRow(NamedTuple):
    """A row of ``users``."""

    id: UUID
    email: str
    email_canonical: str
    display_name: str
    state: str
    disable_reason: str
    roles: list[str]
    email_verified: bool
    version: int
    create_time: datetime
    update_time: datetime
    delete_time: datetime | None
    purge_time: datetime | None


class PurgedRow(NamedTuple):
    """A user who is gone."""

    id: UUID


_COLUMNS: Final[LiteralString] = """
    id, email, email_canonical, display_name, state, disable_reason, roles, email_verified, version,
    create_time, update_time, delete_time, purge_time
"""

FIND_BY_ID = Statement(
    "users.find_by_id",
    "SELECT" + _COLUMNS + "FROM users WHERE id = %(user_id)s",
    row=UserRow,
    params={"user_id": UUID},
    missing=UserNotFound,
)

FIND_ALL_BY_ID = Statement(
    "users.find_all_by_id",
    "SELECT" + _COLUMNS + "FROM users WHERE id = ANY(%(user_ids)s)",
    row=UserRow,
    params={"user_ids": list[UUID]},
)

FIND_BY_EMAIL = Statement(
    "users.find_by_email",
    "SELECT" + _COLUMNS + "FROM users WHERE email_canonical = %(email_canonical)s",
    row=UserRow,
    params={"email_canonical": str},
    missing=UserNotFound,
)

# No row: the address is taken. Not an error of PostgreSQL's, so that the caller's transaction can go on.
INSERT = Statement(
    "users.insert",
    """
    INSERT INTO users (id, email, email_canonical, display_name, roles)
    VALUES (%(user_id)s, %(email)s, %(email_canonical)s, %(display_name)s, %(roles)s)
    ON CONFLICT ON CONSTRAINT users_email_canonical_key DO NOTHING
    RETURNING"""
    + _COLUMNS,
    row=UserRow,
    params={"user_id": UUID, "email": str, "email_canonical": str, "display_name": str, "roles": list[str]},
)

# Whoever changes a user holds the row from here to the end of the transaction, so that an etag is compared once.
LOCK = Statement(
    "users.lock",
    "SELECT" + _COLUMNS + "FROM users WHERE id = %(user_id)s FOR UPDATE",
    row=UserRow,
    params={"user_id": UUID},
    missing=UserNotFound,
)

SAVE = Statement(
    "users.save",
    """
    UPDATE users SET
        email = %(email)s,
        email_canonical = %(email_canonical)s,
        email_verified = %(email_verified)s,
        display_name = %(display_name)s,
        state = %(state)s,
        disable_reason = %(disable_reason)s,
        delete_time = %(delete_time)s,
        purge_time = %(purge_time)s,
        update_time = %(update_time)s,
        version = version + 1
    WHERE id = %(user_id)s
    RETURNING"""
    + _COLUMNS,
    row=UserRow,
    params={
        "user_id": UUID,
        "email": str,
        "email_canonical": str,
        "email_verified": bool,
        "display_name": str,
        "state": str,
        "disable_reason": str,
        "delete_time": datetime | None,
        "purge_time": datetime | None,
        "update_time": datetime,
    },
    missing=UserNotFound,
    raises={"users_email_canonical_key": EmailTaken},
)

ERASE = Command("users.erase", "DELETE FROM users WHERE id = %(user_id)s", params={"user_id": UUID})

PURGE = Statement(
    "users.purge",
    """
    DELETE FROM users WHERE id IN (
        SELECT id FROM users WHERE purge_time <= %(now)s ORDER BY purge_time LIMIT %(limit)s FOR UPDATE SKIP LOCKED
    )
    RETURNING id
    """,
    row=PurgedRow,
    params={"now": datetime, "limit": int},
)

# --- lists: one statement an order; filters that are not set are folded away when it is planned -----------------------

_MATCHES: Final[LiteralString] = """
    (%(state)s::text IS NULL OR state = %(state)s)
    AND (%(email_pattern)s::text IS NULL OR email_canonical COLLATE "C" LIKE %(email_pattern)s)
    AND (%(role)s::text IS NULL OR roles @> ARRAY[%(role)s])
    AND (%(created_from)s::timestamptz IS NULL OR create_time >= %(created_from)s)
    AND (%(created_until)s::timestamptz IS NULL OR create_time < %(created_until)s)
    AND (%(text_pattern)s::text IS NULL OR lower(email_canonical || ' ' || display_name) LIKE lower(%(text_pattern)s))
    AND (%(show_deleted)s OR delete_time IS NULL)
"""

_FILTERS = {
    "state": str | None,
    "email_pattern": str | None,
    "role": str | None,
    "created_from": datetime | None,
    "created_until": datetime | None,
    "text_pattern": str | None,
    "show_deleted": bool,
    "limit": int,
}

LIST_OLDEST_FIRST = Statement(
    "users.list_oldest_first",
    "SELECT"
    + _COLUMNS
    + "FROM users WHERE"
    + _MATCHES
    + """
    AND (create_time, id) > (%(after_time)s, %(after_id)s)
    ORDER BY create_time, id LIMIT %(limit)s
    """,
    row=UserRow,
    params=_FILTERS | {"after_time": datetime, "after_id": UUID},
    planned_anew=True,
)

EXPORT = Statement(
    "users.export",
    "SELECT"
    + _COLUMNS
    + """
    FROM users
    WHERE (%(show_deleted)s OR delete_time IS NULL) AND (create_time, id) > (%(after_time)s, %(after_id)s)
    ORDER BY create_time, id
    """,
    row=UserRow,
    params={"show_deleted": bool, "after_time": datetime, "after_id": UUID},
)

LIST_NEWEST_FIRST = Statement(
    "users.list_newest_first",
    "SELECT"
    + _COLUMNS
    + "FROM users WHERE"
    + _MATCHES
    + """
    AND (create_time, id) < (%(after_time)s, %(after_id)s)
    ORDER BY create_time DESC, id DESC LIMIT %(limit)s
    """,
    row=UserRow,
    params=_FILTERS | {"after_time": datetime, "after_id": UUID},
    planned_anew=True,
)

LIST_BY_EMAIL = Statement(
    "users.list_by_email",
    "SELECT"
    + _COLUMNS
    + "FROM users WHERE"
    + _MATCHES
    + """
    AND email_canonical COLLATE "C" > %(after_email)s
    ORDER BY email_canonical COLLATE "C" LIMIT %(limit)s
    """,
    row=UserRow,
    params=_FILTERS | {"after_email": str},
    planned_anew=True,
)

LIST_BY_EMAIL_BACKWARDS = Statement(
    "users.list_by_email_backwards",
    "SELECT"
    + _COLUMNS
    + "FROM users WHERE"
    + _MATCHES
    + """
    AND (%(after_email)s::text IS NULL OR email_canonical COLLATE "C" < %(after_email)s)
    ORDER BY email_canonical COLLATE "C" DESC LIMIT %(limit)s
    """,
    row=UserRow,
    params=_FILTERS | {"after_email": str | None},
    planned_anew=True,
)
