"""Where settings come from. Each source gives a layer: values by key, and the faults met on the way."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dotenv.parser import parse_stream

from service.settings.faults import Fault, shown, unknown
from service.settings.keys import NESTING, PREFIX, RESERVED, Key, is_list, is_table, sections, settable, variables

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SECRET_BYTES = 65_536
"""No secret is larger; a file that is was mounted by mistake."""


@dataclass(slots=True)
class Layer:
    """What one source says."""

    origin: str
    values: dict[Key, object] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def add_text(self, key: Key | None, name: str, text: str) -> None:
        """Take one setting given as text, called `name` here. Empty text leaves it unset, as in Compose's ``NAME=``."""
        if key is None:
            self.faults.append(unknown(name, name.removeprefix(PREFIX).replace(NESTING, "."), self.origin))
        elif text and not (is_table(key) or is_list(key)):
            self.values[key] = text
        elif text:
            self._add_json(key, text)

    def _add_json(self, key: Key, text: str) -> None:
        try:
            self.values[key] = json.loads(text)
        except ValueError:
            form = 'list, ["value"]' if is_list(key) else 'object, {"name": "value"}'
            self.faults.append(Fault(f"should be a JSON {form}", key, self.origin))

    def add_variable(self, name: str, text: str) -> None:
        """Take one ``APP_…`` variable. Its case counts, so that two spellings of one name cannot disagree."""
        self.add_text(variables().get(name), name, text)

    def add_table(self, table: Mapping[str, object], path: tuple[str, ...] = ()) -> None:
        """Take a table of a file, and the tables in it."""
        for name, value in table.items():
            here = (*path, name)
            if here in sections():
                self._add_section(here, value)
            elif Key(here) in settable():
                self.values[Key(here)] = value
            else:
                self.faults.append(unknown(".".join(here), ".".join(here), self.origin))

    def _add_section(self, path: tuple[str, ...], value: object) -> None:
        if isinstance(value, Mapping):
            self.add_table(value, path)
        else:
            self.faults.append(Fault(f"{'.'.join(path)} should be a table of settings", origin=self.origin))


def from_toml(path: Path) -> Layer:
    """Read a TOML file."""
    layer = Layer(str(path))
    try:
        layer.add_table(tomllib.loads(path.read_text(encoding="utf-8")))
    except tomllib.TOMLDecodeError as error:
        layer.faults.append(Fault(f"not TOML: {shown(str(error))}", origin=layer.origin))
    except (OSError, UnicodeDecodeError) as error:
        layer.faults.append(_unreadable(error, layer.origin))
    return layer


def from_dotenv(path: Path) -> Layer:
    """Read a ``.env`` file. Names without ``APP_`` belong to other tools and are left alone."""
    layer = Layer(str(path))
    try:
        with path.open(encoding="utf-8") as stream:
            for binding in parse_stream(stream):
                _add_binding(layer, binding.key, binding.value, binding.original.line if binding.error else 0)
    except (OSError, UnicodeDecodeError) as error:
        layer.faults.append(_unreadable(error, layer.origin))
    return layer


def _add_binding(layer: Layer, name: str | None, value: str | None, bad_line: int) -> None:
    if bad_line:
        layer.faults.append(Fault(f"line {bad_line} is not NAME=value", origin=layer.origin))
    elif name in RESERVED:
        layer.faults.append(Fault(f"{name} is read from the environment alone", origin=layer.origin))
    elif name and name.startswith(PREFIX):
        layer.add_variable(name, value or "")


def from_environ(environ: Mapping[str, str]) -> Layer:
    """Read the ``APP_…`` variables of the environment."""
    layer = Layer("the environment")
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in RESERVED:
            layer.add_variable(name, environ[name])
    return layer


def from_secrets(directory: Path) -> Layer:
    """Read a directory of secrets as Kubernetes mounts it: ``database__url`` or ``database/url``, a value a file."""
    layer = Layer(str(directory))
    if not directory.is_dir():
        layer.faults.append(Fault("APP_SECRETS_DIR is no directory", origin=layer.origin))
        return layer
    for path in _secret_files(directory):
        parts = tuple(part for name in path.relative_to(directory).parts for part in name.split(NESTING))
        _add_secret(layer, path, parts)
    return layer


def _secret_files(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        if path.name.startswith(".."):  # the links behind which Kubernetes swaps a mount's content
            continue
        if path.is_dir():
            yield from _secret_files(path)
        else:
            yield path


def _add_secret(layer: Layer, path: Path, parts: tuple[str, ...]) -> None:
    try:
        content = path.read_bytes()[: _SECRET_BYTES + 1]
        text = content.decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        layer.faults.append(_unreadable(error, str(path)))
        return
    if len(content) > _SECRET_BYTES:
        layer.faults.append(Fault(f"larger than {_SECRET_BYTES} bytes", origin=str(path)))
        return
    key = Key(parts)
    layer.add_text(key if key in settable() else None, key.file, text)


def _unreadable(error: OSError | UnicodeDecodeError, origin: str) -> Fault:
    # A decode error's own text shows the byte it met, and that byte may be a secret's.
    reason = (error.strerror or "cannot be read") if isinstance(error, OSError) else "not UTF-8 text"
    return Fault(f"cannot be read: {reason}", origin=origin)
