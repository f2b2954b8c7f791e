"""Runs ``gatelodge``, which looks for jobs that are due at once, not every few seconds."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from service import app
from service.cli import main
from service.jobs import Jobs

COMMAND = (sys.executable, "-m", "tests.app.eager")
ENVIRONMENT = {"PYTHONPATH": str(Path(__file__).parents[2])}

if __name__ == "__main__":
    vars(app)["Jobs"] = partial(Jobs, poll=0.1)
    sys.exit(main())
