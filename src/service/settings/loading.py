"""Loading: every source in its order, then validation, then the rules; every fault found is told at once."""

from __future__ import annotations

import os
import re
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from service.settings import references, rules, sources
from service.settings.faults import Fault, SettingsError, shown
from service.settings.keys import Key, nearest, owner
from service.settings.tree import RELAXED, Server, Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from service.settings.sources import Layer

_ENVIRONMENT = re.compile(r"[a-z][a-z0-9_-]{0,31}")


def load(environ: Mapping[str, str] | None = None, *, dotenv: Path | None = None) -> Settings:
    """Read all sources once and return the settings.

    Later sources win: the tree's defaults, ``default.toml``, ``{APP_ENV}.toml``, the `dotenv` file (in development
    only; ``.env`` of the working directory unless given), ``APP_…`` in `environ` (the process's unless given),
    the files under ``APP_SECRETS_DIR``.

    Raises:
        SettingsError: something is wrong; its message lists everything that is, without a single value.

    """
    environ = os.environ if environ is None else environ
    env = environ.get("APP_ENV") or "development"
    files = Path(environ["APP_CONFIG_DIR"]) if environ.get("APP_CONFIG_DIR") else config_directory()
    faults = list(_bad_places(env, files))
    layers = list(_layers(env, files, environ, dotenv or Path(".env")))
    faults += [fault for layer in layers for fault in layer.faults]
    settings, wrong = _validated(env, layers)
    faults += wrong
    told = {fault.key for fault in faults}
    faults += [fault for fault in rules.broken(settings) if fault.key not in told]
    if faults:
        raise SettingsError(faults)
    return settings


def load_server(environ: Mapping[str, str] | None = None) -> Server:
    """Return where and how the server listens, of the same sources, without looking at any other setting.

    For probes: no secret is fetched for it.

    Raises:
        SettingsError: something is wrong with the settings of the server.

    """
    environ = os.environ if environ is None else environ
    env = environ.get("APP_ENV") or "development"
    layers = _layers(env, Path(environ.get("APP_CONFIG_DIR") or config_directory()), environ, Path(".env"))
    values, origins = _merged(layers)
    values = {key: value for key, value in values.items() if key.path[0] == "server"}
    if (error := _error_of(env, values)) is not None:
        raise SettingsError(list(_faults_of(error, origins)))
    return Settings.model_validate(_nested(env, values)).server


def config_directory() -> Path:
    """Return where the configuration files are: in the installed package, else in the checkout."""
    packaged = Path(str(resources.files("service"))) / "config"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "config"


def _bad_places(env: str, files: Path) -> Iterator[Fault]:
    if not files.is_dir():
        yield Fault("APP_CONFIG_DIR is no directory", origin=str(files))
    usual = ("production", *RELAXED)
    if env in usual or (_ENVIRONMENT.fullmatch(env) and (files / f"{env}.toml").is_file()):
        return
    close = nearest(env, usual)
    hint = f"did you mean {close}?" if close else f"there is no {shown(env)}.toml"
    yield Fault(f"unknown environment {shown(env)}: {hint}", Key(("env",)), str(files))


def _layers(env: str, files: Path, environ: Mapping[str, str], dotenv: Path) -> Iterator[Layer]:
    names = ("default", env) if _ENVIRONMENT.fullmatch(env) else ("default",)
    for name in names:
        if (path := files / f"{name}.toml").exists():
            yield sources.from_toml(path)
    if env == "development" and dotenv.is_file():
        yield sources.from_dotenv(dotenv)
    yield sources.from_environ(environ)
    if directory := environ.get("APP_SECRETS_DIR"):
        yield sources.from_secrets(Path(directory))


def _validated(env: str, layers: Iterable[Layer]) -> tuple[Settings, list[Fault]]:
    """Build the tree; settings with faults take their defaults, so that the rules can be tried on the rest."""
    values, origins = _merged(layers)
    values, schemes, faults = references.resolved(values, origins)
    shown = {key.dotted: scheme for key, scheme in schemes.items()}
    error = _error_of(env, values)
    if error is None:
        return Settings.model_validate(_nested(env, values)).fetched_from(shown), faults
    faults += _faults_of(error, origins)
    sound = {key: value for key, value in values.items() if key not in {fault.key for fault in faults}}
    return Settings.model_validate(_nested(env, sound)), faults


def _error_of(env: str, values: Mapping[Key, object]) -> ValidationError | None:
    # Returned and not chained: pydantic's own text, and so a traceback with it, could show what was put in.
    try:
        Settings.model_validate(_nested(env, values))
    except ValidationError as error:
        return error
    return None


def _merged(layers: Iterable[Layer]) -> tuple[dict[Key, object], dict[Key, str]]:
    values: dict[Key, object] = {}
    origins: dict[Key, str] = {}
    for layer in layers:
        for key, value in layer.values.items():
            old = values.get(key)
            both = isinstance(old, dict) and isinstance(value, dict)
            values[key] = {**old, **value} if both else value  # type: ignore[dict-item]  # both are dicts
            origins[key] = layer.origin
    return values, origins


def _nested(env: str, values: Mapping[Key, object]) -> dict[str, object]:
    tree: dict[str, object] = {"env": env}
    for key, value in values.items():
        table: dict[str, object] = tree
        for part in key.path[:-1]:
            table = table.setdefault(part, {})  # type: ignore[assignment]  # sections are dicts
        table[key.path[-1]] = value
    return tree


def _faults_of(error: ValidationError, origins: Mapping[Key, str]) -> Iterator[Fault]:
    for detail in error.errors(include_input=False, include_url=False, include_context=False):
        key = owner(detail["loc"])
        inner = ".".join(str(part) for part in detail["loc"][len(key.path) :]) if key else ""
        text = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
        where = f" (at {shown(inner)})" if inner else ""
        yield Fault(text[:1].lower() + text[1:] + where, key, origins.get(key, "") if key else "")
