"""What a serving process asks of kernel and interpreter, so that its threads do not stand in each other's way."""

from __future__ import annotations

import gc
import os
import threading
from contextlib import suppress

_LINUX = hasattr(os, "SCHED_BATCH")


def take_turns() -> None:
    """Have no thread of this one interrupt another as it wakes (SCHED_BATCH); those it starts later do the same.

    A call passes through threads of gRPC's and the event loop's. When each takes the processor as soon as it has
    something to do, every call comes to every one of them alone; by turns they find several. Where threads have a
    processor each it changes nothing. To be called first of all.
    """
    if _LINUX:
        with suppress(OSError):  # where the kernel, or who contains us, does not let us
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def stand_back() -> None:
    """Have this thread run only while no other wants to (SCHED_IDLE): whatever wakes takes the processor from it.

    Lowest niceness is not enough: since Linux 6.6 also a thread of that is let finish its milliseconds.
    """
    if _LINUX:
        with suppress(OSError):
            os.sched_setscheduler(threading.get_native_id(), os.SCHED_IDLE, os.sched_param(0))


def started() -> None:
    """Have the garbage collector never look again at what the start made; calls leave it next to nothing."""
    gc.collect()
    gc.freeze()
