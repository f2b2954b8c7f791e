"""Goes through the files, holds each statement against the rules, and lets through what is marked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pglast import parse_sql
from pglast.parser import ParseError
from tools.migration_lint.rules import ADVICE, refused
from tools.migration_lint.schema import Schema

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from service.db.migration_files import Migration

_MARK = re.compile(r"^[ \t]*-- gatelodge: allow\b(?P<rest>.*)$", re.MULTILINE)
_SAYS = re.compile(r" (?P<rule>[a-z-]+) because (?P<reason>\S.{9,})")


@dataclass(frozen=True)
class Finding:
    """One thing that is refused."""

    file: str
    line: int
    rule: str
    text: str

    def __str__(self) -> str:
        return f"migrations/{self.file}:{self.line}: {self.rule}: {self.text}"


@dataclass(frozen=True)
class _Mark:
    rule: str
    line: int


def lint(migrations: Iterable[Migration]) -> list[Finding]:
    """Return what is refused in these files, which are the whole history, in order."""
    schema = Schema()
    return [finding for migration in migrations for finding in _lint_file(migration, schema)]


def _lint_file(migration: Migration, schema: Schema) -> Iterator[Finding]:
    schema.begin_file()
    try:
        statements = parse_sql(migration.sql)
    except ParseError as error:
        yield Finding(migration.file, 1, "syntax", str(error))
        return
    end = 0
    for raw in statements:
        start, begin = end, raw.stmt_location or 0
        end = begin + raw.stmt_len if raw.stmt_len else len(migration.sql)
        line = _line(migration.sql, begin)
        marks = list(_marks(migration.sql, start, end))
        rules = list(refused(raw.stmt, schema, transaction=migration.transaction))
        allowed = {mark.rule for mark in marks}
        for rule in dict.fromkeys(rules):
            if rule not in allowed:
                text = f"{ADVICE[rule]} Else say: -- gatelodge: allow {rule} because …"
                yield Finding(migration.file, line, rule, text)
        for mark in marks:
            if mark.rule not in rules:
                text = "This mark has no `because` and a reason, or allows what the statement does not do."
                yield Finding(migration.file, mark.line, "mark", text)


def _marks(sql: str, start: int, end: int) -> Iterator[_Mark]:
    """Yield the marks above a statement or inside it."""
    for found in _MARK.finditer(sql, start, end):
        says = _SAYS.fullmatch(found["rest"].rstrip())
        yield _Mark(says["rule"] if says else "", _line(sql, found.start()))


def _line(sql: str, offset: int) -> int:
    return sql.count("\n", 0, offset) + 1
