"""Write the alert rules as the Prometheus operator takes them: base/prometheusrule.yaml. ``--check`` compares only."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
RULES = HERE.parent / "prometheus" / "rules" / "gatelodge.yml"
WRITTEN = HERE / "base" / "prometheusrule.yaml"

HEAD = """\
# Written by `make deploy-files` from deploy/prometheus/rules/gatelodge.yml, for the Prometheus operator.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: gatelodge
spec:
"""


def wrapped(rules: str) -> str:
    """Return the manifest around the rules' own text, its comments left out."""
    lines = (line for line in rules.splitlines() if not line.lstrip().startswith("#"))
    return HEAD + "".join(f"  {line}\n" if line else "\n" for line in lines)


def main(arguments: list[str]) -> int:
    """Write the file; with ``--check`` return 1 where it is not what the rules give."""
    text = wrapped(RULES.read_text(encoding="utf-8"))
    if arguments == ["--check"]:
        if WRITTEN.read_text(encoding="utf-8") == text:
            return 0
        sys.stderr.write(f"{WRITTEN} is not what the rules give: run make deploy-files and commit\n")
        return 1
    WRITTEN.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
