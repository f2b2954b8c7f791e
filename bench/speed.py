"""How fast is the service beside floors and peers measured in the same run? ``make bench``, ``make bench-quick``.

Prints a table of ratios with their spread, compares them with the last committed result, writes JSON and a plot into
``bench/results/``. What is measured has a core to itself; PostgreSQL and the load have the others.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))

import grpc.aio
from bench.rig import floor as hello
from bench.rig.frames import PREFACE, SETTINGS, Outcome, Request, Spec, frame, grpc_message
from bench.rig.house import (
    CORES,
    H2LOAD,
    MEASURED,
    OTHERS,
    House,
    Process,
    call,
    frames,
    grpc_headers,
    h2load,
    house,
    on,
)
from bench.rig.people import PASSWORD, Person, crowd, fresh_tokens, make_administrator, people
from bench.rig.report import LATEST, RESULTS, Report
from gatelodge.auth.v1 import auth_pb2, auth_pb2_grpc, tokens_pb2
from gatelodge.users.v1 import users_pb2
from google.protobuf import wrappers_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

GET_USER = "/gatelodge.users.v1.UserService/GetUser"
LOGIN = "/gatelodge.auth.v1.AuthService/Login"
IN_FLIGHT = 64
PERSONS = 128
FRESH = 12_000
"""More than the service remembers."""
CROWD = 10_000


class Bench:
    """One run: `rounds` of `seconds` each for every row."""

    def __init__(self, house: House, *, rounds: int, seconds: float, quick: bool) -> None:
        self.house = house
        self.rounds = rounds
        self.seconds = seconds
        self.quick = quick
        self.report = Report()
        self.used = 0
        """How many fresh tokens each connection has sent."""

    async def run(self) -> None:
        self.house.migrate()
        await self.start()
        if H2LOAD is None:
            self.report.leave_out("getuser_over_floor", "h2load (nghttp2-client) is not installed")
            return
        await self.throughput()
        await self.logins()
        await self.workers()
        await self.memory()

    # --- start -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Cold starts, and what an idle worker holds."""
        for _ in range(3 if self.quick else self.rounds):
            service = await self.house.service(CORES)
            self.report.add("cold_start_s", service.started_in)
            await asyncio.sleep(1)
            self.report.add("rss_idle_mib", service.rss())
            await asyncio.to_thread(service.stop)

    # --- calls -------------------------------------------------------------------------------------------------------

    async def throughput(self) -> None:
        """Calls a second beside the floor and the peers, one after the other in every round."""
        service = await self.house.service(APP_AUTH__REGISTRATION="open")
        floor, ours = await self.house.floor("stock"), await self.house.floor("ours")
        persons = await people(self.house, service.port, PERSONS)
        crowd(self.house, CROWD)
        jwks = self.house.folder / "jwks.json"
        with urllib.request.urlopen(f"http://127.0.0.1:{service.ops_port}/.well-known/jwks.json") as answer:
            jwks.write_bytes(answer.read())
        bare, full = await self.house.peer("bare", jwks), await self.house.peer("full", jwks)
        make_administrator(self.house, persons[0])
        one = persons[1]
        (token,) = [text for _, text in await fresh_tokens(service.port, [one], 1)]
        get_user = users_pb2.GetUserRequest(user_id=one.user_id)
        hello_request = wrappers_pb2.StringValue(value="ada")
        rows: dict[str, Callable[[], Awaitable[float]]] = {
            "hello_ours_over_floor": lambda: self.flood(ours, hello.PATH, hello_request, ""),
            "getuser_over_floor": lambda: self.flood(service, GET_USER, get_user, token),
            "getme_over_floor": lambda: self.flood(
                service, "/gatelodge.auth.v1.AuthService/GetMe", auth_pb2.GetMeRequest(), token
            ),
        }
        peers = {"getuser_over_fastapi_bare": bare, "getuser_over_fastapi_full": full}
        if not self.quick:
            admin = (await fresh_tokens(service.port, persons[:1], 1))[0][1]
            varied = [
                call(GET_USER, users_pb2.GetUserRequest(user_id=who.user_id), text)
                for who, text in await fresh_tokens(service.port, persons[2:65], FRESH)
            ]
            introspected = tokens_pb2.IntrospectTokenRequest(token=token)
            page = users_pb2.ListUsersRequest(page_size=50)
            rows |= {
                "getuser_fresh_over_floor": lambda: self.fresh(service, varied),
                "introspect_over_floor": lambda: self.flood(
                    service, "/gatelodge.auth.v1.TokenService/IntrospectToken", introspected, admin
                ),
                "listusers_over_floor": lambda: self.flood(
                    service, "/gatelodge.users.v1.UserService/ListUsers", page, admin
                ),
                "createuser_over_floor": lambda: self.create(service, admin),
                "refresh_over_floor": lambda: self.refresh(service, persons[2:65]),
            }
        for peer in peers.values():
            await self.fetch(peer, one, token)  # the first second of a process is not its usual one
        for _ in range(self.rounds):
            base = await self.flood(floor, hello.PATH, hello_request, "")
            self.report.add("floor_per_s", base)
            for key, measure in rows.items():
                self.report.add(key, await measure() / base)
            got = self.report.samples["getuser_over_floor"][-1] * base
            self.report.add("getuser_over_hello_ours", got / base / self.report.samples["hello_ours_over_floor"][-1])
            for key, peer in peers.items():
                self.report.add(key, got / await self.fetch(peer, one, token))
        for process in (service, floor, ours, bare, full):
            await asyncio.to_thread(process.stop)

    async def flood(self, process: Process, path: str, message: object, token: str) -> float:
        """Return how many of one call a second are answered, all of them well."""
        request = call(path, message, token)
        await self.check(process, [request])
        body = self.house.folder / "body"
        body.write_bytes(grpc_message(bytes.fromhex(request.message)))
        url = f"http://127.0.0.1:{process.port}{path}"
        flood = await h2load(url, grpc_headers(token), body=body, seconds=self.seconds, in_flight=IN_FLIGHT)
        if flood.failed:
            raise RuntimeError(f"{flood.failed} of {flood.calls} calls of {path} failed")
        await self.check(process, [request])
        return flood.per_second

    async def check(self, process: Process, requests: list[Request]) -> None:
        """Look at the gRPC statuses of a sample, which h2load does not."""
        outcome = await frames(Spec("127.0.0.1", process.port, requests, 5, in_flight=16, calls=50))
        if set(outcome.statuses) != {"0"}:
            raise RuntimeError(f"{requests[0].path} answers {outcome.statuses}")

    async def send(self, process: Process, requests: list[Request]) -> float:
        """Return how many of many different calls a second are answered, all of them well."""
        outcome = await frames(
            Spec("127.0.0.1", process.port, requests, self.seconds, in_flight=IN_FLIGHT, connections=4)
        )
        return self.well(requests, outcome)

    def well(self, requests: list[Request], outcome: Outcome) -> float:
        """Return the calls a second, if all were answered well."""
        if set(outcome.statuses) != {"0"}:
            raise RuntimeError(f"{requests[0].path} answers {outcome.statuses}")
        if outcome.cpu_share > 0.9:
            print(f"note: the generator was busy {outcome.cpu_share:.0%} of the time", file=sys.stderr)
        return outcome.per_second

    async def fresh(self, process: Process, requests: list[Request]) -> float:
        """Calls whose tokens the service has forgotten since it last saw them: each round goes on where one ended."""
        spec = Spec("127.0.0.1", process.port, requests, self.seconds, IN_FLIGHT, 4, first=self.used)
        outcome = await frames(spec)
        self.used += outcome.calls // spec.connections
        return self.well(requests, outcome)

    async def create(self, process: Process, admin: str) -> float:
        """CreateUser, each with an address of its own."""
        began = time.time_ns()
        requests = [
            call(
                "/gatelodge.users.v1.UserService/CreateUser",
                users_pb2.CreateUserRequest(email=f"new{began}-{number}@example.com"),
                admin,
            )
            for number in range(int(4000 * self.seconds))
        ]
        return await self.send(process, requests)

    async def refresh(self, process: Process, persons: list[Person]) -> float:
        """Refresh, each session one after the other."""
        requests = [
            call("/gatelodge.auth.v1.AuthService/Refresh", auth_pb2.RefreshRequest(refresh_token=token))
            for token in await people_again(process.port, persons)
        ]
        outcome = await frames(
            Spec("127.0.0.1", process.port, requests, self.seconds, in_flight=len(requests), refreshing=True)
        )
        if set(outcome.statuses) != {"0"}:
            raise RuntimeError(f"Refresh answers {outcome.statuses}")
        return outcome.per_second

    async def fetch(self, peer: Process, person: Person, token: str) -> float:
        """The same user, from a peer."""
        url = f"http://127.0.0.1:{peer.port}/v1/users/{person.user_id}"
        headers = {"authorization": f"Bearer {token}"}
        flood = await h2load(url, headers, body=None, seconds=self.seconds, in_flight=IN_FLIGHT, http1=True)
        if flood.failed or not flood.calls:
            raise RuntimeError(f"{flood.failed} calls of the peer failed, {flood.calls} did not")
        return flood.per_second

    # --- logins ------------------------------------------------------------------------------------------------------

    async def logins(self) -> None:
        """Logins beside what argon2 allows, and what they do to other calls."""
        service = await self.house.service(CORES)
        requests = [
            call(LOGIN, auth_pb2.LoginRequest(email=f"person{number}@example.com", password=PASSWORD))
            for number in range(PERSONS)
        ]
        tokens = await people_again(service.port, [], first="person1@example.com")
        cheap = [call(GET_USER, users_pb2.GetUserRequest(user_id=tokens[1]), tokens[0])]
        hashing, calling = (2, 2) if self.quick else (3, 4)
        for _ in range(self.rounds):
            limit = argon2_limit(hashing)
            self.report.add("argon2_per_s", limit)
            stormy = Spec("127.0.0.1", service.port, requests, hashing, in_flight=32, connections=1)
            outcome = await frames(stormy, CORES)
            if set(outcome.statuses) != {"0"}:
                raise RuntimeError(f"Login answers {outcome.statuses}")
            self.report.add("login_over_argon2_limit", outcome.per_second / limit)
            calm = Spec("127.0.0.1", service.port, cheap, calling, in_flight=64, rate=100)
            idle = await frames(calm, CORES)
            flood = Spec(
                "127.0.0.1", service.port, requests, calm.seconds + 1.5, in_flight=400, connections=4, rate=4 * limit
            )
            storm = asyncio.ensure_future(frames(flood, CORES))
            await asyncio.sleep(1)
            stormed = await frames(calm, CORES)
            await storm
            self.report.add("storm_p99_over_idle", stormed.p99_ms / idle.p99_ms)
            self.report.add("storm_p50_over_idle", stormed.p50_ms / idle.p50_ms)
        await asyncio.to_thread(service.stop)

    # --- workers and memory ------------------------------------------------------------------------------------------

    async def workers(self) -> None:
        """CPU per call of two workers beside one."""
        if len(CORES) < 2:
            self.report.leave_out("cpu_2_workers_over_1", "there is one core")
            return
        for _ in range(2 if self.quick else self.rounds):
            costs = []
            for count in ("1", "2"):
                service = await self.house.service(CORES, APP_SERVER__WORKERS=count)
                tokens = await people_again(service.port, [], first="person1@example.com")
                requests = [call(GET_USER, users_pb2.GetUserRequest(user_id=tokens[1]), tokens[0])]
                used = service.cpu()
                spec = Spec("127.0.0.1", service.port, requests, self.seconds + 1, in_flight=IN_FLIGHT, connections=8)
                outcome = await frames(spec, CORES)
                costs.append((service.cpu() - used) / outcome.calls)
                await asyncio.to_thread(service.stop)
            self.report.add("cpu_2_workers_over_1", costs[1] / costs[0])

    async def memory(self) -> None:
        """What the process holds: loaded, for each idle connection, for each hash, and whether it grows."""
        service = await self.house.service(CORES)
        tokens = await people_again(service.port, [], first="person1@example.com")
        requests = [call(GET_USER, users_pb2.GetUserRequest(user_id=tokens[1]), tokens[0])]
        scale = 10 if self.quick else 1

        async def cancelling(calls: int) -> float:
            spec = Spec("127.0.0.1", service.port, requests, 600, IN_FLIGHT, 4, calls=calls, cancel_every=10)
            await frames(spec)
            await asyncio.sleep(1)
            return service.rss()

        before = await cancelling(10_000 // scale)
        self.report.add("rss_loaded_mib", before)
        self.report.add("rss_growth", await cancelling(90_000 // scale) / before)
        held = service.rss()
        with idle_connections(service.port, 2000):
            await asyncio.sleep(2)
            self.report.add("rss_per_connection_kib", (service.rss() - held) * 1024 / 2000)
        held = service.rss()
        logins = [
            call(LOGIN, auth_pb2.LoginRequest(email=f"person{number}@example.com", password=PASSWORD))
            for number in range(PERSONS)
        ]
        storm = asyncio.ensure_future(frames(Spec("127.0.0.1", service.port, logins, 3, in_flight=32)))
        await asyncio.sleep(1)
        highest = 0.0
        while not storm.done():
            highest = max(highest, service.rss())
            await asyncio.sleep(0.005)
        self.report.add("rss_per_hash_mib", (highest - held) / len(CORES))
        await asyncio.to_thread(service.stop)


async def people_again(port: int, persons: list[Person], first: str = "") -> list[str]:
    """Log in anew: the refresh tokens of `persons`; or the access token and id of the one with the address `first`."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        auth = auth_pb2_grpc.AuthServiceStub(channel)
        if first:
            answer = await auth.Login(auth_pb2.LoginRequest(email=first, password=PASSWORD))
            return [answer.access_token, answer.user_id]
        return [
            (await auth.Login(auth_pb2.LoginRequest(email=person.email, password=PASSWORD))).refresh_token
            for person in persons
        ]


def argon2_limit(seconds: float) -> float:
    """Return how many hashes a second argon2 makes on all cores, with nothing else to do."""
    command = [sys.executable, "-c", ARGON2, str(seconds), str(len(CORES))]
    with on(CORES):
        return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


ARGON2 = """
import sys, threading, time
from argon2 import PasswordHasher
hasher = PasswordHasher(2, 19456, 1)
stored, done, until = hasher.hash("correct horse battery staple"), [], time.perf_counter() + float(sys.argv[1])
def work():
    while time.perf_counter() < until:
        hasher.verify(stored, "correct horse battery staple")
        done.append(1)
began = time.perf_counter()
threads = [threading.Thread(target=work) for _ in range(int(sys.argv[2]))]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(len(done) / (time.perf_counter() - began))
"""


@contextlib.contextmanager
def idle_connections(port: int, count: int) -> Iterator[None]:
    """Hold `count` connections that have said hello and nothing else."""
    opened = []
    try:
        for _ in range(count):
            connection = socket.create_connection(("127.0.0.1", port))
            connection.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))
            opened.append(connection)
        yield
    finally:
        for connection in opened:
            connection.close()


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rows and rounds, in under two minutes")
    options = parser.parse_args()
    os.sched_setaffinity(0, OTHERS)
    print(f"measured on core {MEASURED}, load and PostgreSQL on {OTHERS}; logins on all", file=sys.stderr)
    async with house() as built:
        bench = Bench(built, rounds=3 if options.quick else 5, seconds=1 if options.quick else 3, quick=options.quick)
        await bench.run()
    print(bench.report.table())
    path = RESULTS / "quick.json" if options.quick else LATEST
    bench.report.write(path)
    print(f"written to {path} and {path.with_suffix('.png')}")
    return 1 if bench.report.missed() else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
