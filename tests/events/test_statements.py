"""What the events feature's SQL promises that its callers cannot see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from service.db.describe import numbered
from service.events.statements import LIST, LIST_ABOUT_SUBJECT, LIST_BY_ACTOR, LIST_OF_TYPE, READ_ON

if TYPE_CHECKING:
    from service.db import Statement


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (LIST, "events_by_time"),
        (LIST_OF_TYPE, "events_by_type"),
        (LIST_BY_ACTOR, "events_by_actor"),
        (LIST_ABOUT_SUBJECT, "events_by_subject"),
        (READ_ON, "event_positions_pkey"),
    ],
)
def test_each_filter_is_answered_by_its_index(url: str, statement: Statement[Any], index: str) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(
            "INSERT INTO events (id, type, subject, actor) SELECT gen_random_uuid(), 'test.' || n % 50,"
            " md5((n % 500)::text)::uuid, md5((n % 300)::text)::uuid FROM generate_series(1, 20000) AS n"
        )
        conn.execute("ANALYZE events, event_positions")
        explain = "EXPLAIN (GENERIC_PLAN) " + numbered(statement.sql)[0]
        plan = "\n".join(line for (line,) in conn.execute(explain.encode()))
    assert index in plan, plan
    assert "Seq Scan" not in plan, plan
