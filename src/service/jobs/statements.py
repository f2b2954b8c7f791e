"""The jobs' SQL. All times are the database's: processes need not agree on theirs."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from service.db.statement import Command, Statement


class KnownRow(NamedTuple):
    """What is known of a job."""

    last_success_time: datetime | None


class LeaseRow(NamedTuple):
    """That a lease is held."""

    held: bool


# A job is first due after one interval. A shorter interval than before takes effect at once.
ENROL = Statement(
    "jobs.enrol",
    """
    INSERT INTO jobs AS known (name, every, next_run_time)
    VALUES (%(name)s, %(every)s, now() + %(every)s::interval)
    ON CONFLICT ON CONSTRAINT jobs_pkey DO UPDATE
    SET every = excluded.every, next_run_time = LEAST(known.next_run_time, excluded.next_run_time)
    RETURNING last_success_time
    """,
    row=KnownRow,
    params={"name": str, "every": timedelta},
)

# One of many at a time: the others wait for the row, look again, and find it leased.
TAKE = Statement(
    "jobs.take",
    """
    UPDATE jobs
    SET holder = %(holder)s, lease_expire_time = clock_timestamp() + %(lease)s::interval
    WHERE name = %(name)s
    AND next_run_time <= now()
    AND (lease_expire_time IS NULL OR lease_expire_time <= now())
    RETURNING true AS held
    """,
    row=LeaseRow,
    params={"name": str, "holder": str, "lease": timedelta},
    not_null={"held"},
)

# Not once it has expired, though nobody has taken it yet: the holder counts on nothing then.
RENEW = Statement(
    "jobs.renew",
    """
    UPDATE jobs
    SET lease_expire_time = clock_timestamp() + %(lease)s::interval
    WHERE name = %(name)s AND holder = %(holder)s AND lease_expire_time > clock_timestamp()
    RETURNING true AS held
    """,
    row=LeaseRow,
    params={"name": str, "holder": str, "lease": timedelta},
    not_null={"held"},
)

FINISH = Command(
    "jobs.finish",
    """
    UPDATE jobs
    SET holder = NULL,
        lease_expire_time = NULL,
        next_run_time = now() + every,
        last_run_time = now(),
        last_success_time = now(),
        last_error = NULL,
        runs = runs + 1
    WHERE name = %(name)s AND holder = %(holder)s
    """,
    params={"name": str, "holder": str},
)

FAIL = Command(
    "jobs.fail",
    """
    UPDATE jobs
    SET holder = NULL,
        lease_expire_time = NULL,
        next_run_time = now() + LEAST(every, %(retry)s),
        last_run_time = now(),
        last_error = %(error)s,
        runs = runs + 1,
        failures = failures + 1
    WHERE name = %(name)s AND holder = %(holder)s
    """,
    params={"name": str, "holder": str, "retry": timedelta, "error": str},
)

# A run broken off by a shutdown: due again at once, for whoever is there.
GIVE_BACK = Command(
    "jobs.give_back",
    "UPDATE jobs SET holder = NULL, lease_expire_time = NULL WHERE name = %(name)s AND holder = %(holder)s",
    params={"name": str, "holder": str},
)
