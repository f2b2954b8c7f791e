"""What the files so far have made, as far as the rules need it."""

from __future__ import annotations

from typing import Any

from pglast import ast
from pglast.enums import NullTestType


class Schema:
    """Grows as the files are gone through."""

    def __init__(self) -> None:
        self._new: set[str] = set()
        self._not_null: dict[tuple[str, str], str] = {}
        self._validated: set[tuple[str, str]] = set()

    def begin_file(self) -> None:
        """From now on, what was made so far is in use."""
        self._new.clear()

    def make(self, name: str) -> None:
        """Note a table or an index."""
        self._new.add(name)

    def in_use(self, name: str) -> bool:
        """Tell whether others may use it."""
        return name not in self._new

    def checked(self, table: str, constraint: Any) -> None:
        """Note a check; it counts once it is validated."""
        match constraint.raw_expr:
            case ast.NullTest(arg=ast.ColumnRef(fields=fields), nulltesttype=NullTestType.IS_NOT_NULL) if fields:
                column = fields[-1].sval
                self._not_null[table, constraint.conname or ""] = column
                if not constraint.skip_validation:
                    self._validated.add((table, column))

    def validated(self, table: str, constraint: str) -> None:
        """Note that all rows pass a check."""
        if column := self._not_null.get((table, constraint)):
            self._validated.add((table, column))

    def never_null(self, table: str, column: str) -> bool:
        """Tell whether a validated check says so."""
        return (table, column) in self._validated
