"""One line and one measurement per call."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import grpc.aio
import pytest
from tests.rpc import dummy


def calls(lines: list[Any]) -> list[Any]:
    return [line for line in lines if line["event"] == "call"]


@pytest.mark.parametrize("name", dummy.KINDS)
async def test_a_call_is_one_line_with_who_what_and_how_long(house: dummy.House, lines: list[Any], name: str) -> None:
    await house.call(name, "hello", metadata=(*dummy.ALICE, ("x-request-id", "r1")))
    await house.settle()
    (line,) = calls(lines)
    assert line.pop("duration_ms") >= 0
    assert line.pop("source").startswith("ipv4:127.0.0.1:")
    assert line == {
        "event": "call",
        "log_level": "info",
        "rpc_method": f"{dummy.SERVICE}/{name}",
        "code": "OK",
        "request_id": "r1",
        "principal": "alice",
    }


@pytest.mark.parametrize(
    ("wish", "code", "level", "reason"),
    [("domain", "ALREADY_EXISTS", "info", "EMAIL_TAKEN"), ("bug", "INTERNAL", "error", "INTERNAL")],
)
async def test_only_bugs_are_errors(
    house: dummy.House, lines: list[Any], wish: str, code: str, level: str, reason: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await house.call("Unary", wish)
    await house.settle()
    (line,) = calls(lines)
    assert (line["code"], line["log_level"], line["reason"]) == (code, level, reason)


async def test_health_checks_are_for_debugging(house: dummy.House, lines: list[Any]) -> None:
    await house.check_health()
    await house.settle()
    assert [line["log_level"] for line in calls(lines)] == ["debug"]


async def test_measurements_have_the_final_code_and_nothing_stays_in_flight(house: dummy.House) -> None:
    for wish in ("fine", "domain", "bug"):
        with suppress(grpc.aio.AioRpcError):
            await house.call("Bidi", wish)
    await house.settle()
    meter = house.meters[f"{dummy.SERVICE}/Bidi"]
    assert meter.codes == ["OK", "ALREADY_EXISTS", "INTERNAL"]
    assert meter.in_flight == 0
