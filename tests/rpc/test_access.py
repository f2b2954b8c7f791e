"""Who is let in."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio
import pytest
from gatelodge.users.v1 import users_pb2  # noqa: F401 - its service is checked below
from tests.rpc import dummy

from service.access import Principal
from service.errors import CredentialsInvalid, DependencyUnavailable
from service.rpc.interceptors import Access
from service.rpc.methods import check_rules


def bearer(text: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", text),)


async def answer(house: dummy.House, name: str, metadata: Any, **fields: Any) -> str:
    """Return OK or the reason."""
    path = name if name.startswith("/") else f"/{dummy.SERVICE}/{name}"
    try:
        await house.send(path, dummy.Request(**fields).SerializeToString(), metadata)
    except grpc.aio.AioRpcError as error:
        return dummy.reason_of(error)
    return "OK"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Public", {"": "OK", "wrong": "OK", "alice": "OK", "admin": "OK", "robot": "OK"}),
        *(
            (kind, {"": "CREDENTIALS_MISSING", "wrong": "CREDENTIALS_INVALID", "alice": "OK", "robot": "OK"})
            for kind in dummy.KINDS
        ),
        ("Permitted", {"": "CREDENTIALS_MISSING", "alice": "PERMISSION_MISSING", "admin": "OK"}),
        ("ServiceOnly", {"": "CREDENTIALS_MISSING", "alice": "PERMISSION_MISSING", "robot": "OK"}),
        (
            "SelfOr",
            {"": "CREDENTIALS_MISSING", "wrong": "CREDENTIALS_INVALID", "alice": "USER_NOT_FOUND", "admin": "OK"},
        ),
        ("/dummy.v1.FaultyService/Undeclared", {"": "CREDENTIALS_MISSING", "admin": "PERMISSION_MISSING"}),
    ],
)
async def test_each_rule_admits_whom_it_names(house: dummy.House, name: str, expected: dict[str, str]) -> None:
    for token, reason in expected.items():
        assert await answer(house, name, bearer(f"Bearer {token}") if token else ()) == reason, token


async def test_self_or_admits_the_user_to_their_own_and_hides_all_others(house: dummy.House) -> None:
    assert await answer(house, "SelfOr", dummy.ALICE, user_id="alice") == "OK"
    assert await answer(house, "SelfOr", dummy.ALICE, user_id="bob") == "USER_NOT_FOUND"
    assert await answer(house, "SelfOr", bearer("Bearer admin"), user_id="bob") == "OK"


async def test_a_stranger_learns_nothing_from_validation(house: dummy.House) -> None:
    assert await answer(house, "Unary", (), number=999) == "CREDENTIALS_MISSING"
    assert await answer(house, "Permitted", dummy.ALICE, number=999) == "PERMISSION_MISSING"
    assert await answer(house, "SelfOr", dummy.ALICE, user_id="bob", number=999) == "USER_NOT_FOUND"
    assert await answer(house, "Unary", dummy.ALICE, number=999) == "INVALID_FIELDS"


@pytest.mark.parametrize("text", ["bearer alice", "BEARER alice", "Bearer  alice"])
async def test_the_scheme_is_read_whatever_its_case(house: dummy.House, text: str) -> None:
    assert await answer(house, "Unary", bearer(text)) == "OK"


@pytest.mark.parametrize("text", ["", "alice", "Basic alice", "Bearer", "Bearer " + "x" * 9000])
async def test_what_is_no_bearer_token_is_an_invalid_credential(house: dummy.House, text: str) -> None:
    assert await answer(house, "Unary", bearer(text)) == "CREDENTIALS_INVALID"


async def test_two_credentials_are_none(house: dummy.House) -> None:
    assert await answer(house, "Unary", dummy.ALICE * 2) == "CREDENTIALS_INVALID"


def test_start_up_names_every_method_without_a_usable_rule() -> None:
    check_rules([dummy.SERVICE, "gatelodge.users.v1.UserService", "grpc.health.v1.Health"])
    with pytest.raises(ValueError, match="without a usable access rule") as caught:
        check_rules([dummy.SERVICE, "dummy.v1.FaultyService", "no.Such"])
    assert "no.Such " in str(caught.value)
    for name in ("Undeclared", "PublicFalse", "SelfOrStream", "SelfOrNobody"):
        assert f"FaultyService.{name} " in str(caught.value)


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (dummy.TOKENS["reader"], "OK"),
        (None, "CREDENTIALS_INVALID"),
        (Principal("reader"), "PERMISSION_MISSING"),
    ],
)
async def test_a_stream_ends_with_the_next_message_when_its_caller_may_not_have_it_any_more(
    house: dummy.House, monkeypatch: pytest.MonkeyPatch, now: Principal | None, reason: str
) -> None:
    request = dummy.Request(wish="wait").SerializeToString()
    stream = house.open(f"/{dummy.SERVICE}/PermittedStream", request, bearer("Bearer reader"))
    assert (await stream.read()).text == "first"
    if now is None:
        monkeypatch.delitem(dummy.TOKENS, "reader")
    else:
        monkeypatch.setitem(dummy.TOKENS, "reader", now)
    house.servicer.release.set()
    try:
        told = {"wait": "OK"}[(await stream.read()).text]
    except grpc.aio.AioRpcError as error:
        told = dummy.reason_of(error)
    assert told == reason


async def test_who_must_be_asked_for_is_waited_for(house: dummy.House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token may be judged at once or later; later it can still be refused, or not be judged at all."""

    async def later(principal: Principal | None, error: Exception | None = None) -> Principal:
        await asyncio.sleep(0.01)
        if error is not None or principal is None:
            raise error or CredentialsInvalid
        return principal

    access = next(layer for layer in house.layers if isinstance(layer, Access))
    outcomes: list[tuple[Any, str]] = [
        (lambda _: later(Principal("alice")), "OK"),
        (lambda _: later(None), "CREDENTIALS_INVALID"),
        (lambda _: later(None, DependencyUnavailable("database")), "DEPENDENCY_UNAVAILABLE"),
    ]
    for authenticate, reason in outcomes:
        monkeypatch.setattr(access, "_authenticate", authenticate)
        assert await answer(house, "Unary", dummy.ALICE) == reason
