"""The deployment's files, read; and deploy/check.py, which is a script and no package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tests.app.conftest import app, client, settings_for

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["app", "client", "settings_for"]

ROOT = Path(__file__).parents[2]


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
