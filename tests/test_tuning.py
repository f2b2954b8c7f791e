"""What a serving process asks of its kernel and its interpreter."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

linux = pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="only Linux has scheduling policies")

ASK = """
import gc, os, threading
from service import tuning
tuning.take_turns()
policies = [os.sched_getscheduler(0)]
def hash():
    policies.append(os.sched_getscheduler(threading.get_native_id()))
    tuning.stand_back()
    policies.append(os.sched_getscheduler(threading.get_native_id()))
thread = threading.Thread(target=hash)
thread.start()
thread.join()
policies.append(os.sched_getscheduler(0))
before = gc.get_freeze_count()
tuning.started()
print(*policies, gc.get_freeze_count() > before)
"""


@linux
def test_threads_take_turns_and_those_that_hash_stand_back() -> None:
    said = subprocess.run([sys.executable, "-c", ASK], check=True, capture_output=True, text=True).stdout.split()
    assert said == [*map(str, (os.SCHED_BATCH, os.SCHED_BATCH, os.SCHED_IDLE, os.SCHED_BATCH)), "True"]


@linux
def test_a_kernel_that_does_not_let_us_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    from service import tuning  # noqa: PLC0415 - beside what is replaced in it

    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refused)
    tuning.take_turns()
    tuning.stand_back()
