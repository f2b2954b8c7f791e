"""Bake the commit into the wheel, so that an installed service knows which build it is."""

import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BakeCommit(BuildHookInterface):  # type: ignore[type-arg]  # generic in the stub only
    """Writes ``service/COMMIT`` into the wheel when it is built from a checkout."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the file; an editable install reads the checkout instead."""
        if version == "editable":
            return
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=self.root, capture_output=True, text=True, check=False
        )
        if commit.returncode == 0:
            baked = Path(tempfile.mkdtemp()) / "COMMIT"
            baked.write_text(commit.stdout)
            build_data["force_include"][str(baked)] = "service/COMMIT"
