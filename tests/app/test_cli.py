"""The command line: what each command does, prints and exits with."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import psycopg
import pytest
from gatelodge.users.v1 import users_pb2
from tests.app.client import PASSWORD, Client
from tests.app.conftest import MASTER_SECRET, environment
from tests.app.process import GATELODGE, gatelodge, serving

from service.app import running

if TYPE_CHECKING:
    from pathlib import Path

    from tests.app.conftest import SettingsFor

    from service.app import App

PRODUCTION = {
    "APP_ENV": "production",
    "APP_DATABASE__URL": "postgresql://gatelodge@127.0.0.1:1/gatelodge",
    "APP_AUTH__MASTER_SECRET": MASTER_SECRET,
    "APP_SERVER__INSECURE": "true",
}


async def test_version_names_release_and_commit() -> None:
    status, out, _ = await gatelodge("--version", environ={})
    assert status == 0
    assert out.startswith("gatelodge 0.")


async def test_migrate_applies_reports_and_then_finds_nothing_to_do(empty_url: str, tmp_path: Path) -> None:
    environ = environment(empty_url, tmp_path)
    status, out, _ = await gatelodge("migrate", "--status", environ=environ)
    assert status == 1
    assert "0001  missing" in out
    status, out, _ = await gatelodge("migrate", "--dry-run", environ=environ)
    assert status == 0
    assert "CREATE TABLE users" in out
    status, out, _ = await gatelodge("migrate", environ=environ)
    assert status == 0
    assert "applied 0001_users.sql" in out
    status, out, _ = await gatelodge("migrate", environ=environ)
    assert status == 0
    assert "applied 0001" not in out
    assert (await gatelodge("migrate", "--status", environ=environ))[0] == 0


async def test_of_two_migrates_at_once_one_applies_and_the_other_finds_nothing_to_do(
    empty_url: str, tmp_path: Path
) -> None:
    environ = environment(empty_url, tmp_path)
    runs = await asyncio.gather(*(gatelodge("migrate", environ=environ) for _ in range(2)))
    assert [status for status, _, _ in runs] == [0, 0], runs
    applied = sorted(out.count("applied 0") for _, out, _ in runs)
    assert applied[0] == 0
    assert applied[1] == int(runs[0][1].split()[-3]) > 0


async def test_a_migrate_that_is_killed_half_way_leaves_nothing_half_done(empty_url: str, tmp_path: Path) -> None:
    environ = environment(empty_url, tmp_path)
    async with await psycopg.AsyncConnection.connect(empty_url) as blocker:
        # The second migration waits for the name of its table, which this transaction has taken.
        await blocker.execute("CREATE TABLE signing_keys ()")
        process = await asyncio.create_subprocess_exec(
            GATELODGE, "migrate", env={"PATH": "/usr/bin:/bin", **environ}, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        assert (await process.stdout.readline()).startswith(b"applied 0001")
        process.kill()
        await process.wait()
        await blocker.rollback()
    status, out, _ = await gatelodge("migrate", "--status", environ=environ)
    assert (status, "0001  applied" in out, "0002  missing" in out) == (1, True, True)
    status, out, err = await gatelodge("migrate", environ=environ)
    assert (status, "applied 0001" in out, "applied 0002" in out) == (0, False, True), (out, err)
    assert (await gatelodge("migrate", "--status", environ=environ))[0] == 0


async def test_serving_on_an_old_schema_is_refused_where_migrating_on_start_is_off(
    empty_url: str, tmp_path: Path
) -> None:
    environ = environment(empty_url, tmp_path, DATABASE__MIGRATE_ON_START="false")
    status, _, err = await gatelodge("serve", environ=environ)
    assert status == 1
    assert "run `gatelodge migrate`" in err


async def test_health_asks_a_running_server(app: App) -> None:
    status, out, _ = await gatelodge("health", "--address", app.address, environ={})
    assert (status, out.strip().split()[-1]) == (0, "SERVING")
    status, out, _ = await gatelodge("health", "--address", app.address, "--service", "nobody", environ={})
    assert (status, out.strip().split()[-1]) == (1, "NOT_FOUND")
    status, out, _ = await gatelodge("health", "--address", "127.0.0.1:1", environ={})
    assert (status, out.strip().split()[-1]) == (1, "UNAVAILABLE")


async def test_health_asks_no_store_of_secrets_and_reads_none(app: App, tmp_path: Path) -> None:
    """It is run every few seconds: a store that is away must not make a service that serves look ill."""
    environ = {
        "APP_ENV": "production",
        "APP_DATABASE__URL": "vault:kv/team/gatelodge#url",
        "APP_AUTH__MASTER_SECRET": f"file:{tmp_path}/gone",
        "APP_SERVER__INSECURE": "true",
        "APP_SERVER__HOST": "127.0.0.1",
        "APP_SERVER__PORT": app.address.rpartition(":")[2],
    }
    assert (await gatelodge("health", environ=environ))[0] == 0
    status, _, err = await gatelodge("health", environ=environ | {"APP_SERVER__PORT": "many"})
    assert (status, "server.port" in err) == (2, True)
    status, _, err = await gatelodge("serve", environ=environ)
    assert (status, "vault" in err, "file" in err) == (2, True, True), "or the settings would show nothing"


async def test_the_first_administrator_is_made_beside_the_running_server(
    client: Client, url: str, tmp_path: Path
) -> None:
    environ = environment(url, tmp_path)
    create = ("users", "create-admin", "--email", "root@example.com")
    status, out, err = await gatelodge(*create, "--password-stdin", environ=environ, stdin=PASSWORD + "\n")
    assert (status, err) == (0, "")
    assert PASSWORD not in out
    root = await client.login("root@example.com")
    answer = await client.users.CreateUser(users_pb2.CreateUserRequest(email="bob@example.com"), metadata=root.metadata)
    assert answer.user.email == "bob@example.com"
    status, _, err = await gatelodge(*create, "--password-stdin", environ=environ, stdin=PASSWORD + "\n")
    assert (status, err.strip()) == (1, "gatelodge: another user has this email address (EMAIL_TAKEN)")


async def test_a_generated_password_is_printed_once_and_works(client: Client, url: str, tmp_path: Path) -> None:
    create = ("users", "create-admin", "--email", "root@example.com", "--generate-password")
    status, out, _ = await gatelodge(*create, environ=environment(url, tmp_path))
    assert status == 0
    await client.login("root@example.com", out.rsplit("password: ", 1)[1].strip())


@pytest.mark.parametrize("arguments", [("--email", "nobody"), ("--email", "root@example.com", "--password-stdin")])
async def test_a_bad_address_or_password_is_refused_with_one_line_that_says_why(
    url: str, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    command = ("users", "create-admin", *arguments)
    status, out, err = await gatelodge(*command, environ=environment(url, tmp_path), stdin="short\n")
    assert (status, out) == (2, "")
    assert err.startswith(("gatelodge: email: ", "gatelodge: password: must be at least 15 characters"))
    assert len(err.splitlines()) == 1


async def test_an_administrators_password_must_not_be_easy_to_guess(url: str, tmp_path: Path) -> None:
    command = ("users", "create-admin", "--email", "grace.hopper@example.com", "--password-stdin")
    for weak in ("password12345678", "grace-hopper-2024!"):
        status, out, err = await gatelodge(*command, environ=environment(url, tmp_path), stdin=weak + "\n")
        assert (status, out) == (2, "")
        assert err.startswith("gatelodge: password: is too easy to guess")
        assert weak not in err


async def test_config_show_prints_the_settings_without_secrets(tmp_path: Path) -> None:
    url = "postgresql://gatelodge:database-secret@db.example/gatelodge"
    status, out, err = await gatelodge("config", "show", environ=environment(url, tmp_path))
    assert (status, err) == (0, "")
    shown = json.loads(out)
    assert "database-secret" not in out
    assert MASTER_SECRET not in out
    assert shown["database"]["url"].endswith("@db.example/gatelodge")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"APP_DATABASE__URL": None}, "APP_DATABASE__URL"),
        ({"APP_AUTH__MASTER_SECRET": None}, "APP_AUTH__MASTER_SECRET"),
        ({"APP_DATABSE__POOL_MAX_SIZE": "5"}, "APP_DATABASE__POOL_MAX_SIZE"),
        ({"APP_SERVER__INSECURE": None}, "APP_SERVER__INSECURE"),
        ({"APP_SERVER__PORT": "many"}, "APP_SERVER__PORT"),
    ],
)
async def test_production_refuses_to_start_on_a_wrong_setting_and_names_it(
    change: dict[str, str | None], named: str
) -> None:
    environ = {name: value for name, value in (PRODUCTION | change).items() if value is not None}
    status, out, err = await gatelodge("serve", environ=environ)
    assert (status, out) == (2, "")
    assert named in err
    assert "Traceback" not in err
    assert MASTER_SECRET not in err


async def test_every_wrong_setting_is_listed_at_once() -> None:
    status, _, err = await gatelodge("serve", environ={"APP_ENV": "production", "APP_SERVER__PROT": "1"})
    assert status == 2
    for name in ("APP_DATABASE__URL", "APP_AUTH__MASTER_SECRET", "APP_SERVER__INSECURE", "APP_SERVER__PORT"):
        assert name in err


async def test_a_database_that_is_away_at_the_start_gives_one_clear_message() -> None:
    environ = PRODUCTION | {"APP_DATABASE__CONNECT_PATIENCE_SECONDS": "0.2"}
    status, _, err = await gatelodge("serve", environ=environ)
    assert status == 1
    assert "Traceback" not in err
    assert "database" in err.splitlines()[-1]


async def test_another_master_secret_is_refused_with_one_clear_message(
    url: str, tmp_path: Path, settings_for: SettingsFor
) -> None:
    async with running(settings_for(url)):
        pass
    environ = environment(url, tmp_path, AUTH__MASTER_SECRET="another secret that is long enough as well")
    status, _, err = await gatelodge("serve", environ=environ)
    assert status == 1
    assert "sealed under another master secret" in err.splitlines()[-1]


async def test_a_port_that_is_taken_gives_one_clear_message(url: str, tmp_path: Path) -> None:
    async with serving(environment(url, tmp_path)) as first:
        port = first.address.rpartition(":")[2]
        status, _, err = await gatelodge("serve", environ=environment(url, tmp_path, SERVER__PORT=port))
        assert status == 1
        assert first.address in err.splitlines()[-1]
