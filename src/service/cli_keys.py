"""``gatelodge keys …``: the signing keys, from the command line. Works beside running servers, which hear of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from service.settings import load

if TYPE_CHECKING:
    import argparse
    from datetime import datetime

    from service.auth.key_rotation import KeyRotation, Step
    from service.auth.key_store import KeyRecord


def add(parser: argparse.ArgumentParser) -> None:
    """Add the commands to the parser of ``keys``."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("list", help="list the keys, oldest first")
    command.set_defaults(run=_list)

    command = commands.add_parser("rotate", help="stage the next key, or activate the staged one when it is due")
    command.add_argument("--now", action="store_true", help="activate it at once: verifiers may not know it yet")
    command.set_defaults(run=_rotate)

    command = commands.add_parser("retire", help="remove a key that must not verify any more: its tokens are dead")
    command.add_argument("kid", help="the key's id")
    command.set_defaults(run=_retire)

    command = commands.add_parser("reseal", help="encrypt the secrets in the database under the present master secret")
    command.set_defaults(run=_reseal)


def _list(_: argparse.Namespace) -> int:
    asyncio.run(_print_keys())
    return 0


async def _print_keys() -> None:
    from service.app import opened_rotation

    async with opened_rotation(load()) as rotation:
        for key in await rotation.keys():
            print(f"{key.kid}  {key.algorithm:<5}  {key.state:<7}  {_story(key, rotation)}")


def _story(key: KeyRecord, rotation: KeyRotation) -> str:
    """Tell when a key came to its state, and when it will leave it."""
    if key.retire_time is not None:
        return f"since {_spelled(key.retire_time)}, verifies until {_spelled(key.retire_time + rotation.terms.keep)}"
    if key.activate_time is not None:
        return f"since {_spelled(key.activate_time)}"
    return f"since {_spelled(key.create_time)}, signs from {_spelled(rotation.ready_time(key))}"


def _rotate(options: argparse.Namespace) -> int:
    asyncio.run(_advance(force=options.now))
    return 0


async def _advance(*, force: bool) -> None:
    from service.app import opened_rotation

    async with opened_rotation(load()) as rotation:
        step, key = await rotation.advance(force=force)
        print(_told(step, key, rotation))


def _told(step: Step, key: KeyRecord, rotation: KeyRotation) -> str:
    """Say what was done and what comes next."""
    ready = _spelled(rotation.ready_time(key))
    match step.value:
        case "staged":
            return f"staged {key.kid} ({key.algorithm}): published now, and the service has it sign from {ready} on"
        case "waiting":
            return f"nothing done: {key.kid} is staged and signs from {ready} on; --now does not wait"
    return (
        f"activated {key.kid} ({key.algorithm}): it signs from now on; the key before it verifies for "
        f"{rotation.terms.keep.total_seconds():.0f} s more and is then removed"
    )


def _retire(options: argparse.Namespace) -> int:
    asyncio.run(_remove(options.kid))
    return 0


async def _remove(kid: str) -> None:
    from service.app import opened_rotation

    async with opened_rotation(load()) as rotation:
        key = await rotation.remove(kid)
        print(f"removed {key.kid} ({key.algorithm}): its tokens are dead")


def _reseal(_: argparse.Namespace) -> int:
    from service.app import resealed

    settings = load()
    done = asyncio.run(resealed(settings))
    print(f"{done.done} of {done.total} secrets were under another master secret; all are under the present one now")
    return 0


def _spelled(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
