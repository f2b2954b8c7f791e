"""Secrets kept elsewhere: fetched at the start, and never shown. The stores are local servers that speak their APIs."""

from __future__ import annotations

import json
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from service.settings import Settings, SettingsError, load, redacted

if TYPE_CHECKING:
    from collections.abc import Iterator

NOWHERE = Path("/nonexistent/.env")
SECRET = "a secret that is long enough to be one: 0123456789"
TOKEN = "hvs.the-token"


def _load(**variables: str) -> Settings:
    return load({f"APP_{name}": value for name, value in variables.items()}, dotenv=NOWHERE)


def _fault(**variables: str) -> str:
    with pytest.raises(SettingsError) as caught:
        _load(**variables)
    assert caught.value.__cause__ is None
    (fault,) = caught.value.faults
    assert SECRET not in str(fault)
    return str(fault)


def _master(settings: Settings) -> str:
    assert settings.auth.master_secret is not None
    return settings.auth.master_secret.get_secret_value()


def test_a_secret_is_read_from_the_file_it_refers_to_without_its_line_end(tmp_path: Path) -> None:
    (tmp_path / "master").write_text(SECRET + "\n")
    settings = _load(AUTH__MASTER_SECRET=f"file:{tmp_path}/master")
    assert _master(settings) == SECRET
    assert redacted(settings)["auth"]["master_secret"] == "[redacted, from file:]"  # type: ignore[index]
    assert SECRET not in json.dumps(redacted(settings)) + repr(settings)


def test_any_secret_may_be_a_reference_from_any_source_and_the_value_is_checked_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql://u:p%40ss@db/x")
    (tmp_path / "url2").write_text("mysql://u:p@db/x")
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "database__url").write_text(f"file:{tmp_path}/url\n")
    settings = _load(SECRETS_DIR=str(secrets))
    assert settings.database.url is not None
    assert settings.database.url.get_secret_value() == "postgresql://u:p%40ss@db/x"
    assert redacted(settings)["database"]["url"] == "[redacted, from file:]"  # type: ignore[index]
    assert "percent-encoded" in _fault(DATABASE__URL=f"file:{tmp_path}/url2")


def test_only_secrets_are_references(tmp_path: Path) -> None:
    (tmp_path / "issuer").write_text("x")
    assert _load(AUTH__ISSUER=f"file:{tmp_path}/issuer").auth.issuer == f"file:{tmp_path}/issuer"


def test_references_that_lead_nowhere_are_told_in_the_one_list_of_faults(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(SettingsError) as caught:
        _load(
            ENV="production",
            SERVER__HOST="127.0.0.1",
            SERVER__PORT="70000",
            DATABASE__URL=f"file:{tmp_path}/none",
            AUTH__MASTER_SECRET="file:relative",
            AUTH__PASSWORD_PEPPER=f"file:{tmp_path}/binary",
        )
    assert str(caught.value).startswith("the settings have 4 faults:\n")
    for part in (
        f"database.url (APP_DATABASE__URL): file: {tmp_path}/none cannot be read: No such file or directory",
        "auth.master_secret (APP_AUTH__MASTER_SECRET): file: takes an absolute path",
        f"auth.password_pepper (APP_AUTH__PASSWORD_PEPPER): file: {tmp_path}/binary is not UTF-8 text",
        "server.port (APP_SERVER__PORT): should be less",
    ):
        assert part in str(caught.value)
    assert "the secret is empty" in _fault(AUTH__MASTER_SECRET=f"file:{tmp_path}/empty")


class _Store(BaseHTTPRequestHandler):
    """Vault's ``GET /v1/<mount>/data/<path>`` and AWS's ``GetSecretValue``."""

    def do_GET(self) -> None:
        if self.headers.get("X-Vault-Token") != TOKEN:
            self._answer(403, {"errors": [f"permission denied {SECRET}"]})
        elif self.path == "/v1/kv/data/team/gatelodge":
            self._answer(200, {"data": {"data": {"master": SECRET, "number": 1}, "metadata": {"version": 1}}})
        else:
            self._answer(404, {"errors": []})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.headers["X-Amz-Target"] == "secretsmanager.GetSecretValue"
        values = {"plain": SECRET, "gatelodge/json": json.dumps({"master": SECRET})}
        if asked["SecretId"] in values:
            self._answer(200, {"Name": asked["SecretId"], "SecretString": values[asked["SecretId"]]})
        else:
            self._answer(400, {"__type": "ResourceNotFoundException", "Message": SECRET})

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_request(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def _serving() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Store) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(name="stores")
def _stores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    with _serving() as address:
        for name, value in {
            "VAULT_ADDR": address,
            "VAULT_TOKEN": TOKEN,
            "AWS_ENDPOINT_URL": address,
            "AWS_DEFAULT_REGION": "eu-central-1",
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_CONFIG_FILE": str(tmp_path / "none"),
            "NO_PROXY": "127.0.0.1",
        }.items():
            monkeypatch.setenv(name, value)
        yield


@pytest.mark.usefixtures("stores")
@pytest.mark.parametrize(
    "reference", ["vault:kv/team/gatelodge#master", "aws-sm:plain", "aws-sm:gatelodge/json#master"]
)
def test_a_secret_is_fetched_from_a_store(reference: str) -> None:
    settings = _load(AUTH__MASTER_SECRET=reference)
    assert _master(settings) == SECRET
    scheme = reference.partition(":")[0]
    assert redacted(settings)["auth"]["master_secret"] == f"[redacted, from {scheme}:]"  # type: ignore[index]


@pytest.mark.usefixtures("stores")
@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("vault:kv/team/other#master", "kv/team/other cannot be read from Vault: InvalidPath"),
        ("vault:kv/team/gatelodge#other", "the secret has no text under the key other"),
        ("vault:kv/team/gatelodge#number", "the secret has no text under the key number"),
        ("vault:kv/team/gatelodge", "is written vault:<mount>/<path>#<key>"),
        ("aws-sm:other", "other cannot be read from AWS: ResourceNotFoundException"),
        ("aws-sm:gatelodge/json#other", "the secret has no text under the key other"),
        ("aws-sm:plain#key", "the secret is no JSON object"),
        ("aws-sm:", "is written aws-sm:<secret-id>"),
    ],
)
def test_what_a_store_does_not_have_is_told_without_what_it_answered(reference: str, told: str) -> None:
    assert told in _fault(AUTH__MASTER_SECRET=reference)


@pytest.mark.usefixtures("stores")
def test_a_store_that_refuses_or_is_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_TOKEN", "another")
    assert "from Vault: Forbidden" in _fault(AUTH__MASTER_SECRET="vault:kv/team/gatelodge#master")
    monkeypatch.setenv("VAULT_ADDR", "http://127.0.0.1:1")
    assert "from Vault: ConnectionError" in _fault(AUTH__MASTER_SECRET="vault:kv/team/gatelodge#master")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert "from AWS: EndpointConnectionError" in _fault(AUTH__MASTER_SECRET="aws-sm:plain")


@pytest.mark.parametrize(
    ("module", "reference", "extra"),
    [("hvac", "vault:kv/a#b", "gatelodge[vault]"), ("boto3", "aws-sm:a", "gatelodge[aws]")],
)
def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, module: str, reference: str, extra: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert f"install {extra}" in _fault(AUTH__MASTER_SECRET=reference)
