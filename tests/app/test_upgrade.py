"""An upgrade and the way back, of real processes behind a real Envoy; `make rehearse-upgrade` does it for longer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from bench.rehearse_upgrade import EXPAND, rehearse
from tests.app import envoy as edge
from tests.app.release import of_the_checkout

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.faults, pytest.mark.skipif(edge.MISSING is not None, reason=str(edge.MISSING))]


@pytest.mark.timeout(240)
async def test_going_to_the_next_release_and_back_fails_no_call(empty_url: str, tmp_path: Path) -> None:
    old, new = of_the_checkout(tmp_path / "old"), of_the_checkout(tmp_path / "new")
    new.add_migration("expand", EXPAND)
    seen = await rehearse(empty_url, tmp_path, old, new, rate=50, hold=0.3)
    assert not seen["failed"]
    assert all(step["calls"] for name, step in seen["steps"].items() if name != "to the end")


async def test_a_migration_that_breaks_the_release_before_is_seen(empty_url: str, tmp_path: Path) -> None:
    old, new = of_the_checkout(tmp_path / "old"), of_the_checkout(tmp_path / "new")
    new.add_migration("break", "ALTER TABLE users DROP COLUMN display_name")
    seen = await rehearse(empty_url, tmp_path, old, new, rate=50, hold=0.5, replace=False)
    assert seen["steps"]["old serves"]["failures"] == 0
    assert seen["steps"]["old serves on the new schema"]["failures"] > 5
