"""The page of settings is the tree's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from service.settings import page
from service.settings.keys import known, settable

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).parents[2]


def test_the_page_in_the_repository_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert page.main(["--check"]) == 0, "run python -m service.settings.page"


def test_a_stale_page_is_told_and_then_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    target = tmp_path / page.PAGE
    target.write_text(f"# Mine\n{page.BEGIN}old\n{page.END}after\n")
    assert page.main(["--check"]) == 1
    assert page.main([]) == 0
    assert page.main(["--check"]) == 0
    assert target.read_text().startswith("# Mine\n")
    assert target.read_text().endswith("after\n")


def test_every_setting_has_a_row_and_a_description() -> None:
    tables = page.tables()
    for key in settable():
        assert f"`{key.variable}`" in tables
    assert all(field.description for field in known().values())


def test_the_example_names_only_settings_that_exist() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    named = {line.removeprefix("# ").partition("=")[0] for line in lines if line.startswith("# APP_") and "=" in line}
    assert named
    assert named <= {key.variable for key in settable()}
