"""The command: prints what it refuses; exits 1 if there is anything."""

from __future__ import annotations

import sys
from pathlib import Path

from tools.migration_lint.lint import lint

from service.db.migration_files import folder, load


def main(arguments: list[str]) -> int:
    """Lint the folder given, or the repository's."""
    place = Path(arguments[0]) if arguments else folder()
    found = lint(load(place))
    for finding in found:
        print(finding)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
