"""The rules: which statements are refused, and what to do instead.

What is not known to be harmless is refused: the lists below are of what may pass. A table made in the same file is
free, because nobody uses it yet. Nodes are Any: pglast types every one of their fields as perhaps None.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pglast import ast
from pglast.enums import AlterTableType as Alter
from pglast.enums import ConstrType, ObjectType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tools.migration_lint.schema import Schema

ADVICE = {
    "add-constraint": "Checks every row while all others wait. Add it NOT VALID; VALIDATE CONSTRAINT in a later file.",
    "add-key": "Builds an index while all others wait. CREATE UNIQUE INDEX CONCURRENTLY, then ADD … USING INDEX.",
    "alter-table": "Not known to be harmless.",
    "alter-type": "Rewrites the table, and the release before may not read the type. Add a column and fill it.",
    "create-index": "Keeps writers out while it builds. CREATE INDEX CONCURRENTLY, in a file without a transaction.",
    "create-trigger": "Changes what the writes of the release before do.",
    "delete": "Locks rows for as long as it takes. Delete in batches, from a job or in a file without a transaction.",
    "do-block": "Nobody can see what it does.",
    "drop": "The release before may use it. Drop it one release after the last that does.",
    "drop-column": "The release before may use it. Drop it one release after the last that does.",
    "drop-constraint": "The release before may count on it.",
    "drop-index": "Makes all others wait. DROP INDEX CONCURRENTLY, in a file without a transaction.",
    "drop-table": "The release before may use it. Drop it one release after the last that does.",
    "generated-column": "Rewrites the table while all others wait. Add a plain column and fill it in batches.",
    "in-a-transaction": "CONCURRENTLY cannot run in one: begin the file with `-- gatelodge: no-transaction`.",
    "lock": "Makes all others wait.",
    "not-null": "No row has it, nor do the rows that the release before writes. Give a constant default.",
    "not-repeatable": "A run that was killed is run again: say IF NOT EXISTS, or IF EXISTS.",
    "rename": "The release before knows the old name. Add, write both, read the new one, drop the old one.",
    "replace": "The release before uses what it was. Give the new one a name of its own.",
    "rewrite": "Rewrites the table or an index while all others wait.",
    "set-not-null": "Reads every row while all others wait. CHECK (… IS NOT NULL) NOT VALID first, and VALIDATE it.",
    "truncate": "Everything is gone, and all others wait.",
    "unknown-statement": "Not known to be harmless.",
    "update": "Locks rows for as long as it takes. Update in batches, from a job or in a file without a transaction.",
    "volatile-default": "Rewrites the table while all others wait. Add the column without, then set the default.",
}

_HARMLESS = (
    ast.AlterEnumStmt,
    ast.CommentStmt,
    ast.CompositeTypeStmt,
    ast.CreateEnumStmt,
    ast.CreateExtensionStmt,
    ast.CreateSchemaStmt,
    ast.CreateSeqStmt,
    ast.CreateStmt,
    ast.CreateTableAsStmt,
    ast.GrantStmt,
    ast.InsertStmt,
    ast.SelectStmt,
    ast.VariableSetStmt,
)
_HARMLESS_CHANGES = {
    Alter.AT_ChangeOwner,
    Alter.AT_ColumnDefault,
    Alter.AT_DropNotNull,
    Alter.AT_ResetOptions,
    Alter.AT_ResetRelOptions,
    Alter.AT_SetOptions,
    Alter.AT_SetRelOptions,
    Alter.AT_SetStatistics,
    Alter.AT_ValidateConstraint,
}
_STABLE = {"now", "transaction_timestamp", "statement_timestamp"}
_KEYS = {ConstrType.CONSTR_PRIMARY, ConstrType.CONSTR_UNIQUE, ConstrType.CONSTR_EXCLUSION}
_CHECKS = {ConstrType.CONSTR_CHECK, ConstrType.CONSTR_FOREIGN, ConstrType.CONSTR_NOTNULL}
_GENERATED = {ConstrType.CONSTR_GENERATED, ConstrType.CONSTR_IDENTITY}
_DROPS = {ObjectType.OBJECT_TABLE: "drop-table", ObjectType.OBJECT_INDEX: "drop-index"}
_OF_A_TABLE: dict[type, str] = {
    ast.CreateTrigStmt: "create-trigger",
    ast.DeleteStmt: "delete",
    ast.LockStmt: "lock",
    ast.RenameStmt: "rename",
    ast.TruncateStmt: "truncate",
    ast.UpdateStmt: "update",
}
_SERIALS = {"serial", "bigserial", "smallserial", "serial2", "serial4", "serial8"}


def refused(statement: Any, schema: Schema, *, transaction: bool) -> Iterator[str]:
    """Yield the rules that a statement breaks, and note in `schema` what it makes."""
    match statement:
        case ast.CreateStmt():
            schema.make(_name(statement.relation))
        case ast.CreateTableAsStmt(into=ast.IntoClause(rel=table)):
            schema.make(_name(table))
        case ast.IndexStmt():
            yield from _index(statement, schema, transaction=transaction)
        case ast.AlterTableStmt():
            yield from _alter_table(statement, schema)
        case ast.DropStmt():
            yield from _drop(statement, schema, transaction=transaction)
        case _ if rule := _OF_A_TABLE.get(type(statement)):
            tables = getattr(statement, "relations", None) or (statement.relation,)
            yield from [rule] * any(table is None or schema.in_use(_name(table)) for table in tables)
        case _:
            yield from _of_no_table(statement)
    yield from _changes_within(statement, schema)


def _of_no_table(statement: Any) -> Iterator[str]:
    match statement:
        case ast.CreateFunctionStmt() | ast.ViewStmt():
            yield from ["replace"] * bool(statement.replace)
        case ast.VacuumStmt():
            yield from ["rewrite"] * any(option.defname == "full" for option in statement.options or ())
        case ast.ReindexStmt() | ast.RefreshMatViewStmt():
            yield from ["rewrite"] * (not _concurrent(statement))
        case ast.DoStmt():
            yield "do-block"
        case _ if type(statement).__name__ in {"ClusterStmt", "RepackStmt"}:
            yield "rewrite"
        case _ if not isinstance(statement, _HARMLESS):
            yield "unknown-statement"


def _concurrent(statement: Any) -> bool:
    if isinstance(statement, ast.RefreshMatViewStmt):
        return bool(statement.concurrent)
    return any(option.defname == "concurrently" for option in statement.params or ())


def _changes_within(statement: Any, schema: Schema) -> Iterator[str]:
    """Yield from changes in WITH, which any statement can begin with."""
    clause = getattr(statement, "withClause", None)
    for cte in clause.ctes if clause else ():
        match cte.ctequery:
            case ast.UpdateStmt() | ast.DeleteStmt() as change:
                yield from [_OF_A_TABLE[type(change)]] * schema.in_use(_name(change.relation))


def _index(statement: Any, schema: Schema, *, transaction: bool) -> Iterator[str]:
    if statement.concurrent:
        yield from ["in-a-transaction"] * transaction
        yield from ["not-repeatable"] * (not statement.if_not_exists)
    elif schema.in_use(_name(statement.relation)):
        yield "create-index"
    if statement.idxname:
        schema.make(_qualified(statement.relation.schemaname, statement.idxname))


def _drop(statement: Any, schema: Schema, *, transaction: bool) -> Iterator[str]:
    rule = _DROPS.get(ObjectType(statement.removeType), "drop")
    if statement.concurrent:
        yield from ["in-a-transaction"] * transaction
        yield from ["not-repeatable"] * (not statement.missing_ok)
    elif rule == "drop" or any(schema.in_use(_path(names)) for names in statement.objects):
        yield rule


def _alter_table(statement: Any, schema: Schema) -> Iterator[str]:
    table = _name(statement.relation)
    for change in statement.cmds:
        if schema.in_use(table):
            yield from _change(change, table, schema)
        if change.subtype == Alter.AT_AddConstraint:
            schema.checked(table, change.def_)
        if change.subtype == Alter.AT_ValidateConstraint:
            schema.validated(table, change.name)


def _change(change: Any, table: str, schema: Schema) -> Iterator[str]:
    match change.subtype:
        case Alter.AT_AddColumn:
            yield from _add_column(change.def_)
        case Alter.AT_AddConstraint:
            yield from _add_constraint(change.def_)
        case Alter.AT_DropColumn:
            yield "drop-column"
        case Alter.AT_DropConstraint:
            yield "drop-constraint"
        case Alter.AT_AlterColumnType:
            yield "alter-type"
        case Alter.AT_SetNotNull:
            yield from ["set-not-null"] * (not schema.never_null(table, change.name))
        case other if other not in _HARMLESS_CHANGES:
            yield "alter-table"


def _add_column(column: Any) -> Iterator[str]:
    by_kind = {ConstrType(constraint.contype): constraint for constraint in column.constraints or ()}
    default = by_kind.get(ConstrType.CONSTR_DEFAULT)
    if ConstrType.CONSTR_NOTNULL in by_kind and default is None and not by_kind.keys() & _GENERATED:
        yield "not-null"
    if default is not None and _volatile(default.raw_expr):
        yield "volatile-default"
    if by_kind.keys() & _GENERATED or column.typeName.names[-1].sval in _SERIALS:
        yield "generated-column"
    if by_kind.keys() & _KEYS:
        yield "add-key"
    if by_kind.keys() & (_CHECKS - {ConstrType.CONSTR_NOTNULL}):
        yield "add-constraint"


def _add_constraint(constraint: Any) -> Iterator[str]:
    if constraint.contype in _KEYS and not constraint.indexname:
        yield "add-key"
    if constraint.contype in _CHECKS and not constraint.skip_validation:
        yield "add-constraint"


def _volatile(expression: Any) -> bool:
    """Tell whether a default might differ from row to row, so that PostgreSQL writes every row anew."""
    match expression:
        case ast.A_Const() | ast.SQLValueFunction():
            return False
        case ast.TypeCast():
            return _volatile(expression.arg)
        case ast.A_ArrayExpr():
            return any(_volatile(element) for element in expression.elements or ())
        case ast.FuncCall(funcname=[*_, name]):
            return name.sval not in _STABLE or bool(expression.args)
    return True


def _name(relation: Any) -> str:
    return _qualified(relation.schemaname, relation.relname)


def _path(names: Any) -> str:
    parts = [name.sval for name in (names if isinstance(names, tuple) else (names,))]
    return _qualified(parts[-2] if len(parts) > 1 else None, parts[-1])


def _qualified(schema: str | None, name: str) -> str:
    return f"{schema or 'public'}.{name}"
