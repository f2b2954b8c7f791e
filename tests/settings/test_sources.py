"""Every source of settings and their order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from service.settings import Fault, Settings, SettingsError, load, redacted

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(name="place")
def _place(tmp_path: Path) -> Path:
    for name in ("config", "secrets"):
        (tmp_path / name).mkdir()
    return tmp_path


def _load(place: Path, **variables: str) -> Settings:
    environ = {"APP_CONFIG_DIR": str(place / "config"), "APP_SECRETS_DIR": str(place / "secrets"), **variables}
    return load(environ, dotenv=place / ".env")


def _faults(place: Path, **variables: str) -> tuple[Fault, ...]:
    with pytest.raises(SettingsError) as caught:
        _load(place, **variables)
    return caught.value.faults


def test_each_source_wins_over_the_ones_before_it(place: Path) -> None:
    assert _load(place).server.port == 50051
    (place / "config/default.toml").write_text("[server]\nport = 1")
    assert _load(place).server.port == 1
    (place / "config/development.toml").write_text("[server]\nport = 2")
    assert _load(place).server.port == 2
    (place / ".env").write_text("APP_SERVER__PORT=3\n")
    assert _load(place).server.port == 3
    assert _load(place, APP_SERVER__PORT="4").server.port == 4
    (place / "secrets/server__port").write_text("5\n")
    assert _load(place, APP_SERVER__PORT="4").server.port == 5


def test_a_dotenv_file_is_read_in_development_only(place: Path) -> None:
    (place / ".env").write_text("APP_SERVER__PORT=3\nPOSTGRES_PASSWORD=other\n")
    assert _load(place).server.port == 3
    assert _load(place, APP_ENV="test").server.port == 50051


def test_a_dotenv_file_may_hold_json_without_quotes_around_it(place: Path) -> None:
    (place / ".env").write_text('APP_LOG__LEVELS={"gatelodge.access":"WARNING"}\n')
    assert _load(place).log.levels == {"gatelodge.access": "WARNING"}


def test_log_levels_are_merged_logger_by_logger(place: Path) -> None:
    (place / "config/default.toml").write_text('[log.levels]\ngrpc = "WARNING"\n"a.b" = "error"')
    levels = _load(place, APP_LOG__LEVELS='{"a.b":"debug"}').log.levels
    assert levels == {"grpc": "WARNING", "a.b": "DEBUG"}


def test_an_environment_of_any_name_may_have_a_file_and_is_held_to_productions_rules(place: Path) -> None:
    (place / "config/staging.toml").write_text("[server]\nport = 7")
    keys = {fault.key.dotted for fault in _faults(place, APP_ENV="staging") if fault.key}
    assert keys == {"database.url", "auth.master_secret"}


def test_a_mistyped_environment_is_refused_with_the_one_meant(place: Path) -> None:
    assert "did you mean production?" in str(_faults(place, APP_ENV="prodution")[0])
    assert "unknown environment ../x" in str(_faults(place, APP_ENV="../x")[0])


def test_an_empty_variable_leaves_its_setting_unset(place: Path) -> None:
    assert _load(place, APP_DATABASE__URL="", APP_ENV="").database.url is None


def test_kubernetes_links_and_both_spellings_of_a_secret_are_understood(place: Path) -> None:
    data = place / "secrets/..2026_01_01"
    data.mkdir()
    (data / "auth__master_secret").write_text("m" * 40 + "\n")
    (place / "secrets/..data").symlink_to(data)
    (place / "secrets/auth__master_secret").symlink_to(place / "secrets/..data/auth__master_secret")
    (place / "secrets/database").mkdir()
    (place / "secrets/database/url").write_text("postgresql://u:p@db/x\r\n")
    settings = _load(place)
    assert settings.auth.master_secret
    assert settings.auth.master_secret.get_secret_value() == "m" * 40
    assert settings.database.url
    assert settings.database.url.get_secret_value() == "postgresql://u:p@db/x"


def test_an_unknown_key_is_a_fault_in_every_source_and_the_nearest_is_named(place: Path) -> None:
    (place / "config/default.toml").write_text("[databse]\nurl = 'x'\n[server]\nprot = 1\n'server.port' = 2")
    (place / "config/development.toml").write_text("zzz = 1\n[auth.argon2]\nmemory = 1")
    (place / ".env").write_text("APP_SERVER__HOSTS=x\n")
    (place / "secrets/auth__mastersecret").write_text("hush")
    texts = [str(fault) for fault in _faults(place, APP_LOG__LEVLE="x", APP_database__url="x")]
    for name, meant in (
        ("databse", "APP_DATABASE__URL"),
        ("server.prot", "APP_SERVER__PORT"),
        ("auth.argon2.memory", "APP_AUTH__ARGON2__MEMORY_KIB"),
        ("APP_SERVER__HOSTS", "APP_SERVER__HOST"),
        ("APP_LOG__LEVLE", "APP_LOG__LEVEL"),
        ("APP_database__url", "APP_DATABASE__URL"),
        ("auth__mastersecret", "APP_AUTH__MASTER_SECRET"),
    ):
        assert any(f"unknown setting {name}: did you mean" in text and f"({meant})?" in text for text in texts), name
    assert any(text.startswith("unknown setting zzz: no setting has a name like it") for text in texts)
    assert len(texts) == 9


def test_the_environments_name_cannot_be_set_elsewhere(place: Path) -> None:
    (place / ".env").write_text("APP_ENV=production\n")
    (place / "config/default.toml").write_text("env = 'test'")
    assert [fault.text for fault in _faults(place)] == [
        "unknown setting env: no setting has a name like it",
        "APP_ENV is read from the environment alone",
    ]


def test_files_that_cannot_be_understood_are_faults_and_not_tracebacks(place: Path) -> None:
    (place / "config/default.toml").write_text("[server\n")
    (place / "config/development.toml").write_text("server = 1\nlog = []")
    (place / ".env").write_bytes(b"APP_SERVER__PORT=1\n= broken line\n")
    (place / "secrets/database__url").write_bytes(b"\xff\xfe")
    (place / "secrets/auth__master_secret").write_bytes(b"x" * 70_000)
    texts = [str(fault) for fault in _faults(place, APP_LOG__LEVELS="[]", APP_SERVER__PORT="x")]
    for part in (
        "not TOML",
        "server should be a table",
        "log should be a table",
        "line 2 is not",
        "not UTF-8",
        "larger than",
        "log.levels (APP_LOG__LEVELS): should be a valid dictionary",
        "server.port (APP_SERVER__PORT): should be a valid integer",
    ):
        assert any(part in text for text in texts), (part, texts)


def test_a_list_is_json_where_only_text_is_possible_and_its_secrets_do_not_show(place: Path) -> None:
    old, older = "o" * 40, "p" * 40
    settings = _load(place, APP_AUTH__PREVIOUS_MASTER_SECRETS=f'["{old}", "{older}"]')
    assert [secret.get_secret_value() for secret in settings.auth.previous_master_secrets] == [old, older]
    assert redacted(settings)["auth"]["previous_master_secrets"] == ["[redacted]"] * 2  # type: ignore[index]
    assert old not in repr(settings)
    (place / "secrets/auth__previous_master_secrets").write_text(f'["{older}"]\n')
    assert len(_load(place).auth.previous_master_secrets) == 1
    (place / "config/default.toml").write_text(f'[auth]\nprevious_master_secrets = ["{old}"]')
    (place / "secrets/auth__previous_master_secrets").unlink()
    assert len(_load(place).auth.previous_master_secrets) == 1
    for bad, text in (("hush", 'a JSON list, ["value"]'), ('["hush"]', "at least 32"), ("{}", "valid tuple")):
        (fault,) = _faults(place, APP_AUTH__PREVIOUS_MASTER_SECRETS=bad)
        assert text in str(fault)
        assert "hush" not in str(fault)


def test_directories_that_are_missing_are_faults(place: Path) -> None:
    missing = str(place / "missing")
    texts = [str(f) for f in _faults(place, APP_CONFIG_DIR=missing, APP_SECRETS_DIR=missing)]
    assert [text.partition(" [")[0] for text in texts] == [
        "APP_CONFIG_DIR is no directory",
        "APP_SECRETS_DIR is no directory",
    ]


def test_the_files_shipped_are_sound_in_every_environment(tmp_path: Path) -> None:
    secrets = {
        "APP_DATABASE__URL": "postgresql://u:p@db/x",
        "APP_AUTH__MASTER_SECRET": "0123456789abcdef0123456789abcdef",
        "APP_SERVER__INSECURE": "true",
    }
    for env in ("development", "test", "production"):
        settings = load({"APP_ENV": env, **secrets}, dotenv=tmp_path / "none")
        assert settings.env == env
        assert settings.auth.registration == ("closed" if env == "production" else "open")
        assert settings.database.migrate_on_start is (env != "production")
