"""Pages that list what the code has miss nothing of it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_index_of_decisions_has_every_page() -> None:
    folder = ROOT / "docs" / "decisions"
    pages = {page.name for page in folder.glob("*.md")} - {"README.md"}
    assert set(re.findall(r"\]\((\S+\.md)\)", (folder / "README.md").read_text())) == pages


def test_the_page_of_dependencies_has_every_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = [
        project["project"]["dependencies"],
        *project["project"]["optional-dependencies"].values(),
        *project["dependency-groups"].values(),
    ]
    packages = {re.split(r"[\[=;]", wanted)[0] for group in groups for wanted in group} - {"gatelodge"}
    named = set(re.findall(r"[\w-]+", (ROOT / "docs" / "dependencies.md").read_text()))
    assert packages - named == set()


def test_the_page_for_operators_has_every_background_job() -> None:
    code = "".join(path.read_text() for path in (ROOT / "src" / "service" / "wiring").glob("*.py"))
    jobs = set(re.findall(r'Job\("([\w.]+)"', code))
    assert {"keys.rotate", "users.purge"} <= jobs
    assert jobs <= set(re.findall(r"^\| `([\w.]+)` \|", (ROOT / "docs" / "operating.md").read_text(), re.MULTILINE))


def test_the_architecture_names_every_package_of_the_server() -> None:
    packages = {path.parent.name for path in (ROOT / "src" / "service").glob("*/__init__.py")}
    rooms = (ROOT / "ARCHITECTURE.md").read_text().split("## Rooms")[1].split("## Data")[0]
    assert {name for name in packages if f"`{name}/`" not in rooms} == set()
