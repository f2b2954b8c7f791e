"""Whatever escapes from a call is told as one clean status."""

from __future__ import annotations

import time
from typing import Any

import grpc.aio
import pytest
from gatelodge.auth.v1 import auth_pb2
from gatelodge.errors.v1 import errors_pb2
from gatelodge.events.v1 import events_pb2
from gatelodge.users.v1 import users_pb2
from tests.rpc import dummy

from service import errors
from service.rpc import errors_page, status
from service.rpc.interceptors.validation import _has_rules
from service.telemetry.exceptions import render_exception


def nested(depth: int) -> bytes:
    message = dummy.Request(wish="deep")
    for _ in range(depth):
        message = dummy.Request(child=message)
    return bytes(message.SerializeToString())


async def refused(house: dummy.House, name: str, raw: bytes) -> grpc.aio.AioRpcError:
    start = time.monotonic()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await house.send(f"/{dummy.SERVICE}/{name}", raw)
    assert time.monotonic() - start < 1
    return caught.value


@pytest.mark.parametrize("name", dummy.KINDS)
async def test_a_domain_error_is_told_with_its_reason_and_request_id(house: dummy.House, name: str) -> None:
    error = await refused(house, name, dummy.Request(wish="domain").SerializeToString())
    assert error.code() is grpc.StatusCode.ALREADY_EXISTS
    assert dummy.reason_of(error) == "EMAIL_TAKEN"


@pytest.mark.parametrize("wish", dummy.BUGS)
@pytest.mark.parametrize("name", dummy.KINDS)
async def test_a_bug_is_told_as_internal_and_its_cause_logged(
    house: dummy.House, lines: list[Any], name: str, wish: str
) -> None:
    error = await refused(house, name, dummy.Request(wish=wish).SerializeToString())
    assert error.code() is grpc.StatusCode.INTERNAL
    assert error.details() == errors.InternalError().message
    assert dummy.reason_of(error) == "INTERNAL"
    request_id = dict(error.trailing_metadata())["x-request-id"]
    causes = [line for line in lines if line["event"] == "unexpected exception"]
    assert [line["request_id"] for line in causes] == [request_id]
    assert causes[0]["log_level"] == "error"
    assert "rpc/dummy.py" in causes[0]["exception"] or wish == "wrong type"
    assert "a@b.example" not in causes[0]["exception"]
    house.servicer.release.set()


async def test_a_bug_that_quotes_a_secret_does_not_log_it(house: dummy.House, lines: list[Any]) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await house.call("Unary", "tell", password="hunter2\n", child=dummy.Request(password="other"))
    (cause,) = (line["exception"] for line in lines if line["event"] == "unexpected exception")
    assert "ValueError: <redacted> " in cause
    assert "hunter2" not in cause
    assert "alice" not in cause


async def test_a_stream_can_fail_after_some_messages(house: dummy.House) -> None:
    call = house.open(f"/{dummy.SERVICE}/ServerStream", dummy.Request(wish="bug").SerializeToString())
    assert (await call.read()).text == "first"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert dummy.reason_of(caught.value) == "INTERNAL"


@pytest.mark.parametrize("name", dummy.KINDS)
@pytest.mark.parametrize(
    ("raw", "code", "reason"),
    [
        (b"\xff", grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST"),
        (b"\x12\x02\xff\xfe", grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST"),
        (nested(101), grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST"),
        (b"\x12\x02a\0", grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS"),
        (b"x" * (dummy.LIMIT + 1), grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE"),
    ],
    ids=["broken", "bad UTF-8", "too deep", "NUL", "too large"],
)
async def test_bad_bytes_are_the_callers_fault(
    house: dummy.House, name: str, raw: bytes, code: grpc.StatusCode, reason: str
) -> None:
    error = await refused(house, name, raw)
    assert (error.code(), dummy.reason_of(error)) == (code, reason)
    assert "RetryInfo" not in dummy.details_of(error)
    assert not house.servicer.seen


async def test_nul_is_found_in_every_string_and_only_there(house: dummy.House) -> None:
    request = dummy.Request(
        wish="a\0", child=dummy.Request(user_id="\0"), children=[dummy.Request(), dummy.Request(wish="b\0")]
    )
    request.labels["k\0"] = "v\0"
    error = await refused(house, "Unary", request.SerializeToString())
    fields = {v.field for v in dummy.details_of(error)["BadRequest"].field_violations}
    assert fields == {"wish", "child.user_id", "children[1].wish", "labels[0].key", "labels[0].value"}
    assert await house.call("Unary", "fine", raw=b"\0\0") == ["fine"]


async def test_an_abort_by_hand_keeps_the_request_id(house: dummy.House) -> None:
    error = await refused(house, "Unary", dummy.Request(wish="abort").SerializeToString())
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert "x-request-id" in dict(error.trailing_metadata())


async def test_all_violations_come_together_with_their_paths(house: dummy.House) -> None:
    request = dummy.Request(wish="w" * 201, number=101, children=[dummy.Request(), dummy.Request(number=999)])
    request.labels["color"] = "too long"
    error = await refused(house, "Unary", request.SerializeToString())
    violations = {v.field: v.description for v in dummy.details_of(error)["BadRequest"].field_violations}
    assert set(violations) == {"wish", "number", "children[1].number", 'labels["color"]'}
    assert "200 characters" in violations["wish"]
    assert "999" not in str(violations)


async def test_a_thousand_violations_still_fit_into_the_trailers(house: dummy.House) -> None:
    request = dummy.Request(children=[dummy.Request(number=999)] * 1000)
    error = await refused(house, "Unary", request.SerializeToString())
    details = dummy.details_of(error)
    listed, omitted = len(details["BadRequest"].field_violations), details["ErrorInfo"].metadata["violations_omitted"]
    assert listed + int(omitted) == 1000
    assert listed > 10


async def test_an_unknown_method_is_told_like_any_other_error(house: dummy.House, lines: list[Any]) -> None:
    for path in ("/no.Such/Method", "/noslash", f"/{dummy.SERVICE}/Nope"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await house.send(path, b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert dummy.reason_of(caught.value) == "METHOD_UNKNOWN"
    await house.settle()
    assert [line["code"] for line in lines if line["event"] == "call"] == ["UNIMPLEMENTED"] * 3


async def test_a_sync_method_is_refused_as_a_bug(house: dummy.House) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await house.call("Sync")
    assert dummy.reason_of(caught.value) == "INTERNAL"


async def test_a_log_that_cannot_be_written_changes_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    house = await dummy.start()
    for layer in house.layers:
        monkeypatch.setattr(layer, "_log", None, raising=False)
    try:
        assert await house.call("Unary", "fine") == ["fine"]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await house.call("Unary", "bug")
        assert dummy.reason_of(caught.value) == "INTERNAL"
    finally:
        await house.close()


def test_every_error_has_a_reason_of_the_catalogue_and_every_reason_an_error() -> None:
    reasons = {name.removeprefix("REASON_") for name in errors_pb2.Reason.keys()} - {"UNSPECIFIED"}  # noqa: SIM118
    assert set(errors_page.error_classes()) == reasons


def test_every_kind_of_error_has_a_code_of_its_own() -> None:
    kinds = {*errors.DomainError.__subclasses__(), *errors.Retryable.__subclasses__()} - {errors.Retryable}
    assert kinds == set(status.CODES)
    assert len(set(status.CODES.values())) == len(status.CODES)


def test_the_page_of_errors_is_up_to_date() -> None:
    assert errors_page.main(["--check"]) == 0


def test_a_kind_raised_bare_counts_as_a_bug() -> None:
    assert status.reason_of(errors.NotFound("x")) == "INTERNAL"


def test_a_chain_shows_causes_contexts_and_groups_but_no_variables() -> None:
    secret = "hunter2"  # noqa: F841 - what must not be shown
    try:
        try:
            raise KeyError("inner\nline")  # noqa: TRY301 - wants a frame of its own
        except KeyError as inner:
            raise ExceptionGroup("group", [ValueError("member"), OSError()]) from inner
    except ExceptionGroup as group:
        text = render_exception(group)
    assert all(part in text for part in ("ExceptionGroup: group", "| ValueError: member", "caused by: KeyError"))
    assert "inner\\nline" in text or "inner\\\\nline" in text
    assert "test_errors.py" in text


def test_only_messages_without_any_rule_are_not_asked_about() -> None:
    assert _has_rules(users_pb2.GetUserRequest.DESCRIPTOR)
    assert _has_rules(users_pb2.GetUserResponse.DESCRIPTOR), "its rules are those of the user in it"
    assert _has_rules(events_pb2.WatchEventsRequest.DESCRIPTOR)
    assert not _has_rules(auth_pb2.GetMeRequest.DESCRIPTOR)
