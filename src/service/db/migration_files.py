"""Migration files: finding, reading, numbering and splitting them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from service.errors import CannotRun

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_FILE = re.compile(r"(?P<version>\d{4})_(?P<name>[a-z0-9_]+)\.sql")
_STEPWISE = "-- gatelodge: no-transaction"
_TOKEN = re.compile(
    r"""--[^\n]* | /\*.*?\*/               # comments (not nested ones)
      | \b[eE]'(?:[^'\\]|\\.|'')*'        # E'strings'
      | '(?:[^']|'')*' | "(?:[^"]|"")*"    # strings and quoted names
      | (?P<tag>\$(?:[A-Za-z_]\w*)?\$).*?(?P=tag)  # $tag$ bodies $tag$
      | (?P<end>;)""",
    re.DOTALL | re.VERBOSE,
)


class MigrationError(CannotRun):
    """The migrations can not be used as they are; the message says which and what to do."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file."""

    version: int
    name: str
    sql: str
    checksum: str
    """sha256 of the file's bytes, line ends made LF, in hex."""

    @property
    def file(self) -> str:
        """The file's name."""
        return f"{self.version:04}_{self.name}.sql"

    @property
    def transaction(self) -> bool:
        """Whether the file runs in one transaction."""
        return self.sql.partition("\n")[0].strip() != _STEPWISE


def folder() -> Path:
    """Return where the migrations are: in the installed package, or in the checkout.

    Raises:
        MigrationError: in neither.

    """
    packaged = Path(str(resources.files("service"))) / "migrations"
    checkout = Path(__file__).resolve().parents[3] / "migrations"
    for place in (packaged, checkout):
        if place.is_dir():
            return place
    raise MigrationError(f"no migrations in {packaged} nor in {checkout}")


def load(place: Path) -> tuple[Migration, ...]:
    """Read every ``NNNN_name.sql`` in `place`, in order.

    Raises:
        MigrationError: a badly named file, a number used twice, or a gap.

    """
    migrations = sorted((_read(path) for path in place.glob("*.sql")), key=lambda migration: migration.version)
    for expected, migration in enumerate(migrations, start=1):
        if migration.version < expected:
            raise MigrationError(f"two migrations have the number {migration.version:04}")
        if migration.version > expected:
            raise MigrationError(f"there is no migration {expected:04} before {migration.file}")
    return tuple(migrations)


def _read(path: Path) -> Migration:
    name = _FILE.fullmatch(path.name)
    if name is None:
        raise MigrationError(f"{path.name} is not named like 0001_what_it_does.sql")
    data = path.read_bytes().replace(b"\r\n", b"\n")
    return Migration(int(name["version"]), name["name"], data.decode(), hashlib.sha256(data).hexdigest())


def digest(migrations: Sequence[Migration]) -> str:
    """Return the sha256 that names the schema these migrations make."""
    return hashlib.sha256("\n".join(migration.checksum for migration in migrations).encode()).hexdigest()


def statements_of(sql: str) -> Iterator[str]:
    """Yield the statements of a script, split at the semicolons outside of strings, comments and dollar quotes.

    What it does not know are nested comments and ``BEGIN ATOMIC`` bodies; files without a transaction need neither.
    """
    start = 0
    for token in _TOKEN.finditer(sql):
        if token["end"]:
            yield sql[start : token.end()]
            start = token.end()
    if _TOKEN.sub("", sql[start:]).strip():
        yield sql[start:]


def concurrently(sql: str) -> bool:
    """Tell whether a statement builds or drops an index without keeping writers out."""
    return "CONCURRENTLY" in _TOKEN.sub(" ", sql).upper()
