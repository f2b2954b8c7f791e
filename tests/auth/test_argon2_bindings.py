"""Which build of argon2 hashes. Each choice is made in a process of its own: a process binds argon2 once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import argon2
import pytest
from tests.app.conftest import environment
from tests.app.process import serving
from tests.app.scrape import scrape

from service.auth.argon2_bindings import NEEDED, lacking

PACKAGE = "_argon2_cffi_bindings"
WHEELS = Path(argon2.__file__).parents[1] / PACKAGE

HASWELL = """\
processor\t: {number}
model name\t: one with AVX2
flags\t\t: fpu sse sse2 pni ssse3 fma cx16 sse4_1 sse4_2 movbe popcnt aes xsave avx f16c lahf_lm abm bmi1 avx2 bmi2
vmx flags\t: vnmi preemption_timer

"""
V3 = HASWELL.format(number=0) + HASWELL.format(number=1)
"""What the kernel tells of two processors that are just x86-64-v3."""
CORTEX = "processor\t: 0\nFeatures\t: fp asimd evtstrm aes pmull sha1 sha2 crc32\nCPU architecture: 8\n"

CHOOSE = """
import json, sys
from pathlib import Path
from service.auth.argon2_bindings import choose
wanted, folder, cpuinfo = sys.argv[1:]
chosen = choose(wanted, folder=Path(folder), cpuinfo=Path(cpuinfo))
import argon2, _argon2_cffi_bindings
again = choose(wanted, folder=Path(folder), cpuinfo=Path(cpuinfo))
made = argon2.PasswordHasher(1, 64, 1).hash("correct horse")
file = _argon2_cffi_bindings.__file__
print(json.dumps({"chosen": chosen.bindings, "why": chosen.why, "again": again.bindings, "file": file, "hash": made}))
"""


@dataclass(frozen=True)
class Chosen:
    """What a process answered that chose, and hashed with its choice."""

    name: str
    why: str
    again: str
    """What choosing once more gave."""
    folder: Path
    """Where the bindings are that it hashed with."""
    hash: str
    said: str
    """What it wrote to stderr, where no log is set up."""


def choose(folder: Path, *, wanted: str = "auto", cpuinfo: str | None = V3) -> Chosen:
    file = folder.with_name("cpuinfo")
    if cpuinfo is not None:
        file.write_text(cpuinfo)
    command = [sys.executable, "-c", CHOOSE, wanted, str(folder), str(file)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    place = Path(answer["file"]).parent
    return Chosen(answer["chosen"], answer["why"], answer["again"], place, answer["hash"], done.stderr)


@pytest.fixture(name="beside")
def _beside(tmp_path: Path) -> Path:
    """A folder of bindings beside the wheel's: a copy of the wheel's, which runs anywhere."""
    folder = tmp_path / "beside"
    shutil.copytree(WHEELS, folder / PACKAGE)
    return folder


def replaced(folder: Path, code: str) -> Path:
    (folder / PACKAGE / "__init__.py").write_text(code)
    return folder


def expect_the_wheels(chosen: Chosen) -> None:
    assert (chosen.name, chosen.again, chosen.folder) == ("wheel", "wheel", WHEELS)
    assert argon2.PasswordHasher().verify(chosen.hash, "correct horse")


@pytest.mark.parametrize(
    ("told", "missing"),
    [
        (V3, set()),
        (V3.replace(" avx2", ""), {"avx2"}),
        (V3.replace(" abm", "").replace(" fma", ""), {"abm", "fma"}),
        # Bit by bit: every word must be there as a word.
        (V3.replace(" avx ", " avx512f "), {"avx"}),
        # Nobody knows which of them a thread will run on.
        (HASWELL.format(number=0) + HASWELL.format(number=1).replace(" bmi2", ""), {"bmi2"}),
        (V3.replace("\nflags", "\nvmx flags"), NEEDED),
        (CORTEX, NEEDED),
        ("", NEEDED),
    ],
)
def test_a_processor_is_fit_only_if_the_kernel_says_all_of_x86_64_v3(
    tmp_path: Path, told: str, missing: set[str]
) -> None:
    (tmp_path / "cpuinfo").write_text(told)
    assert lacking(tmp_path / "cpuinfo") == missing


def test_every_feature_of_x86_64_v2_and_v3_that_a_compiler_may_use_is_asked_for(tmp_path: Path) -> None:
    v2 = "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"
    v3 = "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"
    for feature in f"{v2} {v3}".split():
        (tmp_path / "cpuinfo").write_text(V3.replace(f" {feature} ", " ").replace(f" {feature}\n", "\n"))
        assert lacking(tmp_path / "cpuinfo") == {feature}


def test_a_processor_that_cannot_be_asked_is_not_fit(tmp_path: Path) -> None:
    assert lacking(tmp_path / "there is none") == NEEDED
    assert lacking(tmp_path) == NEEDED  # a folder, say
    (tmp_path / "cpuinfo").write_bytes(b"flags\t: \xff\xfe\x00 avx2\n")
    assert lacking(tmp_path / "cpuinfo") == NEEDED - {"avx2"}


def test_the_images_own_are_taken_where_they_are_and_the_processor_is_fit(beside: Path) -> None:
    chosen = choose(beside)
    assert (chosen.name, chosen.again, chosen.folder) == ("x86-64-v3", "x86-64-v3", beside / PACKAGE)
    assert argon2.PasswordHasher().verify(chosen.hash, "correct horse")
    assert chosen.said == ""


def test_where_there_are_no_others_the_wheels_are_taken(tmp_path: Path) -> None:
    chosen = choose(tmp_path / "none")
    expect_the_wheels(chosen)
    assert (chosen.why, chosen.said) == ("no others are installed", "")


def test_the_wheels_are_taken_where_the_settings_say_so(beside: Path) -> None:
    chosen = choose(beside, wanted="wheel")
    expect_the_wheels(chosen)
    assert chosen.why == "auth.argon2.bindings says so"


@pytest.mark.parametrize("cpuinfo", [V3.replace(" avx2", ""), CORTEX, None], ids=["no AVX2", "ARM", "unreadable"])
def test_nothing_is_loaded_that_the_processor_may_not_be_able_to_run(beside: Path, cpuinfo: str | None) -> None:
    replaced(beside, "import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")
    chosen = choose(beside, cpuinfo=cpuinfo)
    expect_the_wheels(chosen)
    assert "not known to have" in chosen.why
    assert "avx2" in chosen.why
    assert chosen.said == ""


WRONG = """
from ._ffi import ffi, lib as _right

class _Wrong:
    def __getattr__(self, name):
        return getattr(_right, name)

    def argon2_hash(self, *_):
        return _right.ARGON2_OK

lib = _Wrong()
"""


def test_bindings_that_hash_wrongly_are_put_away_with_a_warning(beside: Path) -> None:
    chosen = choose(replaced(beside, WRONG))
    expect_the_wheels(chosen)
    assert "a known password got a wrong hash" in chosen.why
    assert "cannot be used" in chosen.said


@pytest.mark.parametrize("damage", ["empty", "overwritten", "without symbols"])
def test_bindings_that_cannot_be_loaded_are_put_away_with_a_warning(beside: Path, damage: str) -> None:
    (library,) = (beside / PACKAGE).glob("_ffi*.so")
    match damage:
        case "empty":
            shutil.rmtree(beside / PACKAGE)
        case "overwritten":
            library.write_text("no library")
        case _:
            replaced(beside, "from ._ffi import ffi\n")
    chosen = choose(beside)
    expect_the_wheels(chosen)
    assert "those for x86-64-v3 failed: " in chosen.why
    assert "cannot be used" in chosen.said


def test_no_command_has_argon2_before_the_settings_are_known() -> None:
    code = """
import sys
import service.app, service.cli, service.cli_keys, service.operations, service.process
import service.workers.parent, service.workers.worker
print(sorted(name for name in sys.modules if "argon2" in name))
"""
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.strip() == "['service.auth.argon2_bindings']"


@pytest.mark.parametrize("workers", [1, 2])
async def test_each_process_that_hashes_says_at_the_start_and_in_the_metrics_what_with(
    url: str, tmp_path: Path, workers: int
) -> None:
    environ = environment(url, tmp_path, AUTH__ARGON2__BINDINGS="wheel", SERVER__WORKERS=str(workers))
    async with serving(environ) as server:
        lines = [line for line in server.lines if line["event"] == "argon2 bindings"]
        assert len(lines) == workers
        assert len({line.get("worker") for line in lines}) == workers
        for line in lines:
            assert (line["bindings"], line["why"]) == ("wheel", "auth.argon2.bindings says so")
        assert (await scrape(server.ops_address))['gatelodge_argon2_info{bindings="wheel"}'] == 1
        server.process.terminate()
        assert await server.process.wait() == 0
