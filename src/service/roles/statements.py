"""The roles feature's SQL. Each statement is proven against the migrated schema before it ships."""

from __future__ import annotations

from datetime import datetime
from typing import Final, LiteralString, NamedTuple
from uuid import UUID

from service.db.statement import Command, Statement
from service.errors import RoleNotFound, UserNotFound


class RoleRow(NamedTuple):
    """A row of ``roles``."""

    name: str
    description: str
    permissions: list[str]
    built_in: bool
    version: int
    create_time: datetime
    update_time: datetime


class DefinitionRow(NamedTuple):
    """What a role allows."""

    name: str
    permissions: list[str]


class HeldRow(NamedTuple):
    """What a user holds now."""

    may_log_in: bool
    roles: list[str]
    permissions: list[str]


class YesRow(NamedTuple):
    """The answer to a question."""

    yes: bool


class NameRow(NamedTuple):
    """The name of a role."""

    name: str


class GrantedRow(NamedTuple):
    """A user's roles after a change, and the user's version."""

    roles: list[str]
    version: int


_COLUMNS: Final[LiteralString] = " name, description, permissions, built_in, version, create_time, update_time "

FIND = Statement(
    "roles.find",
    "SELECT" + _COLUMNS + "FROM roles WHERE name = %(name)s",
    row=RoleRow,
    params={"name": str},
    missing=RoleNotFound,
)

LIST = Statement(
    "roles.list",
    "SELECT" + _COLUMNS + "FROM roles WHERE name > %(after)s ORDER BY name LIMIT %(limit)s",
    row=RoleRow,
    params={"after": str, "limit": int},
)

LIST_DEFINITIONS = Statement(
    "roles.list_definitions", "SELECT name, permissions FROM roles", row=DefinitionRow, params={}
)

# Whoever changes or removes a role holds its row, and waits for those who are granting it.
LOCK = Statement(
    "roles.lock",
    "SELECT" + _COLUMNS + "FROM roles WHERE name = %(name)s FOR UPDATE",
    row=RoleRow,
    params={"name": str},
    missing=RoleNotFound,
)

# Whoever grants a role keeps it as it is until the grant is there. They hold the user's row first, always.
LOCK_SHARED = Statement(
    "roles.lock_shared",
    "SELECT" + _COLUMNS + "FROM roles WHERE name = %(name)s FOR SHARE",
    row=RoleRow,
    params={"name": str},
    missing=RoleNotFound,
)

# No row: there is a role of this name.
INSERT = Statement(
    "roles.insert",
    """
    INSERT INTO roles (name, description, permissions)
    VALUES (%(name)s, %(description)s, %(permissions)s)
    ON CONFLICT ON CONSTRAINT roles_pkey DO NOTHING
    RETURNING"""
    + _COLUMNS,
    row=RoleRow,
    params={"name": str, "description": str, "permissions": list[str]},
)

SAVE = Statement(
    "roles.save",
    """
    UPDATE roles SET
        description = %(description)s,
        permissions = %(permissions)s,
        update_time = %(update_time)s,
        version = version + 1
    WHERE name = %(name)s
    RETURNING"""
    + _COLUMNS,
    row=RoleRow,
    params={"name": str, "description": str, "permissions": list[str], "update_time": datetime},
    missing=RoleNotFound,
)

DELETE = Command("roles.delete", "DELETE FROM roles WHERE name = %(name)s", params={"name": str})

# Deleted users count: they can be undeleted. Counted, because for EXISTS the planner hopes to meet one soon, and reads
# all users where there is none.
IS_HELD = Statement(
    "roles.is_held",
    "SELECT count(*) > 0 AS yes FROM users WHERE roles @> ARRAY[%(name)s]",
    row=YesRow,
    params={"name": str},
    not_null={"yes"},
)

# --- who holds what --------------------------------------------------------------------------------------------------

FIND_HELD = Statement(
    "roles.find_held",
    """
    SELECT
        state = 'active' AND delete_time IS NULL AS may_log_in,
        roles,
        ARRAY(
            SELECT DISTINCT permission
            FROM roles AS defined, unnest(defined.permissions) AS permission
            WHERE defined.name = ANY(users.roles)
            ORDER BY permission
        ) AS permissions
    FROM users
    WHERE id = %(user_id)s
    """,
    row=HeldRow,
    params={"user_id": UUID},
    not_null={"may_log_in", "permissions"},
    missing=UserNotFound,
)

SET_HELD = Statement(
    "roles.set_held",
    """
    UPDATE users SET roles = %(roles)s, update_time = %(update_time)s, version = version + 1
    WHERE id = %(user_id)s
    RETURNING roles, version
    """,
    row=GrantedRow,
    params={"user_id": UUID, "roles": list[str], "update_time": datetime},
    missing=UserNotFound,
)

# --- administrators: those who hold `admin` and can log in -----------------------------------------------------------

_ADMINISTRATORS: Final[LiteralString] = """
    users JOIN passwords ON passwords.user_id = users.id
    WHERE users.roles @> ARRAY['admin'] AND users.state = 'active' AND users.delete_time IS NULL
"""

IS_ADMINISTRATOR = Statement(
    "roles.is_administrator",
    "SELECT EXISTS (SELECT FROM" + _ADMINISTRATORS + "AND users.id = %(user_id)s) AS yes",
    row=YesRow,
    params={"user_id": UUID},
    not_null={"yes"},
)

# Two who remove the last two administrators meet here: the second one sees what the first has done.
LOCK_ADMINISTRATORS = Statement(
    "roles.lock_administrators", "SELECT name FROM roles WHERE name = 'admin' FOR UPDATE", row=NameRow, params={}
)

HAS_OTHER_ADMINISTRATOR = Statement(
    "roles.has_other_administrator",
    "SELECT count(*) > 0 AS yes FROM" + _ADMINISTRATORS + "AND users.id <> %(user_id)s",
    row=YesRow,
    params={"user_id": UUID},
    not_null={"yes"},
)
