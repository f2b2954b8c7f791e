"""Does an upgrade, and the way back, lose a call?

Usage: ``make rehearse-upgrade [OLD=revision]``, or ``python -m bench.rehearse_upgrade [old [new]]``. The old release
is what git has at `old` (the last tag, else HEAD), the new one at `new`, else the working tree. Two replicas of the old
one serve behind Envoy; the new one migrates; the replicas are replaced one by one, first by the new release, then by
the old one again, on the new schema. Where the new release brings no migration, one is made up.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.load import loading
from bench.replicas import replicas
from tests.app.conftest import environment
from tests.app.envoy import running_envoy
from tests.app.release import CHECKOUT, Release, of_the_checkout, of_the_revision

from service.db.embedded import EmbeddedPostgres

if TYPE_CHECKING:
    from collections.abc import Mapping

RESULTS = Path(__file__).parent / "results" / "rehearse_upgrade.json"
LINGER = "1.5"
EXPAND = "ALTER TABLE users ADD COLUMN rehearsal text NOT NULL DEFAULT ''"


async def rehearse(
    url: str, folder: Path, old: Release, new: Release, *, rate: float, hold: float, replace: bool = True
) -> dict[str, Any]:
    """Go from `old` to `new` and back under load, staying `hold` seconds at each step; return what was seen.

    `url` is an empty database. Without `replace` only the schema goes on to `new`, and `old` serves on.
    """
    await migrate(url, folder, old)
    steps: dict[str, Mapping[str, int]] = {}
    async with (
        replicas(2, url, folder, old, SERVER__DRAIN_LINGER_SECONDS=LINGER) as both,
        running_envoy(folder, *(replica.address for replica in both)) as envoy,
        loading(envoy.address, url, rate) as load,
    ):

        async def held(step: str) -> None:
            await asyncio.sleep(hold)
            before = sum(seen["failures"] for seen in steps.values()), sum(seen["calls"] for seen in steps.values())
            steps[step] = {"calls": load.calls - before[1], "failures": load.failures.total() - before[0]}

        await held("old serves")
        await migrate(url, folder, new)
        await held("old serves on the new schema")
        for release, words in ((new, "new"), (old, "old again")) if replace else ():
            for replica, place in zip(both, ("one", "both"), strict=True):
                await replica.stop()
                await replica.start(release)
                await envoy.healthy(2)
                await held(f"{place} {words}")
    report = load.report()
    steps["to the end"] = {
        name: report[name] - sum(seen[name] for seen in steps.values()) for name in ("calls", "failures")
    }
    return {"calls_per_second": rate, "steps": steps} | report


async def migrate(url: str, folder: Path, release: Release) -> None:
    """Run the release's ``gatelodge migrate``."""
    process = await asyncio.create_subprocess_exec(
        *release.command, "migrate", env={"PATH": "/usr/bin:/bin", **environment(url, folder), **release.environ}
    )
    if await process.wait():
        raise SystemExit(f"the migration failed: {process.returncode}")


def last_release() -> str:
    """Return the newest tag, or HEAD when there is none."""
    command = ("git", "describe", "--tags", "--abbrev=0")
    described = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    return described.stdout.strip() or "HEAD"


async def main(old: str, new: str) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        before = of_the_revision(folder / "old", old)
        after = of_the_revision(folder / "new", new) if new else of_the_checkout(folder / "new")
        if len(list(after.migrations.glob("*.sql"))) == len(list(before.migrations.glob("*.sql"))):
            after.add_migration("rehearsal", EXPAND)
        postgres = EmbeddedPostgres(folder / "postgres")
        try:
            result = await rehearse(await postgres.start(), folder, before, after, rate=50, hold=3)
        finally:
            await postgres.stop()
    result = {"old": old, "new": new or "the working tree"} | result
    print(json.dumps(result, indent=2))
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    return int(result["failures"] > 0)


if __name__ == "__main__":
    revisions = [*sys.argv[1:], "", ""]
    sys.exit(asyncio.run(main(revisions[0] or last_release(), revisions[1])))
