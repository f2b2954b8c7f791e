"""A release in a folder of its own: the code, its settings and its migrations, run by this environment's Python."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

CHECKOUT = Path(__file__).parents[2]
_PARTS = ("src", "generated", "config", "migrations")
_MAIN = "import sys; from service.cli import main; sys.exit(main())"


@dataclass(frozen=True)
class Release:
    """Code in `folder`, laid out as in the repository."""

    folder: Path

    @property
    def command(self) -> tuple[str, ...]:
        """What runs its ``gatelodge``; needs `environ`."""
        return (sys.executable, "-P", "-c", _MAIN)

    @property
    def environ(self) -> Mapping[str, str]:
        """Makes Python take the code from here, not from where the environment was installed."""
        return {"PYTHONPATH": f"{self.folder / 'src'}:{self.folder / 'generated'}"}

    @property
    def migrations(self) -> Path:
        return self.folder / "migrations"

    def add_migration(self, name: str, sql: str) -> None:
        """Write one more migration, after the last."""
        number = 1 + len(list(self.migrations.glob("*.sql")))
        (self.migrations / f"{number:04}_{name}.sql").write_text(sql)


def of_the_checkout(folder: Path) -> Release:
    """Copy what is in the working tree, its bytecode too: its times stay, so it is good."""
    for part in _PARTS:
        shutil.copytree(CHECKOUT / part, folder / part)
    return Release(folder)


def of_the_revision(folder: Path, revision: str) -> Release:
    """Extract what git has at `revision`."""
    folder.mkdir(parents=True)
    archive = subprocess.run(["git", "archive", revision, *_PARTS], cwd=CHECKOUT, check=True, capture_output=True)
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
    return Release(folder)
