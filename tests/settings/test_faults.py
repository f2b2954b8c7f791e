"""What is refused, how it is told, and that secrets are not told at all."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.settings import Database, Settings, SettingsError, load, redacted

NOWHERE = Path("/nonexistent/.env")
SECRET = "hunter2-hunter2"
PRODUCTION = {
    "APP_ENV": "production",
    "APP_DATABASE__URL": "postgresql://u:p@db/x",
    "APP_AUTH__MASTER_SECRET": "0123456789abcdef0123456789abcdef",
    "APP_SERVER__HOST": "127.0.0.1",
}


def _message(**variables: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(variables, dotenv=NOWHERE)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return str(caught.value)


def test_one_message_lists_every_fault_of_every_kind() -> None:
    message = _message(
        APP_ENV="production",
        APP_SERVER__PORT="70000",
        APP_SERVER__PROT="1",
        APP_LOG__LEVEL="loud",
        APP_LOG__LEVELS='{"a":"loud"}',
        APP_TRACING__SAMPLE_RATIO="nan",
        APP_DATABASE__POOL_MIN_SIZE="30",
        APP_AUTH__ARGON2__MEMORY_KIB="1024",
    )
    assert message.startswith("the settings have 10 faults:\n")
    for part in (
        "unknown setting APP_SERVER__PROT: did you mean server.port (APP_SERVER__PORT)? [the environment]",
        "server.port (APP_SERVER__PORT): should be less than or equal to 65535 [the environment]",
        "log.level (APP_LOG__LEVEL): should be 'DEBUG'",
        "log.levels (APP_LOG__LEVELS): should be",
        "tracing.sample_ratio (APP_TRACING__SAMPLE_RATIO): should be a finite number",
        "database.pool_min_size (APP_DATABASE__POOL_MIN_SIZE): should not be more than",
        "auth.argon2.memory_kib (APP_AUTH__ARGON2__MEMORY_KIB): too cheap",
        "database.url (APP_DATABASE__URL): required in production",
        "auth.master_secret (APP_AUTH__MASTER_SECRET): required in production",
        "server.insecure (APP_SERVER__INSECURE): plaintext on an address",
    ):
        assert part in message, part


def test_no_fault_shows_a_value() -> None:
    message = _message(
        APP_DATABASE__URL=SECRET,
        APP_AUTH__MASTER_SECRET=SECRET,
        APP_AUTH__PASSWORD_PEPPER=SECRET,
        APP_SERVER__PORT=SECRET,
        APP_LOG__LEVELS=SECRET,
        APP_AUTH__PEPPER=SECRET,
        APP_TRACING__OTLP_ENDPOINT=f"http://u:{SECRET}@collector:4317",
    )
    assert message.startswith("the settings have 7 faults:\n")
    assert SECRET not in message


def test_no_traceback_of_a_refusal_shows_a_value() -> None:
    try:
        load({"APP_DATABASE__URL": SECRET, "APP_SERVER__PORT": SECRET}, dotenv=NOWHERE)
    except SettingsError as error:
        text = "".join(traceback.format_exception(error))
        assert SECRET not in text
        assert "ValidationError" not in text


def test_secrets_do_not_print() -> None:
    settings = load(
        {
            "APP_DATABASE__URL": f"postgresql://keeper:{SECRET}@db:5432/users?sslpassword={SECRET}",
            "APP_AUTH__MASTER_SECRET": SECRET * 3,
            "APP_AUTH__PASSWORD_PEPPER": SECRET * 3,
        },
        dotenv=NOWHERE,
    )
    for text in (
        repr(settings),
        str(settings),
        f"{settings.auth}",
        str(settings.model_dump()),
        str(redacted(settings)),
    ):
        assert SECRET not in text
    assert SECRET not in settings.model_dump_json()


def test_redacted_settings_show_all_of_a_database_url_but_its_password() -> None:
    settings = load({"APP_DATABASE__URL": f"postgresql://keeper:{SECRET}@db:5432/users"}, dotenv=NOWHERE)
    shown = redacted(settings)
    assert shown["database"]["url"] == "postgresql://keeper:[redacted]@db:5432/users"  # type: ignore[index]
    assert shown["auth"]["master_secret"] is None  # type: ignore[index]
    assert shown["server"]["port"] == 50051  # type: ignore[index]


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:p@db/x",
        "postgresql://u:pa@ss@db/x",
        "postgresql://u:pa/ss@db/x",
        "postgresql://u:pa#ss@db/x",
        "postgresql://u:p@db/x\n",
        "postgresql://u:pa%zzss@db/x",
        "postgresql://u:pass%@db/x",
        "host=db password=x",
    ],
)
def test_a_database_url_that_libpq_would_cut_elsewhere_is_refused(url: str) -> None:
    assert "percent-encoded" in _message(APP_DATABASE__URL=url)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://db/x",
        "postgres://u@db",
        "postgresql://u:p%40ss@a:1,b:2/x?target_session_attrs=primary",
        "postgresql://u:p@[::1]:5432/x",
        "postgresql:///x?host=/run/postgresql",
    ],
)
def test_a_database_url_of_any_usual_form_is_taken(url: str) -> None:
    settings = load({"APP_DATABASE__URL": url}, dotenv=NOWHERE)
    assert settings.database.url
    assert settings.database.url.get_secret_value() == url


def test_production_starts_with_all_it_needs() -> None:
    loaded = load(PRODUCTION, dotenv=NOWHERE)
    assert loaded.production
    assert loaded.auth.argon2.hash_priority == "idle"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"APP_DATABASE__URL": ""}, "database.url"),
        ({"APP_AUTH__MASTER_SECRET": ""}, "auth.master_secret"),
        ({"APP_AUTH__MASTER_SECRET": "a" * 40}, "auth.master_secret"),
        ({"APP_AUTH__PASSWORD_PEPPER": "changechange" * 3}, "auth.password_pepper"),
        ({"APP_SERVER__HOST": "0.0.0.0"}, "server.insecure"),
        ({"APP_SERVER__HOST": "gatelodge.internal"}, "server.insecure"),
        ({"APP_AUTH__ARGON2__TIME_COST": "1"}, "auth.argon2.memory_kib"),
        ({"APP_AUTH__ARGON2__MEMORY_KIB": "4096", "APP_AUTH__ARGON2__TIME_COST": "9"}, "auth.argon2.memory_kib"),
    ],
)
def test_production_refuses_development_defaults(change: dict[str, str], fault: str) -> None:
    message = _message(**(PRODUCTION | change))
    assert message.startswith(f"the settings have 1 fault:\n  - {fault} (")


@pytest.mark.parametrize(
    "change",
    [
        {"APP_SERVER__HOST": "0.0.0.0", "APP_SERVER__INSECURE": "true"},
        {"APP_SERVER__HOST": "0.0.0.0", "APP_SERVER__TLS__CERT_FILE": "a", "APP_SERVER__TLS__KEY_FILE": "b"},
        {"APP_SERVER__HOST": "0.0.0.0", "APP_SERVER__UNIX_SOCKET": "/run/gatelodge.sock"},
        {"APP_SERVER__HOST": "::1"},
        {"APP_SERVER__HOST": "localhost"},
        {"APP_AUTH__ARGON2__MEMORY_KIB": "47104", "APP_AUTH__ARGON2__TIME_COST": "1"},
    ],
)
def test_production_takes_what_is_said_on_purpose(change: dict[str, str]) -> None:
    assert load(PRODUCTION | change, dotenv=NOWHERE).production


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"APP_SERVER__MAX_CONNECTION_AGE_GRACE_SECONDS": "10"}, "max_connection_age_grace_seconds"),
        ({"APP_SERVER__HOST": "0.0.0.0"}, "server.insecure"),
        ({"APP_AUTH__ARGON2__TIME_COST": "1"}, "auth.argon2"),
    ],
)
def test_a_forgotten_environment_opens_nothing_to_others(change: dict[str, str], fault: str) -> None:
    assert fault in _message(**change)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"CERT_FILE": "a"}, "server.tls.key_file"),
        ({"KEY_FILE": "b"}, "server.tls.cert_file"),
        ({"CERT_FILE": "a", "KEY_FILE": "b", "CLIENT_AUTH": "required"}, "server.tls.client_auth"),
        ({"CLIENT_CA_FILE": "c", "CLIENT_AUTH": "required"}, "server.tls.client_auth"),
        ({"CERT_FILE": "a", "KEY_FILE": "b", "CLIENT_CA_FILE": "c"}, "server.tls.client_ca_file"),
        ({"CERT_FILE": "a", "KEY_FILE": "b", "SERVICE_IDENTITIES": '{"x":[]}'}, "server.tls.service_identities"),
    ],
)
def test_tls_settings_that_do_not_fit_together_are_refused(change: dict[str, str], fault: str) -> None:
    message = _message(**{f"APP_SERVER__TLS__{name}": value for name, value in change.items()})
    assert message.startswith(f"the settings have 1 fault:\n  - {fault} (")


def test_workers_cannot_share_a_unix_socket() -> None:
    message = _message(APP_SERVER__WORKERS="2", APP_SERVER__UNIX_SOCKET="/run/gatelodge.sock")
    assert message.startswith("the settings have 1 fault:\n  - server.workers (")


def test_the_tree_cannot_be_changed_and_knows_no_other_keys() -> None:
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.server.port = 1
    with pytest.raises(ValidationError) as caught:
        Database.model_validate({"urk": SECRET})
    assert SECRET not in str(caught.value)


def test_settings_are_read_from_the_process_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_ENV", "test")
    monkeypatch.setenv("APP_AUTH__ISSUER", "https://gate.example")
    assert load().auth.issuer == "https://gate.example"


def test_events_must_be_kept_for_as_long_as_a_revocation_matters() -> None:
    kept = {"APP_EVENTS__RETENTION_DAYS": str((900 + 660) / 86_400), "APP_ENV": "test"}
    assert "events.retention_days (APP_EVENTS__RETENTION_DAYS): should be longer" in _message(**kept)
    longer = load(kept | {"APP_EVENTS__RETENTION_DAYS": str((900 + 661) / 86_400)}, dotenv=NOWHERE)
    assert longer.auth.revocation_window_seconds == 900 + 660
