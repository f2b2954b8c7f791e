"""What a user operation costs with a million users, compared with ten thousand, in one run over the real API.

Usage: ``make bench-users``. Fills two databases, times each operation on both in turn, prints the ratios of the
medians, the plan of every list filter at a million, and the memory that streaming all of them takes.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
from gatelodge.users.v1 import users_pb2
from google.protobuf.field_mask_pb2 import FieldMask

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.app.client import Client
from tests.app.conftest import as_url

from service.app import running
from service.db import clone, migrations
from service.db.embedded import EmbeddedPostgres
from service.settings import load
from service.telemetry import logging
from service.users import statements
from service.users.listing import Filter
from service.users.model import UserState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SIZES = {"10k": 10_000, "1M": 1_000_000}
LIMITS = {"free_text_page": 3.0}
KEYED = 1.5
ROUNDS = 150
NEEDLES = 200
RESULTS = Path(__file__).parent / "results" / "users.json"
List = users_pb2.ListUsersRequest

FILL = """
INSERT INTO users (id, email, email_canonical, display_name, state, roles, create_time)
SELECT gen_random_uuid(), email, email, name, state, roles, at FROM (
    SELECT 'user' || lpad(n::text, 8, '0') || '@' || md5(n::text) || '.example' AS email,
        md5((n * 7)::text) || CASE WHEN n %% %(every)s = 0 THEN ' needle' ELSE '' END AS name,
        CASE WHEN n %% %(every)s = 1 THEN 'disabled' ELSE 'active' END AS state,
        CASE WHEN n %% %(every)s = 2 THEN ARRAY['auditor'] ELSE ARRAY[]::text[] END AS roles,
        '2020-01-01'::timestamptz + n * interval '1 minute' AS at
    FROM generate_series(1, %(size)s) AS n
) AS made
"""


class World:
    """A database of some size, and a service on it."""

    def __init__(self, client: Client, metadata: Any, middle: str, someone: users_pb2.User) -> None:
        self.client, self.metadata, self.middle, self.someone = client, metadata, middle, someone
        self.users = client.users

    async def page(self, **request: Any) -> None:
        """List one page, which must be a full one."""
        answer = await self.users.ListUsers(List(page_size=50, **request), metadata=self.metadata)
        assert len(answer.users) == 50

    async def update(self, number: int) -> None:
        """Change a name."""
        request = users_pb2.UpdateUserRequest(
            user_id=self.someone.id,
            user=users_pb2.User(display_name=f"name {number}"),
            update_mask=FieldMask(paths=["display_name"]),
        )
        await self.users.UpdateUser(request, metadata=self.metadata)


def operations(world: World) -> dict[str, Callable[[int], Awaitable[object]]]:
    get, lookup = users_pb2.GetUserRequest, users_pb2.LookupUserRequest
    filters = List.Filter
    return {
        "get": lambda _: world.users.GetUser(get(user_id=world.someone.id), metadata=world.metadata),
        "lookup": lambda _: world.users.LookupUser(lookup(email=world.someone.email), metadata=world.metadata),
        "update": world.update,
        "first_page": lambda _: world.page(),
        "page_10000": lambda _: world.page(page_token=world.middle),
        "filtered_page": lambda _: world.page(filter=filters(state=users_pb2.User.STATE_DISABLED)),
        "role_page": lambda _: world.page(filter=filters(role="auditor")),
        "prefix_page": lambda _: world.page(filter=filters(email_prefix="user000012")),
        "free_text_page": lambda _: world.page(filter=filters(text="needle")),
    }


async def main() -> int:
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        postgres = await stack.enter_async_context(EmbeddedPostgres(Path(folder) / "postgres", durable=False))
        admin = await postgres.start()
        urls = {name: as_url(await filled(admin, name, size)) for name, size in SIZES.items()}
        worlds = {name: await world(stack, url, folder) for name, url in urls.items()}
        ratios = await compared({name: operations(of) for name, of in worlds.items()})
        await print_plans(urls["1M"])
        growth = await streamed(worlds["1M"])
    RESULTS.write_text(json.dumps({"ratios": ratios, "stream_rss_growth_mib": growth}, indent=2) + "\n")
    print(f"written to {RESULTS}")
    kept = all(ratio <= LIMITS.get(name, KEYED) for name, ratio in ratios.items())
    return 0 if kept and abs(growth) <= 10 else 1


async def filled(admin: str, name: str, size: int) -> str:
    start = time.perf_counter()
    template = await clone.template(admin, migrations.load(migrations.folder()))
    url = await clone.clone(admin, template, f"bench_{name.lower()}")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        await conn.execute(FILL, {"size": size, "every": size // NEEDLES})
        await conn.execute("VACUUM ANALYZE users")
    print(f"{name}: {size} users in {time.perf_counter() - start:.0f} s")
    return url


async def world(stack: AsyncExitStack, url: str, folder: str) -> World:
    settings = load({"APP_ENV": "test", "APP_DATABASE__URL": url, "APP_DATABASE__EMBEDDED_DIR": f"{folder}/unused"})
    logs = logging.configure(settings.log, service="gatelodge", version="bench", stream=Path(os.devnull).open("w"))
    stack.callback(logs.close)
    app = await stack.enter_async_context(running(settings))
    client = await stack.enter_async_context(Client(app.address, url))
    root = await client.administrator()
    token, seen, half = "", 0, (await client.sql("SELECT count(*) FROM users"))[0][0] // 2
    while seen < half:
        answer = await client.users.ListUsers(List(page_size=1000, page_token=token), metadata=root.metadata)
        token, seen = answer.next_page_token, seen + len(answer.users)
    return World(client, root.metadata, token, answer.users[-1])


async def compared(sides: dict[str, dict[str, Callable[[int], Awaitable[object]]]]) -> dict[str, float]:
    """Time each operation on every side in turn, so that whatever else the machine does falls on all alike."""
    small, large = sides
    print(f"\n{'operation':<18}{small + ' ms':>10}{large + ' ms':>10}{'ratio':>8}")
    ratios = {}
    for name in sides[small]:
        took: dict[str, list[float]] = {side: [] for side in sides}
        for number in range(-10, ROUNDS):
            for side, of in sides.items():
                start = time.perf_counter()
                await of[name](number)
                if number >= 0:
                    took[side].append(time.perf_counter() - start)
        medians = {side: statistics.median(of) * 1000 for side, of in took.items()}
        ratios[name] = round(medians[large] / medians[small], 2)
        print(f"{name:<18}{medians[small]:>10.2f}{medians[large]:>10.2f}{ratios[name]:>8.2f}")
    return ratios


async def print_plans(url: str) -> None:
    """Print the plan of each filter at this size; the statement is the service's own."""
    begin = {"after_time": datetime(1, 1, 1, tzinfo=UTC), "after_id": UUID(int=0), "limit": 51}
    first, next_day = datetime(2021, 1, 1, tzinfo=UTC), datetime(2021, 1, 2, tzinfo=UTC)
    cases = {
        "no filter": Filter(),
        "state": Filter(state=UserState.DISABLED),
        "email prefix": Filter(email_prefix="user0000123"),
        "role": Filter(role="auditor"),
        "created range": Filter(created_from=first, created_until=next_day),
        "free text": Filter(text="needle"),
    }
    print("\nplans at 1M")
    connect = psycopg.AsyncConnection.connect
    async with await connect(url, autocommit=True, cursor_factory=psycopg.AsyncClientCursor) as conn:
        for name, matching in cases.items():
            cursor = await conn.execute("EXPLAIN " + statements.LIST_OLDEST_FIRST.sql, matching.values() | begin)
            lines = [row[0].strip() for row in await cursor.fetchall()]
            used = [line.split("(cost")[0].strip("-> ") for line in lines if "Index" in line and "Cond" not in line]
            print(f"  {name:<14}{'; '.join(used) or lines[1]}")


async def streamed(world: World) -> float:
    """Export every user; return by how many MiB this process, service and client together, grew meanwhile."""
    counts, highest, before = 0, 0.0, 0.0
    async for answer in world.users.ExportUsers(users_pb2.ExportUsersRequest(), metadata=world.metadata):
        counts += len(answer.users)
        if counts == 20_000:
            before = rss()
        if counts % 50_000 == 0:
            highest = max(highest, rss())
    print(f"\nexported {counts} users; RSS {before:.0f} MiB at the start, {highest:.0f} MiB at most")
    return round(highest - before, 1)


def rss() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
