"""Replicas that come and go behind a real Envoy; `make soak-rolling` does it for longer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from bench.soak_rolling import soak
from tests.app import envoy as edge

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.faults, pytest.mark.skipif(edge.MISSING is not None, reason=str(edge.MISSING))]


@pytest.mark.timeout(240)
async def test_a_rolling_restart_of_two_replicas_behind_envoy_fails_no_call(url: str, tmp_path: Path) -> None:
    seen = await soak(url, tmp_path, seconds=1, rate=100)
    assert seen["restarts"] == 2
    assert seen["calls"] > 300
    assert not seen["failed"]
