"""What the roles feature's SQL promises that its callers cannot see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from service.roles.statements import HAS_OTHER_ADMINISTRATOR, IS_HELD

if TYPE_CHECKING:
    from service.db import Statement


@pytest.mark.parametrize(
    ("statement", "values"),
    [(IS_HELD, {"name": "rare"}), (HAS_OTHER_ADMINISTRATOR, {"user_id": "00000000-0000-0000-0000-000000000000"})],
    ids=lambda value: getattr(value, "name", ""),
)
def test_who_holds_a_role_is_found_by_its_index(url: str, statement: Statement[Any], values: dict[str, str]) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(
            "INSERT INTO users (id, email, email_canonical, roles) SELECT gen_random_uuid(), n || '@b.co',"
            " n || '@b.co', CASE WHEN n = 1 THEN '{admin}' ELSE ARRAY['role' || n % 20] END"
            " FROM generate_series(1, 20000) AS n"
        )
        conn.execute("ANALYZE users")
        rows = conn.execute(("EXPLAIN " + statement.sql).encode(), values, prepare=False).fetchall()
        plan = "\n".join(line for (line,) in rows)
    assert "users_roles_idx" in plan, plan
