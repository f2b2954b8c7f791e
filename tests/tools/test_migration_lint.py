"""The migration linter: what it refuses, what it lets through, and the marks that allow an exception."""

from __future__ import annotations

import hashlib

import pytest
from tools.migration_lint.__main__ import main
from tools.migration_lint.lint import lint
from tools.migration_lint.rules import ADVICE

from service.db.migration_files import Migration, folder, load

BEFORE = "CREATE TABLE t (n int, m text); CREATE INDEX t_n ON t (n); CREATE TYPE k AS ENUM ('a');"
STEPWISE = "-- gatelodge: no-transaction\n"


def history(*texts: str) -> list[Migration]:
    return [
        Migration(number, f"file{number}", text, hashlib.sha256(text.encode()).hexdigest())
        for number, text in enumerate(texts, start=1)
    ]


def rules(*texts: str) -> list[str]:
    """Return what is refused in the last file."""
    files = history(BEFORE, *texts)
    return [finding.rule for finding in lint(files) if finding.file == files[-1].file]


REFUSED = {
    "ALTER TABLE t ADD CONSTRAINT c CHECK (n > 0)": "add-constraint",
    "ALTER TABLE t ADD FOREIGN KEY (n) REFERENCES o (n)": "add-constraint",
    "ALTER TABLE t ADD COLUMN x int CHECK (x > 0)": "add-constraint",
    "ALTER TABLE t ADD COLUMN x int REFERENCES o (n)": "add-constraint",
    "ALTER TABLE t ADD UNIQUE (n)": "add-key",
    "ALTER TABLE t ADD PRIMARY KEY (n)": "add-key",
    "ALTER TABLE t ADD COLUMN x int UNIQUE": "add-key",
    "ALTER TABLE t SET UNLOGGED": "alter-table",
    "ALTER TABLE t ALTER COLUMN n TYPE bigint": "alter-type",
    "CREATE UNIQUE INDEX t_m ON t (m)": "create-index",
    "CREATE INDEX ON public.t (m)": "create-index",
    "CREATE TRIGGER g BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f()": "create-trigger",
    "DELETE FROM t": "delete",
    "WITH gone AS (DELETE FROM t RETURNING n) SELECT count(*) FROM gone": "delete",
    "DO $$ BEGIN NULL; END $$": "do-block",
    "DROP TYPE k": "drop",
    "ALTER TABLE t DROP COLUMN m": "drop-column",
    "ALTER TABLE t DROP CONSTRAINT c": "drop-constraint",
    "DROP INDEX t_n": "drop-index",
    "DROP TABLE IF EXISTS t": "drop-table",
    "ALTER TABLE t ADD COLUMN x int GENERATED ALWAYS AS (n + 1) STORED": "generated-column",
    "ALTER TABLE t ADD COLUMN x bigserial": "generated-column",
    "ALTER TABLE t ADD COLUMN x int GENERATED ALWAYS AS IDENTITY": "generated-column",
    "CREATE INDEX CONCURRENTLY IF NOT EXISTS t_m ON t (m)": "in-a-transaction",
    "DROP INDEX CONCURRENTLY IF EXISTS t_n": "in-a-transaction",
    "LOCK TABLE t": "lock",
    "ALTER TABLE t ADD COLUMN x int NOT NULL": "not-null",
    f"{STEPWISE}CREATE INDEX CONCURRENTLY t_m ON t (m)": "not-repeatable",
    f"{STEPWISE}DROP INDEX CONCURRENTLY t_n": "not-repeatable",
    "ALTER TABLE t RENAME COLUMN m TO o": "rename",
    "ALTER TABLE t RENAME TO u": "rename",
    "ALTER INDEX t_n RENAME TO u": "rename",
    "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'": "replace",
    "VACUUM FULL t": "rewrite",
    "CLUSTER t USING t_n": "rewrite",
    "REINDEX TABLE t": "rewrite",
    "ALTER TABLE t ALTER COLUMN n SET NOT NULL": "set-not-null",
    "TRUNCATE t": "truncate",
    "ALTER SYSTEM SET fsync = off": "unknown-statement",
    "UPDATE t SET n = 1 WHERE n = 2": "update",
    "WITH x AS (UPDATE t SET n = 1 RETURNING n) INSERT INTO u SELECT n FROM x": "update",
    "ALTER TABLE t ADD COLUMN x uuid DEFAULT gen_random_uuid()": "volatile-default",
    "ALTER TABLE t ADD COLUMN x timestamptz DEFAULT clock_timestamp()": "volatile-default",
}
HARMLESS = (
    "ALTER TABLE t ADD COLUMN x text",
    "ALTER TABLE t ADD COLUMN x timestamptz NOT NULL DEFAULT now()",
    "ALTER TABLE t ADD COLUMN x text[] NOT NULL DEFAULT '{}'::text[], ADD COLUMN y boolean DEFAULT true",
    "ALTER TABLE t ADD CONSTRAINT c CHECK (n > 0) NOT VALID",
    "ALTER TABLE t ALTER COLUMN n SET DEFAULT 1, ALTER COLUMN n DROP NOT NULL",
    "ALTER TABLE t ADD CONSTRAINT t_key UNIQUE USING INDEX t_n",
    "ALTER TYPE k ADD VALUE 'b'",
    "COMMENT ON TABLE t IS 'Ä table; with a semicolon'",
    "INSERT INTO t VALUES (1, 'one')",
    f"{STEPWISE}CREATE INDEX CONCURRENTLY IF NOT EXISTS t_m ON t (m); DROP INDEX CONCURRENTLY IF EXISTS t_n",
    "CREATE TABLE u (n int UNIQUE CHECK (n > 0)); CREATE INDEX u_n ON u (n); UPDATE u SET n = 1; DELETE FROM public.u",
    "CREATE TABLE u (); ALTER TABLE u ADD CHECK (n < 9), ALTER n TYPE bigint; TRUNCATE u; DROP TABLE u",
    "CREATE TABLE u (n int); CREATE INDEX u_n ON u (n); DROP INDEX u_n",
)


@pytest.mark.parametrize("sql", REFUSED)
def test_a_statement_that_stops_others_is_refused(sql: str) -> None:
    assert rules(sql) == [REFUSED[sql]]


def test_every_rule_has_an_example_that_breaks_it() -> None:
    assert set(REFUSED.values()) == ADVICE.keys()


@pytest.mark.parametrize("sql", HARMLESS)
def test_a_statement_that_stops_nobody_passes(sql: str) -> None:
    assert rules(sql) == []


@pytest.mark.parametrize("sql", REFUSED)
def test_a_mark_with_a_reason_lets_one_rule_pass(sql: str) -> None:
    mark = f"-- gatelodge: allow {REFUSED[sql]} because no release has used it yet\n"
    head, _, rest = sql.partition("\n") if sql.startswith(STEPWISE) else ("", "", sql)
    assert rules(f"{head}\n-- Ä\n{mark}{rest};\nSELECT 1;") == []
    assert rules(f"{head}\n{mark}SELECT 1; {rest}") == ["mark", REFUSED[sql]]


@pytest.mark.parametrize(
    "mark", ["allow lock", "allow lock because", "allow lock because no", "allow all because I say so"]
)
def test_a_mark_without_a_reason_or_for_something_else_is_refused(mark: str) -> None:
    assert rules(f"-- gatelodge: {mark}\nLOCK TABLE t") == ["lock", "mark"]


def test_set_not_null_passes_after_a_check_that_was_validated() -> None:
    check = "ALTER TABLE t ADD CONSTRAINT n_there CHECK (n IS NOT NULL) NOT VALID"
    validate, mandatory = "ALTER TABLE t VALIDATE CONSTRAINT n_there", "ALTER TABLE t ALTER COLUMN n SET NOT NULL"
    assert rules(check, validate, mandatory) == []
    assert rules(check, mandatory) == ["set-not-null"]
    assert rules(check, validate, "ALTER TABLE t ALTER COLUMN m SET NOT NULL") == ["set-not-null"]


def test_findings_say_where() -> None:
    (finding,) = lint(history("CREATE TABLE t ();\n\n-- why\nSELECT 'ä';\n-- more\nLOCK TABLE o;\n"))
    assert str(finding).startswith("migrations/0001_file1.sql:6: lock: Makes all others wait.")


def test_a_file_that_is_no_sql_is_refused() -> None:
    assert rules("SELEC 1") == ["syntax"]


def test_the_repositorys_migrations_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0, capsys.readouterr().out
    assert load(folder())
