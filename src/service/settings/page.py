"""Write the tables of ``docs/configuration.md`` from the tree: ``python -m service.settings.page [--check]``."""

from __future__ import annotations

import re
import sys
import tomllib
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from service.settings.keys import Key, known, settable
from service.settings.loading import config_directory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydantic.fields import FieldInfo

PAGE = Path("docs/configuration.md")
BEGIN = "<!-- from the settings tree: begin. Written by `python -m service.settings.page` -->\n"
END = "<!-- from the settings tree: end -->\n"


def main(arguments: list[str]) -> int:
    """Rewrite the page, or with ``--check`` only tell (exit code 1) that it is stale."""
    old = PAGE.read_text(encoding="utf-8")
    new = renewed(old)
    if new == old:
        return 0
    if "--check" in arguments:
        sys.stderr.write(f"{PAGE} is stale: run python -m service.settings.page and commit\n")
        return 1
    PAGE.write_text(new, encoding="utf-8")
    return 0


def renewed(page: str) -> str:
    """Return `page` with the tables between its two marks written anew."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}{tables()}{END}{rest.split(END)[1]}"


def tables() -> str:
    """Return one table a section, in the tree's order."""
    keys = (key for key in known() if key in settable())
    return "\n".join(_table(path, group) for path, group in groupby(keys, key=lambda key: key.path[:-1])) + "\n"


def _table(path: tuple[str, ...], keys: Iterable[Key]) -> str:
    head = (f"\n### {'.'.join(path)}\n", "| setting | variable | type | default | what |", "|---|---|---|---|---|")
    return "\n".join([*head, *(_row(key, known()[key]) for key in keys)])


def _row(key: Key, field: FieldInfo) -> str:
    cells = (f"`{key.path[-1]}`", f"`{key.variable}`", _kind(field), _default(key, field), field.description or "")
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _kind(field: FieldInfo) -> str:
    """Spell the type: ``int``, ``secret``, ``json | console``, with its bounds."""
    text = str(field.annotation)
    if choices := re.findall(r"'(\w+)'", text):
        kind = " | ".join(f"`{choice}`" for choice in choices)
    else:
        kind = next(name for name in ("SecretStr", "bool", "int", "float", "str") if name in text)
    kind = "secret" if kind == SecretStr.__name__ else kind
    kind = f"table of {kind}" if "dict" in text else f"list of {kind}s" if "tuple" in text else kind
    return " ".join([kind, *_bounds(field)])


def _bounds(field: FieldInfo) -> Iterator[str]:
    for rule in field.metadata:
        for name, sign in (("gt", ">"), ("ge", "≥"), ("le", "≤")):
            if (bound := getattr(rule, name, None)) is not None:
                yield f"{sign} {bound:g}" if bound < 10_000 else f"{sign} {bound}"  # noqa: PLR2004 - %g would round


def _default(key: Key, field: FieldInfo) -> str:
    """Spell the default, and what the packaged files make of it."""
    value = field.get_default(call_default_factory=True)
    spelled = ["none" if value is None else f"`{_toml(value)}`"]
    for name in ("default", "development", "test", "production"):
        found = _in_file(name, key)
        if found is not None:
            spelled.append(f"{name}.toml: `{_toml(found)}`")
    return "<br>".join(spelled)


def _in_file(name: str, key: Key) -> object:
    """Look `key` up in one of the packaged files; None where it does not have it."""
    path = config_directory() / f"{name}.toml"
    value: object = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    for part in key.path:
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_toml(item)}" for name, item in value.items()) + "}"
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
