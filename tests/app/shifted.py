"""Runs ``gatelodge`` on a machine whose clock is off, by as many seconds as the file ``CLOCK_SHIFT`` says at that time.

Every module that has taken ``datetime`` gets one whose `now` is shifted, and `time.time` is shifted for all.
"""

from __future__ import annotations

import datetime as dt
import os
import sys
import time
from pathlib import Path

from service import app, cli, process

SHIFT = Path(os.environ.pop("CLOCK_SHIFT"))
_true = time.time


def shifted() -> float:
    return _true() + float(SHIFT.read_text())


class _Meta(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, dt.datetime)


class Shifted(dt.datetime, metaclass=_Meta):
    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:  # type: ignore[override]  # a plain one, for the driver
        return dt.datetime.fromtimestamp(shifted(), tz)


if __name__ == "__main__":
    assert app
    assert process
    time.time = shifted
    for name, module in list(sys.modules.items()):
        if name.startswith(("service", "jwt")) and vars(module).get("datetime") is dt.datetime:
            vars(module)["datetime"] = Shifted
    sys.exit(cli.main())
