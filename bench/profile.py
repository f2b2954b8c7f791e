"""Leaves a flame graph of GetUser under load in ``bench/results/profile.svg``. ``make profile``."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.rig.frames import Spec
from bench.rig.house import OTHERS, call, frames, house
from bench.rig.people import people
from bench.rig.report import RESULTS
from gatelodge.users.v1 import users_pb2

SECONDS = 15


async def main() -> int:
    os.sched_setaffinity(0, OTHERS)
    async with house() as built:
        built.migrate()
        service = await built.service(APP_AUTH__REGISTRATION="open")
        (person,) = await people(built, service.port, 1)
        request = users_pb2.GetUserRequest(user_id=person.user_id)
        calls = [call("/gatelodge.users.v1.UserService/GetUser", request, person.access_token)]
        load = asyncio.ensure_future(frames(Spec("127.0.0.1", service.port, calls, SECONDS + 1, 64, 4)))
        graph = RESULTS / "profile.svg"
        spy = str(Path(sys.executable).with_name("py-spy"))
        command = [spy, "record", "--nonblocking", "-r", "200", "-d", str(SECONDS), "-o", str(graph)]
        done = await asyncio.to_thread(subprocess.run, [*command, "-p", str(service.popen.pid)], check=False)
        # py-spy's title is its own command line, with this machine's paths.
        graph.write_text(re.sub(r'(<text id="title"[^>]*>)[^<]*', r"\1GetUser under load", graph.read_text()))
        print(f"{(await load).per_second:.0f} calls/s meanwhile; written to {graph}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
