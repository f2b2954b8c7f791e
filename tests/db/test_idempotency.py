"""A claim, a change and an answer in one transaction, which stays open until the answer is there."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import pytest_asyncio
from gatelodge.users.v1 import users_pb2

from service import call
from service.access import Principal
from service.call import Answered, Mutation, RequestKey
from service.db import Answers, Command, Isolation, Statement
from service.errors import EmailTaken, RequestIdReused, UserNotFound
from service.rpc.interceptors import Idempotency
from service.rpc.methods import describe

if TYPE_CHECKING:
    from service.db import Connection, Database

pytestmark = pytest.mark.asyncio


CREATE = describe("/gatelodge.users.v1.UserService/CreateUser", client_streaming=False, server_streaming=False)
NO_CONTEXT: Any = None


class Number(NamedTuple):
    n: int


ADD = Command("add", "UPDATE counters SET n = n + 1")
COUNT = Statement("count", "SELECT n FROM counters", row=Number)


@pytest_asyncio.fixture(autouse=True)
async def counters(conn: Connection) -> None:
    await conn.execute("CREATE TABLE counters (n int NOT NULL)")
    await conn.execute("INSERT INTO counters VALUES (0)")


@pytest.fixture
def key() -> RequestKey:
    return RequestKey("ada", uuid.uuid4(), "a.B/C", b"f" * 32)


def calling(key: RequestKey | None) -> Mutation:
    """Make this task a call of a mutating method."""
    mutation = Mutation(key)
    call.enter(call.Call("r", "a.B/C", mutation=mutation))
    return mutation


async def mutate(db: Database, key: RequestKey, isolation: Isolation | None = None, answer: bytes = b"first") -> bytes:
    """Do what the layer does."""
    mutation = calling(key)
    try:
        await db.transact(ADD.execute, isolation=isolation)
    except Answered as before:
        return before.answer
    assert mutation.transaction is not None
    await mutation.transaction.commit(answer)
    return answer


async def count(conn: Connection) -> int:
    return (await COUNT.one(conn)).n


async def test_nothing_is_seen_of_a_change_before_its_answer_is_kept(
    db: Database, conn: Connection, key: RequestKey
) -> None:
    mutation = calling(key)
    await db.transact(ADD.execute)
    assert await count(conn) == 0
    assert mutation.transaction is not None
    await mutation.transaction.commit(b"answer")
    assert await count(conn) == 1
    calling(None)
    assert await Answers(db).find(key) == b"answer"


@pytest.mark.parametrize("isolation", [None, *Isolation])
async def test_at_every_isolation_ten_at_once_have_one_effect(
    db: Database, conn: Connection, key: RequestKey, isolation: Isolation | None
) -> None:
    answers = await asyncio.gather(
        *(asyncio.create_task(mutate(db, key, isolation, str(n).encode())) for n in range(10))
    )
    assert len(set(answers)) == 1
    assert await count(conn) == 1


async def test_a_claim_waits_for_one_under_way_and_takes_its_place_when_that_is_undone(
    db: Database, conn: Connection, key: RequestKey
) -> None:
    mutation = calling(key)
    await db.transact(ADD.execute)
    second = asyncio.create_task(mutate(db, key, answer=b"second"))
    await asyncio.sleep(0.1)
    assert not second.done()
    assert mutation.transaction is not None
    await mutation.transaction.roll_back()
    assert await second == b"second"
    assert await count(conn) == 1


async def test_lost_races_are_run_again_with_their_claim_and_one_effect(db: Database, conn: Connection) -> None:
    keys = [RequestKey("ada", uuid.uuid4(), "a.B/C", b"f" * 32) for _ in range(3)]
    await asyncio.gather(*(asyncio.create_task(mutate(db, each, Isolation.SERIALIZABLE)) for each in keys))
    assert await count(conn) == 3
    cursor = await conn.execute("SELECT count(*) FROM idempotency_keys WHERE response = 'first'")
    assert await cursor.fetchone() == (3,)


async def test_another_request_under_the_id_is_refused_and_has_no_effect(
    db: Database, conn: Connection, key: RequestKey
) -> None:
    await mutate(db, key)
    with pytest.raises(RequestIdReused):
        await mutate(db, RequestKey(key.caller, key.request_id, key.method, b"g" * 32))
    assert await count(conn) == 1


@pytest.mark.parametrize("keyed", [True, False])
async def test_after_its_change_a_mutation_asks_nothing_more_of_the_database(
    db: Database,
    key: RequestKey,
    keyed: bool,  # noqa: FBT001
) -> None:
    mutation = calling(key if keyed else None)
    await db.transact(ADD.execute)
    for again in (db.transact(ADD.execute), db.read(COUNT.one), anext(db.stream(COUNT.stream))):
        with pytest.raises(RuntimeError, match="the last thing"):
            await again
    if mutation.transaction is not None:
        await mutation.transaction.roll_back()


async def test_after_a_change_that_failed_a_mutation_may_go_on(db: Database, conn: Connection, key: RequestKey) -> None:
    async def fail(conn: Connection) -> None:
        await ADD.execute(conn)
        raise UserNotFound

    mutation = calling(key)
    with pytest.raises(UserNotFound):
        await db.transact(fail)
    assert (await db.read(COUNT.one)).n == 0
    await db.transact(ADD.execute)
    assert mutation.transaction is not None
    await mutation.transaction.commit(b"")
    assert await count(conn) == 1


@pytest.mark.parametrize("failure", [ValueError(), EmailTaken(), asyncio.CancelledError()])
async def test_a_change_whose_call_then_fails_is_undone_and_its_connection_returned(
    db: Database, conn: Connection, failure: BaseException
) -> None:
    layer = Idempotency(find=Answers(db).find, secret=b"k" * 32)
    request = users_pb2.CreateUserRequest(request_id=str(uuid.uuid4()))

    async def proceed(_request: Any, _context: Any) -> bytes:
        await db.transact(ADD.execute)
        raise failure

    for _ in range(6):  # more than there are connections
        call.enter(call.Call("r", "m", principal=Principal("ada")))
        with pytest.raises(type(failure)):
            await layer.around(CREATE, proceed, request, NO_CONTEXT)
    cursor = await conn.execute("SELECT n, (SELECT count(*) FROM idempotency_keys) FROM counters")
    assert await cursor.fetchone() == (0, 0)


async def test_what_is_done_apart_lasts_though_the_call_fails(db: Database, key: RequestKey) -> None:
    calling(key)
    await db.apart(ADD.execute, repeatable=False)
    with pytest.raises(UserNotFound):
        await db.transact(failing)
    assert await db.apart(COUNT.one, repeatable=False) == Number(1)


async def failing(conn: Connection) -> None:
    await ADD.execute(conn)
    raise UserNotFound


@pytest.mark.parametrize("with_key", [True, False])
async def test_nothing_is_done_apart_once_the_change_has_begun(db: Database, key: RequestKey, with_key: bool) -> None:  # noqa: FBT001 - a parameter
    mutation = calling(key if with_key else None)
    await db.transact(ADD.execute)
    with pytest.raises(RuntimeError, match="last thing"):
        await db.apart(COUNT.one, repeatable=False)
    if mutation.transaction is not None:
        await mutation.transaction.roll_back()
