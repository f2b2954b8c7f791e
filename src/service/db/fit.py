"""Whether a statement's Python declaration fits what PostgreSQL says of it: names, order, types, NULLs."""

from __future__ import annotations

import hashlib
import json
from datetime import date, datetime, timedelta
from decimal import Decimal
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from service.db.describe import DescribeError, numbered
from service.db.statement import Statement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.db.describe import Column, Description
    from service.db.statement import Query

_FITS: dict[Any, frozenset[str]] = {
    UUID: frozenset({"uuid"}),
    str: frozenset({"text", "character varying", "character"}),
    bool: frozenset({"boolean"}),
    int: frozenset({"smallint", "integer", "bigint"}),
    float: frozenset({"real", "double precision"}),
    Decimal: frozenset({"numeric"}),
    bytes: frozenset({"bytea"}),
    datetime: frozenset({"timestamp with time zone"}),
    date: frozenset({"date"}),
    timedelta: frozenset({"interval"}),
    dict: frozenset({"jsonb", "json"}),
}


def hints(statement: Statement[Any]) -> dict[str, Any]:
    """Return the row's fields and their types, in order."""
    return get_type_hints(statement.row)


def digest(query: Query) -> str:
    """Return the sha256 of everything the check depends on: the SQL and the declaration."""
    declared: list[object] = [type(query).__name__, query.sql, sorted(query.raises)]
    declared.append({name: _spell(kind) for name, kind in query.params.items()})
    if isinstance(query, Statement):
        declared += [[[name, _spell(kind)] for name, kind in hints(query).items()], sorted(query.not_null)]
    return hashlib.sha256(json.dumps(declared, sort_keys=True).encode()).hexdigest()


def faults(query: Query, description: Description) -> Iterator[str]:
    """Yield, in words, each way the declaration differs from the description."""
    yield from _param_faults(query, description.params)
    if isinstance(query, Statement):
        yield from _column_faults(query, description.columns)
    elif description.columns:
        yield "it is a Command, but its SQL returns columns: declare a Statement"
    for name in description.unknown_constraints:
        yield f"raises: the schema has no constraint and no unique index {name!r}"


def _param_faults(query: Query, params: dict[str, str]) -> Iterator[str]:
    try:
        used = set(numbered(query.sql)[1])
    except DescribeError as error:
        yield str(error)
        return
    yield from (f"parameter {name!r} is used but not declared" for name in sorted(used - query.params.keys()))
    yield from (f"parameter {name!r} is declared but not used" for name in sorted(query.params.keys() - used))
    for name, kind in query.params.items():
        base, _ = _split(kind)
        if name in params and not _fits(base, params[name]):
            yield f"parameter {name!r} is {params[name]}, declared {_spell(base)}"


def _column_faults(statement: Statement[Any], columns: tuple[Column, ...]) -> Iterator[str]:
    fields = hints(statement)
    names = [column.name for column in columns]
    if names != list(fields):
        yield f"the columns are {', '.join(names) or 'none'}; {statement.row.__name__} has {', '.join(fields)}"
        return
    yield from (f"not_null: there is no column {name!r}" for name in sorted(statement.not_null - set(names)))
    for column in columns:
        base, optional = _split(fields[column.name])
        if not _fits(base, column.type):
            yield f"column {column.name!r} is {column.type}, declared {_spell(base)}"
        if column.nullable and not optional and column.name not in statement.not_null:
            yield f"column {column.name!r} may be NULL, declared {_spell(base)}: add '| None', or name it in not_null"


def _split(kind: Any) -> tuple[Any, bool]:
    """Take ``X | None`` apart: X, and whether None was there."""
    if get_origin(kind) not in (Union, UnionType):
        return kind, False
    rest = [option for option in get_args(kind) if option is not NoneType]
    return (rest[0] if len(rest) == 1 else kind), NoneType in get_args(kind)


def _fits(kind: Any, type_name: str) -> bool:
    if get_origin(kind) is list:
        return type_name.endswith("[]") and _fits(get_args(kind)[0], type_name.removesuffix("[]"))
    return type_name in _FITS.get(get_origin(kind) or kind, ())


def _spell(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)
