"""The users feature's SQL. Each statement is proven against the migrated schema before it ships."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from service.db.statement import Statement


class UserRow(NamedTuple):
    """A row of ``users`` as the API shows it."""

    id: UUID
    email: str
    display_name: str
    state: str
    roles: list[str]
    email_verified: bool
    version: int
    create_time: datetime
    update_time: datetime
    delete_time: datetime | None


FIND_BY_ID = Statement(
    "users.find_by_id",
    """
    SELECT id, email, display_name, state, roles, email_verified, version, create_time, update_time, delete_time
    FROM users
    WHERE id = %(user_id)s
    """,
    row=UserRow,
    params={"user_id": UUID},
)

FIND_ALL_BY_ID = Statement(
    "users.find_all_by_id",
    """
    SELECT id, email, display_name, state, roles, email_verified, version, create_time, update_time, delete_time
    FROM users
    WHERE id = ANY(%(user_ids)s)
    """,
    row=UserRow,
    params={"user_ids": list[UUID]},
)

FIND_BY_EMAIL = Statement(
    "users.find_by_email",
    """
    SELECT id, email, display_name, state, roles, email_verified, version, create_time, update_time, delete_time
    FROM users
    WHERE email_canonical = %(email_canonical)s
    """,
    row=UserRow,
    params={"email_canonical": str},
)

# No row: the address is taken. Not an error of PostgreSQL's, so that the caller's transaction can go on.
INSERT = Statement(
    "users.insert",
    """
    INSERT INTO users (id, email, email_canonical, display_name, roles)
    VALUES (%(user_id)s, %(email)s, %(email_canonical)s, %(display_name)s, %(roles)s)
    ON CONFLICT ON CONSTRAINT users_email_canonical_key DO NOTHING
    RETURNING id, email, display_name, state, roles, email_verified, version, create_time, update_time, delete_time
    """,
    row=UserRow,
    params={"user_id": UUID, "email": str, "email_canonical": str, "display_name": str, "roles": list[str]},
)
