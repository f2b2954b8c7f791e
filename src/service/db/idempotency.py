"""Answers kept with the change they tell of, so that a repeated mutation changes nothing and is answered alike (D5).

The claim of a key, the change and the answer are one transaction. The claim is its first statement: whoever repeats the
request at the same moment waits there, on the key's unique index, until the first one has ended. The answer is known
only when the servicer has returned, so the transaction stays open until then.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from service.call import Answered, RequestKey
from service.db import transactions
from service.db.faults import raise_meaning
from service.db.statements import CLAIM_KEY, FIND_ANSWER, FORGET_ANSWERS, KEEP_ANSWER, PRUNE_ANSWERS, AnswerRow
from service.errors import RequestIdReused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from service.call import Mutation
    from service.db.lending import Lender
    from service.db.pool import Database
    from service.db.statement import Connection
    from service.db.transactions import Isolation

Result = TypeVar("Result")

LIFETIME = timedelta(hours=24)
"""How long a repeat gets the first answer."""
_BATCH = 1000


class Answers:
    """The answers kept in `database`. Their age is told by the database's clock, which all replicas share."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, key: RequestKey) -> bytes | None:
        """Return the answer to the request, or None when it is not, or no longer, kept.

        Raises:
            RequestIdReused: the caller made another request under this id.

        """
        caller, request_id = key.caller, key.request_id
        row = await self._database.read(
            lambda conn: FIND_ANSWER.optional(conn, caller=caller, request_id=request_id, lifetime=LIFETIME)
        )
        return None if row is None else _answer(key, row)

    async def forget(self, conn: Connection, subject: str) -> None:
        """Delete, in the caller's transaction, the answers given to the user with the id `subject` or about them."""
        await FORGET_ANSWERS.execute(conn, subject=subject)

    async def prune(self, batch: int = _BATCH) -> int:
        """Delete what has expired, `batch` rows to a transaction; return how many rows that were."""
        pruned = 0
        while True:
            gone = await self._database.transact(
                lambda conn: PRUNE_ANSWERS.execute(conn, lifetime=LIFETIME, batch=batch)
            )
            pruned += gone
            if gone < batch:
                return pruned


class OpenTransaction:
    """A change made and not yet committed: the ``transaction`` of the call's `Mutation`."""

    def __init__(self, conn: Connection, lender: Lender, key: RequestKey) -> None:
        self._conn = conn
        self._lender = lender
        self._key = key

    async def commit(self, answer: bytes) -> None:
        """Keep the answer, commit and give the connection back.

        Raises:
            Conflict: the commit lost a race; nothing was changed.
            DependencyUnavailable: the connection died; if during COMMIT, the outcome is unknown.

        """
        try:
            key = self._key
            await KEEP_ANSWER.execute(self._conn, caller=key.caller, request_id=key.request_id, response=answer)
            await transactions.commit(self._conn)
        except Exception as error:  # noqa: BLE001 - raised again, in our words
            raise_meaning(error)
        finally:
            await self.roll_back()

    async def roll_back(self) -> None:
        """Undo what is not committed and give the connection back."""
        try:
            await transactions.roll_back(self._conn)
        finally:
            await self._lender.give_back(self._conn)


async def begin(
    lender: Lender,
    mutation: Mutation,
    key: RequestKey,
    work: Callable[[Connection], Awaitable[Result]],
    isolation: Isolation | None,
) -> Result:
    """Claim the key and run `work` in a transaction, which is left open as ``mutation.transaction``.

    Raises:
        Answered: the same request was answered before.
        RequestIdReused: the caller made another request under this id.
        Exception: what `Lender.lend` and `work` raise; nothing is left open then.

    """

    async def claimed(conn: Connection) -> Result:
        await _claim(conn, key)
        return await work(conn)

    async def begun(conn: Connection) -> Result:
        result = await transactions.begin(conn, claimed, isolation)
        mutation.transaction = OpenTransaction(conn, lender, key)
        return result

    return await lender.lend(begun, keep=True)


async def _claim(conn: Connection, key: RequestKey) -> None:
    caller, request_id = key.caller, key.request_id
    claimed = await CLAIM_KEY.optional(
        conn,
        caller=caller,
        request_id=request_id,
        method=key.method,
        fingerprint=key.fingerprint,
        lifetime=LIFETIME,
    )
    if claimed is None:
        # It is there: the claim that failed has locked the row.
        row = await FIND_ANSWER.one(conn, caller=caller, request_id=request_id, lifetime=LIFETIME)
        raise Answered(_answer(key, row))


def _answer(key: RequestKey, row: AnswerRow) -> bytes:
    if row.fingerprint != key.fingerprint:
        raise RequestIdReused
    return row.response
