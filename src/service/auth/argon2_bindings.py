"""Which build of argon2's C code hashes: the image's own for x86-64-v3, about twice as fast, or the wheel's.

The wheel's runs on any x86-64. ``deploy/image/build-argon2.sh`` compiles the same source for processors with AVX2 and
puts it beside the packages, where no import finds it by itself. What cannot run it would die of SIGILL without a word,
so the processor is asked before anything of it is loaded.

`choose` must come before the first ``import argon2``, which binds whatever bindings are there.
"""

from __future__ import annotations

import logging
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from typing import Literal, NamedTuple

FOLDER = Path(__file__).parents[2] / "gatelodge-argon2-x86-64-v3"
"""Where the image has its own build, beside the packages."""
CPUINFO = Path("/proc/cpuinfo")
NEEDED = frozenset(
    "abm avx avx2 bmi1 bmi2 cx16 f16c fma lahf_lm movbe pni popcnt sse4_1 sse4_2 ssse3 xsave".split()  # noqa: SIM905 - as the kernel prints them
)
"""What x86-64-v3 is, by the kernel's names (x86-64 psABI, table 3.1; `abm` is LZCNT, `pni` SSE3). Without the system's
leave to use them (OSXSAVE) the kernel hides AVX and what needs it."""

_OURS, _WHEELS = "x86-64-v3", "wheel"
_PACKAGE = "_argon2_cffi_bindings"
_BOUND = frozenset({"argon2", _PACKAGE})
_KNOWN = bytes.fromhex("6d093c501fd5999645e0ea3bf620d7b8be7fd2db59c20d9fff9539da2bf57037")
"""Argon2id of "password" and "somesalt" with m=256 KiB, t=2, p=2: the reference implementation's own test has it."""

_log = logging.getLogger("gatelodge.auth")


class Bindings(NamedTuple):
    """What was chosen."""

    bindings: str
    """``x86-64-v3`` or ``wheel``."""
    why: str


def choose(wanted: Literal["auto", "wheel"], *, folder: Path = FOLDER, cpuinfo: Path = CPUINFO) -> Bindings:
    """Bind argon2 to the build in `folder` if it is wanted, there, fit for this processor and right; else to the wheel.

    Says which in the log. In a process that has argon2 already it says what that is bound to.
    """
    chosen = _bound(folder) if _PACKAGE in sys.modules else _chosen(wanted, folder, cpuinfo)
    _log.info("argon2 bindings", extra=chosen._asdict())
    return chosen


def lacking(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """Return what the processors lack of x86-64-v3: all of it where they are of another kind or cannot be asked."""
    try:
        text = cpuinfo.read_text(encoding="ascii", errors="replace")
    except OSError:
        return NEEDED
    lines = (line.partition(":") for line in text.splitlines())
    flags = [frozenset(value.split()) for key, _, value in lines if key.strip() == "flags"]
    return NEEDED - frozenset.intersection(*flags) if flags else NEEDED


def _chosen(wanted: Literal["auto", "wheel"], folder: Path, cpuinfo: Path) -> Bindings:
    if wanted == _WHEELS:
        return Bindings(_WHEELS, "auth.argon2.bindings says so")
    if not folder.is_dir():
        return Bindings(_WHEELS, "no others are installed")
    if missing := lacking(cpuinfo):
        return Bindings(_WHEELS, f"the processor is not known to have {', '.join(sorted(missing))}")
    try:
        _bind(folder)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with them: the wheel's are there
        _unbind()
        why = f"those for x86-64-v3 failed: {type(error).__name__}: {error}"
        _log.warning("argon2 bindings that the image was built with cannot be used", extra={"why": why})
        return Bindings(_WHEELS, why)
    return Bindings(_OURS, "the processor can run them and a hash came out right")


def _bind(folder: Path) -> None:
    """Load the bindings in `folder` under the name that argon2 imports them by, and try them.

    Raises:
        ImportError: they are not there, cannot be loaded, or hash wrongly.

    """
    spec = PathFinder.find_spec(_PACKAGE, [str(folder)])
    if spec is None or spec.loader is None:
        raise ImportError(f"there is no {_PACKAGE} in {folder}")
    sys.modules[_PACKAGE] = module = module_from_spec(spec)
    spec.loader.exec_module(module)

    from argon2.low_level import Type, hash_secret_raw  # noqa: PLC0415 - binds what was just loaded

    found = hash_secret_raw(b"password", b"somesalt", 2, 256, 2, len(_KNOWN), Type.ID)
    if found != _KNOWN:
        raise ImportError("a known password got a wrong hash")


def _unbind() -> None:
    """Forget argon2 and its bindings, so that the next import finds the wheel's."""
    for name in [name for name in sys.modules if name.partition(".")[0] in _BOUND]:
        del sys.modules[name]


def _bound(folder: Path) -> Bindings:
    origin = sys.modules[_PACKAGE].__file__
    ours = origin is not None and Path(origin).is_relative_to(folder)
    return Bindings(_OURS if ours else _WHEELS, "loaded earlier in this process")
