"""What the tests of telemetry share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.telemetry.desk import Desk

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def desk() -> Iterator[Desk]:
    """Give a desk with JSON lines."""
    desk = Desk()
    desk.set_up()
    yield desk
    desk.close()
