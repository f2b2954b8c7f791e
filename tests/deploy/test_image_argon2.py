"""The image's own build of argon2: compiled, taken by all that hashes, and at one with the wheel's."""

from __future__ import annotations

import asyncio
import re
import subprocess
from asyncio.subprocess import PIPE
from typing import TYPE_CHECKING

import pytest
from tests.app.conftest import environment
from tests.app.process import serving
from tests.deploy.conftest import ARGON2, COMPILES

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(not COMPILES, reason="argon2 is compiled on x86-64 with gcc and Python's headers: install them"),
]

HASH = """
import statistics, sys, time
from service.auth.argon2_bindings import choose
wanted, *theirs = sys.argv[1:]
bindings = choose(wanted).bindings
from argon2 import PasswordHasher
hasher, took = PasswordHasher(2, 19456, 1), []
for _ in range(11):
    start = time.process_time()
    made = hasher.hash("correct horse")
    took.append(time.process_time() - start)
print(bindings, all(hasher.verify(other, "correct horse") for other in theirs), made, statistics.median(took))
"""


def hashing(tree: Path, wanted: str, *theirs: str) -> tuple[str, str, str, float]:
    """Return the bindings that `wanted` led to, whether `theirs` verified, a hash of them and its seconds."""
    command = [str(tree / "bin" / "python"), "-c", HASH, wanted, *theirs]
    bindings, verified, made, took = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return bindings, verified, made, float(took)


def test_hashes_of_the_images_own_argon2_and_of_the_wheels_verify_with_each_other(tree: Path) -> None:
    assert list(tree.glob("lib/*/site-packages/gatelodge-argon2-x86-64-v3/_argon2_cffi_bindings/_ffi*.so"))
    _, _, old, _ = hashing(tree, "wheel")
    ours, verified, new, quick = hashing(tree, "auto", old)
    assert (ours, verified) == (ARGON2, "True")
    wheels, verified, _, slow = hashing(tree, "wheel", old, new)
    assert (wheels, verified) == ("wheel", "True")
    times = f"{slow * 1000:.1f} ms with the wheel's argon2, {quick * 1000:.1f} with the image's ({ours})"
    print(f"\na hash: {times}: {slow / quick:.2f} times as fast")


async def test_the_images_workers_and_commands_hash_with_its_own_argon2(tree: Path, url: str, tmp_path: Path) -> None:
    command = str(tree / "bin" / "gatelodge")
    environ = environment(url, tmp_path, SERVER__WORKERS="2")
    async with serving(environ, [command]) as served:
        assert [line["bindings"] for line in served.lines if line["event"] == "argon2 bindings"] == [ARGON2] * 2
        served.process.terminate()
        assert await served.process.wait() == 0
    # Commands have no log: Python's own word on what it loads.
    admin = [command, "users", "create-admin", "--email", "root@example.com", "--generate-password"]
    verbose = {"PATH": "/usr/bin:/bin", "PYTHONVERBOSE": "1", **environ}
    process = await asyncio.create_subprocess_exec(*admin, env=verbose, stdout=PIPE, stderr=PIPE)
    told = (await process.communicate())[1].decode()
    assert process.returncode == 0
    loaded = re.findall("^# extension module '_argon2_cffi_bindings._ffi' loaded from '(.*)'$", told, re.MULTILINE)
    assert ["gatelodge-argon2-x86-64-v3" in file for file in loaded] == [ARGON2 != "wheel"]
