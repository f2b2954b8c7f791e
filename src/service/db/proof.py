"""The SQL proof: every statement of every feature is checked against the migrated schema before it runs (C2).

    python -m service.db.proof            prove on an embedded PostgreSQL, and compare the snapshot
    python -m service.db.proof --write    prove, and rewrite the snapshot
    python -m service.db.proof --check    compare with the snapshot alone: no database

The snapshot, ``migrations/proof.json``, holds what PostgreSQL said, so the same check runs where there is none.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from service.db import clone
from service.db.describe import Column, DescribeError, Description, describe
from service.db.embedded import EmbeddedPostgres
from service.db.fit import digest, faults
from service.db.migration_files import digest as schema_digest
from service.db.migration_files import folder, load
from service.db.statement import Query

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import ModuleType

    from service.db.migration_files import Migration

SNAPSHOT = "proof.json"
_NULLABLE = " | null"


class ProofError(Exception):
    """Statements are wrong or the snapshot is stale; the message lists every fault of every statement."""


def discover(package: ModuleType) -> tuple[Query, ...]:
    """Return every `Statement` and `Command` of the ``statements`` modules in `package`, by name.

    Raises:
        ProofError: two have the same name.

    """
    found: dict[str, Query] = {}
    for root in map(Path, package.__path__):
        for file in sorted(root.rglob("statements.py")):
            name = ".".join((package.__name__, *file.relative_to(root).with_suffix("").parts))
            for query in _queries(importlib.import_module(name)):
                if found.setdefault(query.name, query) is not query:
                    raise ProofError(f"two statements are named {query.name!r}")
    return tuple(found[name] for name in sorted(found))


def _queries(module: ModuleType) -> list[Query]:
    return [value for value in vars(module).values() if isinstance(value, Query)]


def prove(conn: psycopg.Connection, queries: Iterable[Query]) -> dict[str, Description]:
    """Check every statement against the migrated database `conn` (in autocommit) is connected to.

    Raises:
        ProofError: with all faults of all statements.

    """
    wrong: list[str] = []
    described: dict[str, Description] = {}
    for query in queries:
        try:
            described[query.name] = describe(conn, query)
            wrong += [f"{query.name}: {fault}" for fault in faults(query, described[query.name])]
        except DescribeError as error:
            wrong.append(f"{query.name}: {error}")
    _report(wrong)
    return described


def snapshot(migrations: Sequence[Migration], queries: Iterable[Query], described: dict[str, Description]) -> str:
    """Return the snapshot's text."""
    statements = {query.name: _entry(query, described[query.name]) for query in queries}
    content = {"schema": schema_digest(migrations), "statements": statements}
    return json.dumps(content, indent=2) + "\n"


def _entry(query: Query, description: Description) -> dict[str, Any]:
    columns = {column.name: column.type + _NULLABLE * column.nullable for column in description.columns}
    return {"digest": digest(query), "params": description.params, "columns": columns}


def check_snapshot(text: str, migrations: Sequence[Migration], queries: Iterable[Query]) -> None:
    """Check every statement against what PostgreSQL said when the snapshot was written.

    Raises:
        ProofError: the schema or a statement changed since, or a statement does not fit; all of them are named.

    """
    content = json.loads(text)
    entries: dict[str, dict[str, Any]] = dict(content["statements"])
    wrong = [] if content["schema"] == schema_digest(migrations) else ["the migrations changed: the snapshot is stale"]
    for query in queries:
        wrong += [f"{query.name}: {fault}" for fault in _snapshot_faults(query, entries.pop(query.name, None))]
    wrong += [f"{name}: no longer exists: the snapshot is stale" for name in sorted(entries)]
    _report(wrong)


def _snapshot_faults(query: Query, entry: dict[str, Any] | None) -> list[str]:
    if entry is None:
        return ["is not in the snapshot: it is stale"]
    if entry["digest"] != digest(query):
        return ["was changed: the snapshot is stale"]
    columns: dict[str, str] = entry["columns"]
    described = (Column(name, kind.removesuffix(_NULLABLE), kind.endswith(_NULLABLE)) for name, kind in columns.items())
    return list(faults(query, Description(entry["params"], tuple(described))))


def _report(wrong: list[str]) -> None:
    if wrong:
        raise ProofError("\n".join(wrong))


async def prove_embedded(migrations: Sequence[Migration], queries: Sequence[Query]) -> dict[str, Description]:
    """Prove on an embedded PostgreSQL made for it and thrown away. Raises as `prove` and `EmbeddedPostgres.start`."""
    with tempfile.TemporaryDirectory(prefix="gatelodge-proof-") as scratch:
        os.chmod(scratch, 0o711)  # noqa: PTH101, S103 - the server's own user must get through
        async with EmbeddedPostgres(Path(scratch) / "db", durable=False, cache_dir=Path(scratch)) as server:
            name = await clone.template(await server.start(), migrations)
            return await asyncio.to_thread(_prove_at, clone.at(await server.start(), name), queries)


def _prove_at(conninfo: str, queries: Sequence[Query]) -> dict[str, Description]:
    with psycopg.connect(conninfo, autocommit=True) as conn:
        return prove(conn, queries)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line above; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m service.db.proof", description="Prove every SQL statement.")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--write", action="store_true", help="rewrite the snapshot")
    modes.add_argument("--check", action="store_true", help="compare with the snapshot alone, without a database")
    options = parser.parse_args(arguments)
    try:
        count = _run(write=options.write, check=options.check)
    except (ProofError, FileNotFoundError) as error:
        sys.stderr.write(f"{error}\nThe proof failed. After mending: python -m service.db.proof --write\n")
        return 1
    sys.stdout.write(f"{count} statements proven\n")
    return 0


def _run(*, write: bool, check: bool) -> int:
    place = folder()
    migrations, queries = load(place), discover(importlib.import_module("service"))
    if not check:
        described = asyncio.run(prove_embedded(migrations, queries))
        if write:
            (place / SNAPSHOT).write_text(snapshot(migrations, queries, described))
    check_snapshot((place / SNAPSHOT).read_text(), migrations, queries)
    return len(queries)


if __name__ == "__main__":
    sys.exit(main())
