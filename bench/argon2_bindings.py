"""How long does a hash take with the wheel's argon2, and how long with the image's own build for x86-64-v3?

Usage: ``make bench-argon2``. Needs a C compiler and a processor with AVX2. Builds as the image is built; then two
processes, one with each, hash by turns with the default parameters. Times are the processor's.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from service.auth.argon2_bindings import FOLDER

RESULTS = Path(__file__).parent / "results" / "argon2_bindings.json"
BUILD = Path(__file__).parents[1] / "deploy" / "image" / "build-argon2.sh"
WARM_UP, ROUNDS = 5, 101

HASH = """
import sys, time
from pathlib import Path
from service.auth.argon2_bindings import choose
print(choose(sys.argv[1], folder=Path(sys.argv[2])).bindings, flush=True)
from argon2.low_level import Type, hash_secret_raw
for _ in sys.stdin:
    start = time.process_time_ns()
    hash_secret_raw(b"correct horse", b"battery staple 1", 2, 19456, 1, 32, Type.ID)
    print((time.process_time_ns() - start) // 1000, flush=True)
"""


class Hashing:
    """A process that hashes once for each line it is sent."""

    def __init__(self, stack: ExitStack, wanted: str, folder: Path) -> None:
        command = [sys.executable, "-c", HASH, wanted, str(folder)]
        process = subprocess.Popen(command, text=True, bufsize=1, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._process = stack.enter_context(process)
        self.bindings = self._heard()

    def took(self) -> int:
        """Hash, and return the microseconds."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        return int(self._heard())

    def _heard(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def measure(folder: Path) -> dict[str, float]:
    with ExitStack() as stack:
        wheel, ours = Hashing(stack, "wheel", folder), Hashing(stack, "auto", folder)
        if ours.bindings == wheel.bindings:
            raise SystemExit("the build for x86-64-v3 was not taken: this processor or machine cannot have it")
        rounds = [(wheel.took(), ours.took()) for _ in range(WARM_UP + ROUNDS)][WARM_UP:]
    slow, quick = (statistics.median(times) for times in zip(*rounds, strict=True))
    ratios = statistics.quantiles((wheels / ours for wheels, ours in rounds), n=20)
    return {
        "rounds": ROUNDS,
        "wheel_us": slow,
        "x86_64_v3_us": quick,
        "times_as_fast": round(slow / quick, 2),
        "times_as_fast_p5": round(ratios[0], 2),
        "times_as_fast_p95": round(ratios[-1], 2),
    }


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="gatelodge-bench-") as above:
        folder = Path(above) / FOLDER.name
        uv = str(Path(sys.executable).with_name("uv"))
        subprocess.run([BUILD, folder, sys.executable], env={**os.environ, "UV": uv}, check=True)
        result = measure(folder)
    print(json.dumps(result, indent=2))
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
