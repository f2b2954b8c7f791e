"""What the layer makes of a request, and of a failure that the first one's success explains."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest
from gatelodge.auth.v1 import auth_pb2
from gatelodge.users.v1 import users_pb2

from service import call
from service.access import Principal
from service.errors import EmailTaken, Overloaded
from service.rpc.interceptors import Idempotency
from service.rpc.methods import describe

if TYPE_CHECKING:
    from service.call import RequestKey
    from service.errors import DomainError

CREATE = describe("/gatelodge.users.v1.UserService/CreateUser", client_streaming=False, server_streaming=False)
REGISTER = describe("/gatelodge.auth.v1.AuthService/Register", client_streaming=False, server_streaming=False)
NO_CONTEXT: Any = None


class Kept:
    """Answers by the question's number; remembers the keys."""

    def __init__(self, *answers: bytes | None) -> None:
        self.answers = list(answers)
        self.keys: list[RequestKey] = []

    async def find(self, key: RequestKey) -> bytes | None:
        self.keys.append(key)
        return self.answers.pop(0)


async def served(kept: Kept, request: Any, *, fail: DomainError | None = None, subject: str = "ada") -> Any:
    async def proceed(_request: Any, _context: Any) -> bytes:
        if fail is not None:
            raise fail
        return b"made"

    call.enter(call.Call("r", "m", principal=Principal(subject) if subject else None))
    method = REGISTER if isinstance(request, auth_pb2.RegisterRequest) else CREATE
    return await Idempotency(find=kept.find, secret=b"k" * 32).around(method, proceed, request, NO_CONTEXT)


def create(request_id: str = "", **fields: Any) -> users_pb2.CreateUserRequest:
    return users_pb2.CreateUserRequest(request_id=request_id or str(uuid.uuid4()), **fields)


async def test_a_failure_that_comes_of_the_first_success_is_answered_as_that() -> None:
    assert await served(Kept(None, b"first"), create(), fail=EmailTaken()) == b"first"


async def test_an_answer_without_fields_is_an_answer() -> None:
    assert await served(Kept(b""), create(), fail=EmailTaken()) == b""


async def test_a_failure_of_its_own_is_told() -> None:
    with pytest.raises(EmailTaken):
        await served(Kept(None, None), create(), fail=EmailTaken())


async def test_an_overloaded_server_is_not_asked_more() -> None:
    with pytest.raises(Overloaded):
        await served(Kept(None), create(), fail=Overloaded("calls"))


async def test_a_fingerprint_is_of_the_method_and_every_field_but_the_id() -> None:
    kept = Kept(*[b""] * 4)
    same, email = str(uuid.uuid4()), "ada@example.com"
    await served(kept, create(same, email=email))
    await served(kept, create(email=email))
    await served(kept, create(same, email=email, password="a secret"))
    await served(kept, auth_pb2.RegisterRequest(email=email, request_id=same))
    first, other_id, other_field, other_method = (key.fingerprint for key in kept.keys)
    assert first == other_id
    assert len({first, other_field, other_method}) == 3
    assert kept.keys[0].caller == "ada"
    assert kept.keys[0].request_id == uuid.UUID(same)


async def test_strangers_are_told_apart_by_what_they_ask() -> None:
    kept, same = Kept(b"", b"", b""), str(uuid.uuid4())
    for email in ("ada@example.com", "ada@example.com", "eve@example.com"):
        await served(kept, auth_pb2.RegisterRequest(email=email, request_id=same), subject="")
    first, again, other = (key.caller for key in kept.keys)
    assert first == again != other
