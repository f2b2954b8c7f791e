"""The auth feature's SQL. Each statement is proven against the migrated schema before it ships."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, LiteralString, NamedTuple
from uuid import UUID

from service.db.statement import Command, Statement


class CandidateRow(NamedTuple):
    """Who may be logging in, and what their password is checked against."""

    id: UUID
    email: str
    display_name: str
    state: str
    roles: list[str]
    delete_time: datetime | None
    hash: str | None
    must_change: bool | None


class BucketRow(NamedTuple):
    """What became of an attempt in one of its buckets."""

    key: bytes
    next_time: datetime | None
    """When it takes the next one; later than now: it must wait."""
    taken: bool


class NextTimeRow(NamedTuple):
    """When the next attempt is taken; NULL: at once."""

    next_time: datetime | None


class StandingRow(NamedTuple):
    """That a session and its user are in good standing."""

    token_version: int


class RefreshableRow(NamedTuple):
    """A session that can be refreshed: the hash of its token, when that was given out, and the session's end."""

    refresh_hash: bytes
    last_use_time: datetime
    expire_time: datetime


class SigningKeyRow(NamedTuple):
    """A signing key; its private part is sealed under the master secret."""

    kid: str
    algorithm: str
    state: str
    private_key: bytes
    create_time: datetime
    activate_time: datetime | None
    retire_time: datetime | None


class RootSecretRow(NamedTuple):
    """A secret that keys are derived from, sealed under the master secret."""

    name: str
    sealed: bytes


FIND_CANDIDATE = Statement(
    "auth.find_candidate",
    """
    SELECT users.id, users.email, users.display_name, users.state, users.roles, users.delete_time,
        passwords.hash, passwords.must_change
    FROM users
    LEFT JOIN passwords ON passwords.user_id = users.id
    WHERE users.email_canonical = %(email_canonical)s
    """,
    row=CandidateRow,
    params={"email_canonical": str},
    not_null={"id", "email", "display_name", "state", "roles"},
)

# No row: the token is dead, for whatever reason.
FIND_STANDING = Statement(
    "auth.find_standing",
    """
    SELECT users.token_version
    FROM users
    JOIN sessions ON sessions.user_id = users.id
    WHERE users.id = %(user_id)s
      AND users.state = 'active'
      AND users.delete_time IS NULL
      AND users.token_version <= %(version)s
      AND sessions.id = %(session_id)s
      AND sessions.revoke_time IS NULL
      AND sessions.expire_time > %(now)s
    """,
    row=StandingRow,
    params={"user_id": UUID, "session_id": UUID | None, "version": int, "now": datetime},
)

# No row: the session can not be refreshed, for whatever reason.
FIND_REFRESHABLE = Statement(
    "auth.find_refreshable",
    """
    SELECT sessions.refresh_hash, sessions.last_use_time, sessions.expire_time
    FROM users
    JOIN sessions ON sessions.user_id = users.id
    WHERE users.id = %(user_id)s
      AND users.state = 'active'
      AND users.delete_time IS NULL
      AND sessions.id = %(session_id)s
      AND sessions.revoke_time IS NULL
      AND sessions.expire_time > %(now)s
      AND sessions.last_use_time > %(idle_since)s
    """,
    row=RefreshableRow,
    params={"user_id": UUID, "session_id": UUID, "now": datetime, "idle_since": datetime},
)

INSERT_PASSWORD = Command(
    "auth.insert_password",
    "INSERT INTO passwords (user_id, hash) VALUES (%(user_id)s, %(hash)s)",
    params={"user_id": UUID, "hash": str},
)

# Only if it is still the hash that was verified: a password changed meanwhile must not be undone.
REPLACE_HASH = Command(
    "auth.replace_hash",
    """
    UPDATE passwords SET hash = %(new_hash)s, update_time = now()
    WHERE user_id = %(user_id)s AND hash = %(old_hash)s
    """,
    params={"user_id": UUID, "old_hash": str, "new_hash": str},
)

# Only if it is still the hash that was verified: of two changes at once, one wins.
CHANGE_PASSWORD = Command(
    "auth.change_password",
    """
    UPDATE passwords SET hash = %(new_hash)s, must_change = false, update_time = now()
    WHERE user_id = %(user_id)s AND hash = %(old_hash)s
    """,
    params={"user_id": UUID, "old_hash": str, "new_hash": str},
)

SET_PASSWORD = Command(
    "auth.set_password",
    """
    INSERT INTO passwords (user_id, hash, must_change) VALUES (%(user_id)s, %(hash)s, %(must_change)s)
    ON CONFLICT (user_id) DO UPDATE
    SET hash = excluded.hash, must_change = excluded.must_change, update_time = now()
    """,
    params={"user_id": UUID, "hash": str, "must_change": bool},
)

# --- throttling: a row is a bucket of attempts that decay ------------------------------------------------------------

# `attempts` is what it was right after the last attempt, that one included: the wait depends on nothing else. There is
# none while another one still goes into `free`, or as soon as enough has decayed for that.
_NEXT_TIME: Final[LiteralString] = """
    CASE WHEN kept.attempts + 1 > wanted.free THEN
        kept.last_time + make_interval(secs => least(
            %(max_delay)s,
            %(base_delay)s * power(2, least(greatest(kept.attempts - wanted.free, 0), 60)),
            (kept.attempts + 1 - wanted.free) * %(decay)s
        ))
    END
"""
_TERMS = {"decay": float, "base_delay": float, "max_delay": float}

# An attempt has two buckets; values of their own cost half of what arrays do, which PostgreSQL plans anew every time.
_KEYS = {"first": bytes, "second": bytes | None}

# One statement, a transaction of its own. An attempt that must wait is `early`: it locks nothing and writes nothing.
# Every other one stands in line at its rows, so that guesses in parallel see those before them, and counts in all of
# them or none. Nobody waits in a circle: rows that are there are locked in the order of keys, before new ones are made;
# who waits for a new one waits for somebody who holds all of the former, and makes the others in that order, too.
# A row that somebody else made meanwhile is neither `taken` nor told a time: ask again. Then others that were new may
# have been taken already. Clocks differ: an attempt never moves the bucket's time backwards.
RESERVE_ATTEMPT = Statement(
    "auth.reserve_attempt",
    """
    WITH wanted AS (
        SELECT key, free
        FROM (VALUES
            (%(first)s::bytea, %(first_free)s::double precision),
            (%(second)s::bytea, %(second_free)s::double precision)
        ) AS given (key, free)
        WHERE key IS NOT NULL
    ), early AS MATERIALIZED (
        SELECT kept.key, kept.attempts, kept.last_time
        FROM password_attempts AS kept JOIN wanted ON wanted.key = kept.key
        WHERE"""
    + _NEXT_TIME
    + """> %(now)s::timestamptz
    ), held AS MATERIALIZED (
        SELECT key, attempts, last_time FROM password_attempts
        WHERE key IN (%(first)s, %(second)s) AND NOT EXISTS (SELECT FROM early)
        ORDER BY key FOR UPDATE
    ), judged AS MATERIALIZED (
        SELECT wanted.key, kept.key IS NULL AS is_new,"""
    + _NEXT_TIME
    + """AS next_time
        FROM wanted LEFT JOIN (SELECT * FROM early UNION ALL SELECT * FROM held) AS kept ON kept.key = wanted.key
    ), made AS (
        INSERT INTO password_attempts (key, attempts, last_time)
        SELECT key, 1, %(now)s FROM judged
        WHERE is_new AND NOT EXISTS (SELECT FROM judged WHERE next_time > %(now)s)
        ORDER BY key
        ON CONFLICT DO NOTHING
        RETURNING key
    ), counted AS (
        UPDATE password_attempts AS kept SET
            attempts = 1 + greatest(0, kept.attempts - greatest(0,
                extract(epoch FROM %(now)s - kept.last_time)::double precision / %(decay)s)),
            last_time = greatest(kept.last_time, %(now)s)
        WHERE key IN (%(first)s, %(second)s)
            AND NOT EXISTS (SELECT FROM judged WHERE next_time > %(now)s)
            AND (SELECT count(*) FROM made) = (SELECT count(*) FROM judged WHERE is_new)
        RETURNING key
    )
    SELECT key, next_time, key IN (SELECT key FROM made UNION ALL SELECT key FROM counted) AS taken FROM judged
    """,
    row=BucketRow,
    params=_KEYS | {"first_free": float, "second_free": float, "now": datetime} | _TERMS,
    not_null={"key", "taken"},
)

FIND_NEXT_ATTEMPT = Statement(
    "auth.find_next_attempt",
    "SELECT"
    + _NEXT_TIME
    + """AS next_time
    FROM password_attempts AS kept CROSS JOIN (SELECT %(free)s::double precision AS free) AS wanted
    WHERE key = %(key)s
    """,
    row=NextTimeRow,
    params={"key": bytes, "free": float} | _TERMS,
)

# All are locked, in the order of attempts, before the first is changed. An empty bucket says the same as none.
RELEASE_ATTEMPT = Command(
    "auth.release_attempt",
    """
    UPDATE password_attempts
    SET attempts = CASE WHEN key = %(emptied)s THEN 0 ELSE greatest(0, attempts - 1) END
    WHERE key = ANY (ARRAY(
        SELECT key FROM password_attempts WHERE key IN (%(first)s, %(second)s) ORDER BY key FOR UPDATE
    ))
    """,
    params=_KEYS | {"emptied": bytes | None},
)

# Where everything has decayed, no row says the same. Those in use at the moment are skipped.
PRUNE_ATTEMPTS = Command(
    "auth.prune_attempts",
    """
    DELETE FROM password_attempts
    WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM password_attempts
        WHERE last_time <= %(now)s::timestamptz - make_interval(secs => %(max_delay)s)
            AND last_time + make_interval(secs => attempts * %(decay)s) <= %(now)s
        ORDER BY last_time
        LIMIT %(batch)s
        FOR UPDATE SKIP LOCKED
    ))
    """,
    params={"now": datetime, "decay": float, "max_delay": float, "batch": int},
)

LIST_SIGNING_KEYS = Statement(
    "auth.list_signing_keys",
    """
    SELECT kid, algorithm, state, private_key, create_time, activate_time, retire_time
    FROM signing_keys
    ORDER BY create_time, kid
    """,
    row=SigningKeyRow,
    params={},
)

# Whoever changes keys does it alone, until the end of the transaction; nobody who reads waits for it.
LOCK_SIGNING_KEYS = Command("auth.lock_signing_keys", "LOCK TABLE signing_keys IN SHARE ROW EXCLUSIVE MODE")

INSERT_SIGNING_KEY = Command(
    "auth.insert_signing_key",
    """
    INSERT INTO signing_keys (kid, algorithm, state, public_jwk, private_key, create_time, activate_time)
    VALUES (
        %(kid)s, %(algorithm)s, %(state)s, %(public_jwk)s, %(private_key)s, %(create_time)s, %(activate_time)s
    )
    """,
    params={
        "kid": str,
        "algorithm": str,
        "state": str,
        "public_jwk": dict[str, Any],
        "private_key": bytes,
        "create_time": datetime,
        "activate_time": datetime | None,
    },
)

SAVE_SIGNING_KEY = Command(
    "auth.save_signing_key",
    """
    UPDATE signing_keys
    SET state = %(state)s, activate_time = %(activate_time)s, retire_time = %(retire_time)s
    WHERE kid = %(kid)s
    """,
    params={"kid": str, "state": str, "activate_time": datetime | None, "retire_time": datetime | None},
)

DELETE_SIGNING_KEY = Command(
    "auth.delete_signing_key", "DELETE FROM signing_keys WHERE kid = %(kid)s", params={"kid": str}
)

RESEAL_SIGNING_KEY = Command(
    "auth.reseal_signing_key",
    "UPDATE signing_keys SET private_key = %(private_key)s WHERE kid = %(kid)s",
    params={"kid": str, "private_key": bytes},
)

LIST_ROOT_SECRETS = Statement(
    "auth.list_root_secrets",
    "SELECT name, sealed FROM root_secrets ORDER BY name",
    row=RootSecretRow,
    params={},
)

INSERT_ROOT_SECRET = Command(
    "auth.insert_root_secret",
    "INSERT INTO root_secrets (name, sealed) VALUES (%(name)s, %(sealed)s) ON CONFLICT DO NOTHING",
    params={"name": str, "sealed": bytes},
)

RESEAL_ROOT_SECRET = Command(
    "auth.reseal_root_secret",
    "UPDATE root_secrets SET sealed = %(sealed)s WHERE name = %(name)s",
    params={"name": str, "sealed": bytes},
)
