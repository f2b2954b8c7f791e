"""What PostgreSQL says of a statement without running it: its parameters' types, its columns, what may be NULL."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import psycopg
from psycopg import pq

if TYPE_CHECKING:
    from service.db.statement import Query

_PLACEHOLDER = re.compile(r"%(?:\((?P<name>\w+)\)[sbt]|(?P<percent>%)|(?P<bad>.?))", re.DOTALL)
_MAY_ADD_NULLS = re.compile(
    r"\b(left|right|full)\s+(outer\s+)?join\b|\b(rollup|cube|grouping\s+sets)\b|\b(old|new)\s*\.", re.IGNORECASE
)


class Column(NamedTuple):
    """One column of a statement's result."""

    name: str
    type: str
    nullable: bool
    """Whether it may be NULL, as far as PostgreSQL can tell."""


@dataclass(frozen=True, slots=True)
class Description:
    """A statement as PostgreSQL understands it."""

    params: dict[str, str]
    columns: tuple[Column, ...]
    unknown_constraints: tuple[str, ...] = ()


class DescribeError(Exception):
    """PostgreSQL does not accept the statement; the message is its own."""


def numbered(sql: str) -> tuple[str, tuple[str, ...]]:
    """Rewrite ``%(x)s`` to ``$n``; return the SQL and the names in order.

    Raises:
        DescribeError: a stray percent sign.

    """
    names: list[str] = []

    def replace(match: re.Match[str]) -> str:
        if match["percent"]:
            return "%"
        if match["name"] is None:
            raise DescribeError(f"'%{match['bad']}' is no placeholder: write %(name)s, or %% for a percent sign")
        if match["name"] not in names:
            names.append(match["name"])
        return f"${names.index(match['name']) + 1}"

    return _PLACEHOLDER.sub(replace, sql), tuple(names)


def describe(conn: psycopg.Connection, query: Query) -> Description:
    """Prepare `query` on a connection in autocommit to a migrated database and return what PostgreSQL makes of it.

    Raises:
        DescribeError: it does not compile.

    """
    sql, names = numbered(query.sql)
    _expect(conn.pgconn.prepare(b"", sql.encode()), pq.ExecStatus.COMMAND_OK)
    result = _expect(conn.pgconn.describe_prepared(b""), pq.ExecStatus.COMMAND_OK)
    params = {name: _type_name(conn, result.param_type(index)) for index, name in enumerate(names)}
    return Description(params, tuple(_columns(conn, query, result)), _unknown_constraints(conn, query))


def _expect(result: pq.abc.PGresult, status: pq.ExecStatus) -> pq.abc.PGresult:
    if result.status != status:
        raise DescribeError(result.error_message.decode(errors="replace").strip())
    return result


def _columns(conn: psycopg.Connection, query: Query, result: pq.abc.PGresult) -> list[Column]:
    nulls_added = _MAY_ADD_NULLS.search(query.sql) is not None
    return [
        Column(
            (result.fname(index) or b"").decode(),
            _type_name(conn, result.ftype(index)),
            nulls_added or not _not_null(conn, result.ftable(index), result.ftablecol(index)),
        )
        for index in range(result.nfields)
    ]


def _type_name(conn: psycopg.Connection, oid: int) -> str:
    row = conn.execute("SELECT format_type(%s::oid, NULL)", (oid,)).fetchone()
    return str(row[0]) if row else "?"


def _not_null(conn: psycopg.Connection, table: int, column: int) -> bool:
    sql = "SELECT attnotnull FROM pg_attribute WHERE attrelid = %s::oid AND attnum = %s"
    return conn.execute(sql, (table, column)).fetchone() == (True,)


def _unknown_constraints(conn: psycopg.Connection, query: Query) -> tuple[str, ...]:
    sql = "SELECT conname::text FROM pg_constraint UNION SELECT indexrelid::regclass::text FROM pg_index"
    known = {row[0] for row in conn.execute(sql)} if query.raises else set()
    return tuple(sorted(query.raises.keys() - known))
