"""The database room's own SQL: the answers that idempotency keeps, and the clock."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from service.db.statement import Command, Statement


class ClaimRow(NamedTuple):
    """That a key was claimed."""

    claimed: bool


class AnswerRow(NamedTuple):
    """A stored answer, and what was asked."""

    fingerprint: bytes
    response: bytes


class ClockRow(NamedTuple):
    """The database's time."""

    now: datetime


READ_CLOCK = Statement("db.read_clock", "SELECT clock_timestamp() AS now", row=ClockRow, params={}, not_null={"now"})

# No row: the key is taken. A concurrent claim is waited for, until its transaction ends one way or the other. An answer
# that has expired and is not pruned yet makes way.
CLAIM_KEY = Statement(
    "db.claim_idempotency_key",
    """
    INSERT INTO idempotency_keys AS kept (caller, request_id, method, fingerprint)
    VALUES (%(caller)s, %(request_id)s, %(method)s, %(fingerprint)s)
    ON CONFLICT ON CONSTRAINT idempotency_keys_pkey DO UPDATE
    SET method = excluded.method, fingerprint = excluded.fingerprint, response = '', create_time = now()
    WHERE kept.create_time <= now() - %(lifetime)s::interval
    RETURNING true AS claimed
    """,
    row=ClaimRow,
    params={"caller": str, "request_id": UUID, "method": str, "fingerprint": bytes, "lifetime": timedelta},
    not_null={"claimed"},
)

FIND_ANSWER = Statement(
    "db.find_idempotent_answer",
    """
    SELECT fingerprint, response
    FROM idempotency_keys
    WHERE caller = %(caller)s AND request_id = %(request_id)s AND create_time > now() - %(lifetime)s::interval
    """,
    row=AnswerRow,
    params={"caller": str, "request_id": UUID, "lifetime": timedelta},
)

KEEP_ANSWER = Command(
    "db.keep_idempotent_answer",
    """
    UPDATE idempotency_keys SET response = %(response)s
    WHERE caller = %(caller)s AND request_id = %(request_id)s
    """,
    params={"caller": str, "request_id": UUID, "response": bytes},
)

# Erasure is rare and a day of answers is little: no index. An empty answer tells nothing, and may be the erasure's own.
FORGET_ANSWERS = Command(
    "db.forget_idempotent_answers",
    """
    DELETE FROM idempotency_keys
    WHERE response <> '' AND (caller = %(subject)s OR position(convert_to(%(subject)s, 'UTF8') in response) > 0)
    """,
    params={"subject": str},
)

# Rows that a claim is taking over at this moment are skipped.
PRUNE_ANSWERS = Command(
    "db.prune_idempotent_answers",
    """
    DELETE FROM idempotency_keys
    WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM idempotency_keys
        WHERE create_time <= now() - %(lifetime)s::interval
        ORDER BY create_time
        LIMIT %(batch)s
        FOR UPDATE SKIP LOCKED
    ))
    """,
    params={"lifetime": timedelta, "batch": int},
)
