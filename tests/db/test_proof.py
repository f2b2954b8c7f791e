"""The SQL proof: what it catches, and that the snapshot of this repository is fresh."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import psycopg
import pytest

import service
from service.db import Command, Statement, migrations
from service.db.proof import SNAPSHOT, ProofError, check_snapshot, discover, main, prove, snapshot
from service.errors import EmailTaken

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.db.statement import Query

OURS = migrations.load(migrations.folder())


class User(NamedTuple):
    id: UUID
    email: str


class Deletion(NamedTuple):
    delete_time: datetime


class MaybeDeletion(NamedTuple):
    delete_time: datetime | None


class Count(NamedTuple):
    n: int


class Mail(NamedTuple):
    email: str


class Everything(NamedTuple):
    a: list[UUID]
    b: dict[str, Any]
    c: Decimal
    d: float
    e: bytes
    f: bool
    g: str | None


FIND = Statement("t.find", "SELECT id, email FROM users WHERE id = %(id)s", row=User, params={"id": UUID})


@pytest.fixture
def migrated(url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(url, autocommit=True) as conn:
        yield conn


def test_right_statements_pass(migrated: psycopg.Connection) -> None:
    everything = Statement(
        "t.everything",
        "SELECT %(a)s::uuid[] AS a, %(b)s::jsonb AS b, 1.5 AS c, %(d)s::float8 AS d, ''::bytea AS e, true AS f,"
        " %(g)s::text AS g WHERE '100%%' <> ''",
        row=Everything,
        params={"a": list[UUID], "b": dict[str, Any], "d": float, "g": str | None},
        not_null="abcdef",
    )
    deletion = Statement("t.deletion", "SELECT delete_time FROM users", row=MaybeDeletion)
    delete = Command(
        "t.delete",
        "DELETE FROM users WHERE id = ANY(%(ids)s) AND email <> %(not)s AND email_canonical <> %(not)s",
        params={"ids": list[UUID], "not": str},
        raises={"users_email_canonical_key": EmailTaken, "signing_keys_one_active": EmailTaken},
    )
    assert len(prove(migrated, [FIND, everything, deletion, delete])) == 4


WRONG: dict[str, tuple[Query, str]] = {
    "an unknown column": (
        Statement("t.x", "SELECT id, mail FROM users", row=User),
        'column "mail" does not exist',
    ),
    "a parameter of the wrong type": (
        Statement("t.x", "SELECT id, email FROM users WHERE id = %(id)s", row=User, params={"id": str}),
        "parameter 'id' is uuid, declared str",
    ),
    "a parameter nobody declared": (
        Statement("t.x", "SELECT id, email FROM users WHERE id = %(id)s", row=User),
        "parameter 'id' is used but not declared",
    ),
    "a parameter nobody uses": (
        Statement("t.x", "SELECT id, email FROM users", row=User, params={"id": UUID}),
        "parameter 'id' is declared but not used",
    ),
    "a nullable column in a field that is not optional": (
        Statement("t.x", "SELECT delete_time FROM users", row=Deletion),
        "column 'delete_time' may be NULL",
    ),
    "an expression in a field that is not optional": (
        Statement("t.x", "SELECT max(version) AS n FROM users", row=Count),
        "column 'n' may be NULL",
    ),
    "an outer join's column in a field that is not optional": (
        Statement("t.x", "SELECT u.email FROM passwords p LEFT JOIN users u ON u.id = p.user_id", row=Mail),
        "column 'email' may be NULL",
    ),
    "a renamed column": (
        Statement("t.x", "SELECT id, email AS mail FROM users", row=User),
        "the columns are id, mail; User has id, email",
    ),
    "columns in another order": (
        Statement("t.x", "SELECT email, id FROM users", row=User),
        "the columns are email, id; User has id, email",
    ),
    "a column of the wrong type": (
        Statement("t.x", "SELECT id AS email FROM users", row=Mail),
        "column 'email' is uuid, declared str",
    ),
    "a not_null that names nothing": (
        Statement("t.x", "SELECT email FROM users", row=Mail, not_null=["mail"]),
        "not_null: there is no column 'mail'",
    ),
    "a constraint that does not exist": (
        Command("t.x", "DELETE FROM users", raises={"users_mail_key": EmailTaken}),
        "no constraint and no unique index 'users_mail_key'",
    ),
    "a command that returns rows": (Command("t.x", "SELECT id FROM users"), "declare a Statement"),
    "a stray percent sign": (Command("t.x", "DELETE FROM users WHERE email LIKE 'a%'"), "no placeholder"),
}


@pytest.mark.parametrize("what", WRONG)
def test_the_proof_finds(migrated: psycopg.Connection, what: str) -> None:
    query, message = WRONG[what]
    with pytest.raises(ProofError) as caught:
        prove(migrated, [FIND, query])
    assert f"t.x: {message}" in str(caught.value) or message in str(caught.value)


def test_all_faults_of_all_statements_are_told_together(migrated: psycopg.Connection) -> None:
    with pytest.raises(ProofError) as caught:
        prove(migrated, [query for query, _ in WRONG.values()])
    assert all(message in str(caught.value) for _, message in WRONG.values())


def test_a_stale_snapshot_is_told_by_the_statements_name(migrated: psycopg.Connection) -> None:
    text = snapshot(OURS, [FIND], prove(migrated, [FIND]))
    check_snapshot(text, OURS, [FIND])
    changed = Statement("t.find", FIND.sql + " ", row=User, params={"id": UUID})
    optional = Statement("t.find", FIND.sql, row=User, params={"id": UUID | None})
    for query in (changed, optional):
        with pytest.raises(ProofError, match=r"t\.find: was changed: the snapshot is stale"):
            check_snapshot(text, OURS, [query])
    with pytest.raises(ProofError, match=r"t\.new: is not in the snapshot"):
        check_snapshot(text, OURS, [FIND, Command("t.new", "DELETE FROM users")])
    with pytest.raises(ProofError, match=r"t\.find: no longer exists"):
        check_snapshot(text, OURS, [])
    with pytest.raises(ProofError, match="the migrations changed"):
        check_snapshot(text, OURS[:1], [FIND])


def test_the_check_without_a_database_checks_types_too(migrated: psycopg.Connection) -> None:
    text = snapshot(OURS, [FIND], prove(migrated, [FIND])).replace('"email": "text"', '"email": "text | null"')
    with pytest.raises(ProofError, match=r"t\.find: column 'email' may be NULL"):
        check_snapshot(text, OURS, [FIND])


def test_every_statement_of_the_features_is_found_proven_and_in_the_snapshot(migrated: psycopg.Connection) -> None:
    queries = discover(service)
    assert {query.name.partition(".")[0] for query in queries} >= {"users", "auth"}
    assert len(prove(migrated, queries)) == len(queries)
    check_snapshot((migrations.folder() / SNAPSHOT).read_text(), OURS, queries)


def test_the_command_line_proves_on_a_database_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0
    assert main([]) == 0
    assert "statements proven" in capsys.readouterr().out
