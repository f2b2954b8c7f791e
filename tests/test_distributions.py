"""What is shipped: the stubs without the server's dependencies, the server with its migrations and configuration."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from importlib.metadata import requires
from pathlib import Path

ROOT = Path(__file__).parents[1]

IMPORT_ALL = """
import importlib, json, pathlib, sys
root = pathlib.Path(sys.argv[1])
for path in sorted(root.rglob("*_pb2*.py")):
    importlib.import_module(".".join(path.relative_to(root).with_suffix("").parts))
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules if not name.startswith("_")})))
"""

SERVER_ONLY = {"service", "psycopg", "pydantic", "argon2", "jwt", "opentelemetry", "structlog", "protovalidate"}


def test_the_stubs_import_without_the_servers_dependencies() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, str(ROOT / "generated")], capture_output=True, text=True, check=True
    )
    imported = set(json.loads(done.stdout))
    assert {"gatelodge", "buf", "grpc"} <= imported
    assert not imported & SERVER_ONLY


def test_the_stubs_distribution_asks_for_no_more_than_grpc_and_protobuf() -> None:
    names = {requirement.split(">")[0] for requirement in requires("gatelodge-api") or ()}
    assert names == {"grpcio", "protobuf", "googleapis-common-protos"}


def test_the_wheel_carries_migrations_configuration_and_commit(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("gatelodge-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert {f"service/migrations/{path.name}" for path in (ROOT / "migrations").glob("*.sql")} <= names
        assert {f"service/config/{path.name}" for path in (ROOT / "config").glob("*.toml")} <= names
        assert "service/py.typed" in names
        if (ROOT / ".git").exists():
            assert len(archive.read("service/COMMIT").strip()) == 40
