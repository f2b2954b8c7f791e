"""The deployment's files, read; and deploy/check.py, which is a script and no package."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tests.app.conftest import app, client, settings_for

from service.auth.argon2_bindings import lacking

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["app", "client", "settings_for"]

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "deploy" / "image"
HEADERS = Path(sysconfig.get_path("include"), "Python.h")
COMPILES = platform.machine() == "x86_64" and shutil.which("cc") is not None and HEADERS.is_file()
"""Whether the image's own build of argon2 can be made here."""
ARGON2 = "x86-64-v3" if COMPILES and not lacking() else "wheel"
"""What the image hashes with on this machine."""


@pytest.fixture(scope="session", name="tree")
def _tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image holds beside Python."""
    tree = tmp_path_factory.mktemp("image") / "gatelodge"
    ours = {"UV": str(Path(sys.executable).with_name("uv")), "COMMIT": "0123456789" * 4}
    ours["ARGON2_V3"] = "yes" if COMPILES else "no"
    subprocess.run([SCRIPTS / "build-tree.sh", tree, sys.executable], env=os.environ | ours, check=True)
    return tree


@pytest.fixture(scope="session", name="check")
def _check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("deploy_check", ROOT / "deploy" / "check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def manifests(check: ModuleType) -> dict[tuple[str, str], dict[str, Any]]:
    """Production's manifests as kustomize renders them, by kind and name without its hash."""
    return rendered(check, "overlays/production")


@pytest.fixture(scope="session")
def tls_manifests(check: ModuleType) -> dict[tuple[str, str], dict[str, Any]]:
    """The same where the service does TLS itself."""
    return rendered(check, "overlays/production-tls")


def rendered(check: ModuleType, kustomization: str) -> dict[tuple[str, str], dict[str, Any]]:
    found = {}
    for manifest in check.rendered(kustomization):
        name = manifest["metadata"]["name"]
        kind = manifest["kind"]
        found[kind, name.rpartition("-")[0] if kind == "ConfigMap" else name] = manifest
    return found


@pytest.fixture(scope="session")
def compose() -> dict[str, Any]:
    file: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose" / "compose.yaml").read_text(encoding="utf-8"))
    return file
