"""Events are kept for as long as the settings say, and no longer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

from uuid_utils.compat import uuid7

from service.db import Database
from service.events.journal import Journal
from service.events.model import UserEnabled
from service.events.record import Record
from service.events.retention import Retention


async def test_what_is_older_than_the_retention_goes_and_the_rest_stays(url: str) -> None:
    async with Database(url) as database:
        journal, record = Journal(new_id=uuid7), Record(database=database)
        for _ in range(3):
            await database.transact(lambda conn: journal.record(conn, UserEnabled(uuid4())))
        now = datetime.now(UTC)
        keep = timedelta(days=400)
        assert await Retention(record=record, clock=lambda: now, keep=keep).prune() == 0
        later = now + keep + timedelta(minutes=1)
        assert await Retention(record=record, clock=lambda: later, keep=keep).prune() == 3
        assert (await record.ends()).pruned == 3
