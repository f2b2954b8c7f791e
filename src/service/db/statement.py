"""SQL statements as named, typed objects: values in, typed rows out, constraint name → domain error right there.

Declared in the features' ``statements.py``; proven against the migrated schema by ``db/proof.py`` before they run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Generic, LiteralString, TypeAlias, TypeVar, get_args, get_origin

import psycopg
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

from service.db.faults import raise_meaning
from service.db.spans import span_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Mapping

    from service.errors import DomainError

Connection: TypeAlias = psycopg.AsyncConnection[TupleRow]
"""A connection as the pool lends it. Rules pass it on; only statements look inside."""

Row = TypeVar("Row", bound=tuple[Any, ...])
AnyRow = TypeVar("AnyRow", bound=tuple[Any, ...])


class Query:
    """What `Statement` and `Command` share: a name, the SQL, its parameters' types, its constraints' errors.

    Args:
        name: ``feature.verb``; unique in the program, the span's name and the snapshot's key.
        sql: literal SQL with ``%(name)s`` placeholders.
        params: parameter name → Python type; ``X | None`` where NULL may be passed, ``dict`` for jsonb.
        raises: constraint name → what makes the domain error to raise for it.
        planned_anew: plan it for the values of each run instead of once for all: for optional filters, of which a plan
            for any values could use no index.

    """

    returns_rows: ClassVar[bool]

    def __init__(
        self,
        name: str,
        sql: LiteralString,
        *,
        params: Mapping[str, Any] | None = None,
        raises: Mapping[str, Callable[[], DomainError]] | None = None,
        planned_anew: bool = False,
    ) -> None:
        self.name = name
        self._options: dict[str, bool] = {"prepare": False} if planned_anew else {}
        self.sql: LiteralString = sql
        self.params = dict(params or {})
        self.raises = dict(raises or {})
        self.operation = sql.split(maxsplit=1)[0].upper()
        self._names = self.params.keys()
        self._json = tuple(key for key, kind in self.params.items() if _is_json(kind))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    async def _run(self, cursor: psycopg.AsyncCursor[AnyRow], values: dict[str, Any]) -> psycopg.AsyncCursor[AnyRow]:
        with span_of(self.name, self.operation, self.sql):
            return await self._execute(cursor, values)

    async def _execute(
        self, cursor: psycopg.AsyncCursor[AnyRow], values: dict[str, Any]
    ) -> psycopg.AsyncCursor[AnyRow]:
        try:
            return await cursor.execute(self.sql, self._bind(values), **self._options)
        except psycopg.Error as error:
            raise_meaning(error, self.raises)

    def _bind(self, values: dict[str, Any]) -> dict[str, Any]:
        if values.keys() != self._names:
            raise TypeError(f"{self.name} takes exactly {sorted(self._names)}, not {sorted(values)}")
        for key in self._json:
            if values[key] is not None:
                values[key] = Jsonb(values[key])
        return values


class Statement(Query, Generic[Row]):
    """A statement that returns rows of type `row`.

    Args:
        name: see `Query`.
        sql: see `Query`; its result columns are named, ordered and typed like `row`.
        row: the NamedTuple of one row.
        params: see `Query`.
        not_null: columns that can not be NULL although PostgreSQL can not tell (expressions, outer joins).
        missing: makes the domain error `one` raises when there is no row.
        raises: see `Query`.
        planned_anew: see `Query`.

    Every fetch takes the declared parameters by keyword and raises:
        TypeError: the keywords are not exactly the declared ones.
        DependencyUnavailable: the connection is lost.
        DeadlineExceeded: the statement timeout passed.
        Conflict: a deadlock, a serialization failure or a lock not to be had.
        DomainError: what `raises` says of a broken constraint.

    """

    returns_rows = True

    def __init__(
        self,
        name: str,
        sql: LiteralString,
        *,
        row: type[Row],
        params: Mapping[str, Any] | None = None,
        not_null: Iterable[str] = (),
        missing: Callable[[], DomainError] | None = None,
        raises: Mapping[str, Callable[[], DomainError]] | None = None,
        planned_anew: bool = False,
    ) -> None:
        super().__init__(name, sql, params=params, raises=raises, planned_anew=planned_anew)
        self.row = row
        self.not_null = frozenset(not_null)
        self.missing = missing
        make: Callable[[Iterable[Any]], Row] = getattr(row, "_make")  # noqa: B009 - NamedTuple has no nameable type
        self.make_row = make

    def _rows(self, _cursor: object) -> Callable[[Iterable[Any]], Row]:
        return self.make_row

    async def all(self, conn: Connection, **values: object) -> list[Row]:
        """Return every row. For results of bounded size; `stream` is for the others."""
        cursor = await self._run(conn.cursor(row_factory=self._rows), values)
        return await cursor.fetchall()

    async def optional(self, conn: Connection, **values: object) -> Row | None:
        """Return the row, or None if there is none. More than one is a fault of the statement (RuntimeError)."""
        cursor = await self._run(conn.cursor(row_factory=self._rows), values)
        if cursor.rowcount > 1:
            raise RuntimeError(f"{self.name} gave {cursor.rowcount} rows where one at most was meant")
        return await cursor.fetchone()

    async def one(self, conn: Connection, **values: object) -> Row:
        """Return the row; without one raise what `missing` makes (RuntimeError without it)."""
        row = await self.optional(conn, **values)
        if row is None:
            raise self.nothing()
        return row

    def nothing(self) -> Exception:
        """Return what is raised when there is no row where one was meant."""
        return self.missing() if self.missing else RuntimeError(f"{self.name} gave no row where one was meant")

    async def stream(self, conn: Connection, *, batch: int = 500, **values: object) -> AsyncGenerator[Row, None]:
        """Yield the rows by a server-side cursor, `batch` at a time, in flat memory. Needs an open transaction.

        `Database.stream` opens one. Close the iterator (``contextlib.aclosing``) when leaving it early.
        """
        async with conn.cursor(self.name, row_factory=self._rows) as cursor:
            cursor.itersize = batch
            await self._run(cursor, values)
            try:
                async for row in cursor:
                    yield row
            except psycopg.Error as error:
                raise_meaning(error)


class Command(Query):
    """A statement without rows. Arguments as in `Query`."""

    returns_rows = False

    async def execute(self, conn: Connection, **values: object) -> int:
        """Run it with the declared parameters by keyword; return the number of rows touched. Raises as `Statement`."""
        cursor = await self._run(conn.cursor(), values)
        return cursor.rowcount


def _is_json(kind: object) -> bool:
    return any(option is dict or get_origin(option) is dict for option in (kind, *get_args(kind)))
