"""The real app on port 0, with a database of its own."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

import pytest
from psycopg.conninfo import conninfo_to_dict
from tests.app.client import Client

from service.app import App, running
from service.jobs import Jobs
from service.settings import Settings, load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

MASTER_SECRET = "a master secret that is long enough to be one"


class SettingsFor(Protocol):
    def __call__(self, url: str, **environ: str) -> Settings: ...


@pytest.fixture
def settings_for(tmp_path: Path) -> SettingsFor:
    """Make settings for a database, with ``APP_…`` variables by their names after ``APP_``."""

    def make(url: str, **environ: str) -> Settings:
        return load(environment(url, tmp_path, **environ))

    return make


def environment(url: str, folder: Path, **environ: str) -> Mapping[str, str]:
    """Return the environment of a test's service."""
    return {
        "APP_ENV": "test",
        "APP_DATABASE__URL": as_url(url),
        "APP_DATABASE__EMBEDDED_DIR": str(folder / "postgres"),
        "APP_AUTH__MASTER_SECRET": MASTER_SECRET,
        **{f"APP_{name}": value for name, value in environ.items()},
    }


def as_url(conninfo: str) -> str:
    """Return a keyword conninfo as the URL that the settings take; a URL stays one."""
    if conninfo.startswith("postgresql://"):
        return conninfo
    of = {name: quote(str(value), safe="") for name, value in conninfo_to_dict(conninfo).items()}
    if "password" in of:
        return f"postgresql://{of['user']}:{of['password']}@{of['host']}:{of.get('port', 5432)}/{of['dbname']}"
    return f"postgresql://{of['user']}@/{of['dbname']}?host={of['host']}"


@pytest.fixture
def eager_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have services look for jobs that are due at once, not every few seconds. Use it as a mark: it comes first."""
    monkeypatch.setattr("service.app.Jobs", partial(Jobs, poll=0.1))


@pytest.fixture
async def app(url: str, settings_for: SettingsFor) -> AsyncIterator[App]:
    async with running(settings_for(url)) as started:
        yield started


@pytest.fixture
async def client(app: App, url: str) -> AsyncIterator[Client]:
    async with Client(app.address, url) as connected:
        yield connected
