"""The ``gatelodge`` command: reads arguments and settings, calls the app or an operation, prints the answer.

Each command imports what it needs itself: a health probe, run every few seconds, does not pay for the server's imports.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
import secrets
import sys
from typing import TYPE_CHECKING, TypeVar

from service import cli_keys
from service.build import this_build
from service.errors import CannotRun, DependencyUnavailable, DomainError, InvalidArgument
from service.settings import Settings, SettingsError, load, load_server, quiet_grpc, redacted
from service.telemetry.exceptions import describe, render_exception

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from service.auth.passwords import Password
    from service.db.migrations import Status
    from service.users.model import NewUser, User

Result = TypeVar("Result")

_GENERATED_BYTES = 18
_OK, _FAILED, _MISUSED, _INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 not done, 2 misused. Prints one message when not done."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except (SettingsError, CannotRun, DomainError) as error:
        message, status = _told(error)
        print(f"gatelodge: {message}", file=sys.stderr)
    except Exception as error:  # noqa: BLE001 - told whole, but without the values that Python's own traceback can show
        print(f"gatelodge: a fault of gatelodge's own\n{render_exception(error)}", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        return _INTERRUPTED
    return status


def _told(error: Exception) -> tuple[str, int]:
    match error:
        case SettingsError():
            return str(error), _MISUSED
        case InvalidArgument():
            return "; ".join(f"{v.field}: {v.description}" for v in error.violations), _MISUSED
        case DependencyUnavailable():
            return (
                f"the {error.metadata['dependency']} cannot be reached: {describe(error.__cause__ or error)}",
                _FAILED,
            )
        case DomainError():
            return f"{error.message} ({error.reason})", _FAILED
    return str(error), _FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("gatelodge", description="Users and authentication, over gRPC.")
    parser.add_argument("--version", action="version", version=str(this_build()))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("serve", help="serve until SIGTERM or SIGINT")
    command.set_defaults(run=_serve)

    command = commands.add_parser("worker")  # without help, as it is not for people: the parent of workers starts it
    command.set_defaults(run=_worker)

    command = commands.add_parser("migrate", help="bring the database's schema up to date")
    mode = command.add_mutually_exclusive_group()
    mode.add_argument(
        "--status", action="store_true", help="list the migrations, change nothing; 1 if some are missing"
    )
    mode.add_argument("--dry-run", action="store_true", help="print what would be applied, change nothing")
    command.set_defaults(run=_migrate)

    command = commands.add_parser("health", help="ask a running server whether it serves")
    command.add_argument("--address", help="host:port or unix:/path; that of the settings unless given")
    tls = command.add_mutually_exclusive_group()
    tls.add_argument("--tls", action="store_true", default=None, help="speak TLS; as the settings say unless given")
    tls.add_argument("--plaintext", action="store_false", dest="tls", help="speak plaintext")
    command.add_argument("--ca-file", help="who must have signed the server's certificate, PEM")
    command.add_argument("--server-name", help="name in the server's certificate, if not that of the address")
    command.add_argument("--cert-file", help="certificate to show where clients must, PEM")
    command.add_argument("--key-file", help="its key, PEM")
    command.add_argument("--service", default="readiness", help="name to ask for (default: %(default)s)")
    command.add_argument("--timeout", type=float, default=2.0, help="seconds (default: %(default)s)")
    command.set_defaults(run=_health)

    cli_keys.add(commands.add_parser("keys", help="manage the signing keys"))
    _add_users(commands.add_parser("users", help="manage users").add_subparsers(required=True, metavar="COMMAND"))

    config = commands.add_parser("config", help="look at the settings").add_subparsers(required=True, metavar="COMMAND")
    command = config.add_parser("show", help="print the settings in force as JSON, without secrets")
    command.set_defaults(run=_show_config)
    return parser


def _add_users(users: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = users.add_parser("create-admin", help="make a user who holds every permission")
    command.add_argument("--email", required=True)
    command.add_argument("--display-name", default="")
    source = command.add_mutually_exclusive_group()
    source.add_argument("--password-stdin", action="store_true", help="read the password from the first line of stdin")
    source.add_argument("--generate-password", action="store_true", help="make a password and print it once")
    command.set_defaults(run=_create_admin)


def _serve(_: argparse.Namespace) -> int:
    settings = load()
    quiet_grpc()
    if settings.server.workers > 1:
        from service.workers.parent import run_workers

        return run_workers(settings)
    from service.process import run_server

    return run_server(settings)


def _worker(_: argparse.Namespace) -> int:
    quiet_grpc()
    from service.workers.worker import run_worker

    return run_worker(lambda error: _told(error)[0])


def _migrate(options: argparse.Namespace) -> int:
    from service import operations

    database = load().database
    if options.status:
        return _print_status(_run(operations.schema_status(database)))
    if options.dry_run:
        for migration in _run(operations.schema_status(database)).pending:
            print(f"-- would apply {migration.file}\n{migration.sql}")
        return _OK
    status = _run(
        operations.migrate(
            database,
            lambda done, seconds: print(f"applied {done.file} in {seconds:.2f} s", flush=True),
            lambda it, pause: print(f"{it.file} waits for a lock, again in {pause:.0f} s", file=sys.stderr, flush=True),
        )
    )
    print(f"the schema is up to date: {len(status.applied)} migrations applied")
    return _OK


def _print_status(status: Status) -> int:
    for row in status.applied:
        print(f"{row.version:04}  {'newer than this release' if row in status.unknown else 'applied':<24}{row.name}")
    for migration in status.pending:
        print(f"{migration.version:04}  {'missing':<24}{migration.name}")
    return _FAILED if status.pending else _OK


def _health(options: argparse.Namespace) -> int:
    quiet_grpc()
    from service.rpc.probe import Tls, check, local_target

    target, tls = options.address, None
    if target is None:
        target, tls = local_target(load_server())
    if options.tls is False:
        tls = None
    elif options.tls or options.ca_file:
        tls = Tls(options.ca_file, options.server_name, options.cert_file, options.key_file)
    status = _run(check(target, options.service, within=options.timeout, tls=tls))
    print(f"{options.service or 'server'} at {target}: {status}")
    return _OK if status == "SERVING" else _FAILED


def _create_admin(options: argparse.Namespace) -> int:
    from service.access import ADMIN
    from service.options import policy
    from service.users.model import DisplayName, Email, NewUser

    settings = load()
    new = NewUser(Email.parse(options.email), DisplayName.parse(options.display_name), roles=(ADMIN,))
    text = _new_password(options)
    password = policy(settings.auth).parse(text, about=(options.email, options.display_name))
    user = _run(_create_user(settings, new, password))
    print(f"administrator {user.email} created, id {user.id}")
    if options.generate_password:
        print(f"password: {text}")
    return _OK


async def _create_user(settings: Settings, new: NewUser, password: Password) -> User:
    from service.app import opened_accounts

    async with opened_accounts(settings) as accounts:
        return await accounts.create(new, password)


def _new_password(options: argparse.Namespace) -> str:
    if options.generate_password:
        return secrets.token_urlsafe(_GENERATED_BYTES)
    if options.password_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        raise CannotRun("no terminal to ask for the password: use --password-stdin")
    text = getpass.getpass("Password: ")
    if text != getpass.getpass("Again: "):
        raise CannotRun("the two passwords differ")
    return text


def _show_config(_: argparse.Namespace) -> int:
    print(json.dumps(redacted(load()), indent=2, ensure_ascii=False))
    return _OK


def _run(work: Coroutine[object, object, Result]) -> Result:
    return asyncio.run(work)
