"""What is wrong with the files in this folder, as far as schemas tell: prints it and exits 1. ``make deploy-check``.

- the kustomizations of deploy/kubernetes, rendered by kubectl's own kustomize, against Kubernetes' schemas, strictly,
  and the Prometheus operator's for its kinds
- deploy/compose/compose.yaml and tls.yaml against the Compose Specification
- the dashboard: panels apart from each other, every query PromQL
- the alerts: each with a runbook that exists, a test that shows it firing and one that shows it quiet
"""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import kubernetes_validate
import promql_parser
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
KUBERNETES = "1.37"
KUSTOMIZATIONS = ("base", "overlays/production", "overlays/production-tls")
OPERATORS_KINDS = {"ServiceMonitor", "PrometheusRule"}
COMPOSE = HERE / "compose" / "compose.yaml"
COMPOSE_TLS = HERE / "compose" / "tls.yaml"
DASHBOARD = HERE / "grafana" / "dashboards" / "gatelodge.json"
RULES = HERE / "prometheus" / "rules" / "gatelodge.yml"
RULE_TESTS = HERE / "prometheus" / "tests"
VARIABLES = {"$job": ".*", "$instance": ".*", "$__rate_interval": "1m"}
COLUMNS = 24


def rendered(kustomization: str) -> list[dict[str, Any]]:
    """Return the manifests that kustomize makes of a folder of deploy/kubernetes."""
    kubectl = Path(sys.executable).with_name("kubectl")
    command = [str(kubectl), "kustomize", str(HERE / "kubernetes" / kustomization)]
    return list(yaml.safe_load_all(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def manifest_faults(manifest: dict[str, Any]) -> Iterator[str]:
    """Yield what the schema of its kind says against a manifest."""
    kind = manifest["kind"]
    try:
        if kind in OPERATORS_KINDS:
            schema = json.loads((HERE / "kubernetes" / "schema" / f"{kind.lower()}.json").read_text(encoding="utf-8"))
            jsonschema.validate(manifest, schema)
        else:
            kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except (jsonschema.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        yield f"{kind} {manifest['metadata']['name']}: {error.message} {list(getattr(error, 'path', []))}"


def kubernetes_faults() -> Iterator[str]:
    """Yield what is wrong with the rendered manifests."""
    for kustomization in KUSTOMIZATIONS:
        for manifest in rendered(kustomization):
            yield from (f"kubernetes/{kustomization}: {fault}" for fault in manifest_faults(manifest))


def compose_faults(text: str) -> Iterator[str]:
    """Yield what the Compose Specification says against a Compose file."""
    schema = json.loads((HERE / "compose" / "schema" / "compose-spec.json").read_text(encoding="utf-8"))
    for error in jsonschema.Draft7Validator(schema).iter_errors(yaml.safe_load(text)):
        yield f"{COMPOSE.name}: {error.message} {list(error.path)}"


def without_variables(expression: str) -> str:
    """Return a panel's query as Prometheus gets it."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


def dashboard_queries() -> Iterator[str]:
    """Yield the queries of the dashboard's panels."""
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        yield from (without_variables(target["expr"]) for target in panel.get("targets", ()))


def dashboard_faults(dashboard: dict[str, Any]) -> Iterator[str]:
    """Yield panels that share an id or a place, or that Prometheus could not answer."""
    ids: set[int] = set()
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard["panels"]:
        title, at = panel["title"], panel["gridPos"]
        if panel["id"] in ids:
            yield f"dashboard: {title} has another panel's id"
        ids.add(panel["id"])
        if at["x"] + at["w"] > COLUMNS:
            yield f"dashboard: {title} is off the grid"
        cells = [(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])]
        yield from {f"dashboard: {title} lies on {taken[cell]}" for cell in cells if cell in taken}
        taken |= dict.fromkeys(cells, title)
        if panel["type"] != "row" and not panel["description"]:
            yield f"dashboard: {title} does not say what it shows"
        for target in panel.get("targets", ()):
            yield from (f"dashboard: {title}: {fault}" for fault in query_faults(without_variables(target["expr"])))


def query_faults(expression: str) -> Iterator[str]:
    """Yield why `expression` is not PromQL."""
    try:
        promql_parser.parse(expression)
    except ValueError as error:
        yield str(error)


def rules() -> list[dict[str, Any]]:
    """Return the recording and alerting rules."""
    return [rule for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]


def alert_faults() -> Iterator[str]:
    """Yield alerts without a runbook, or without a test that shows them firing and one that shows them quiet."""
    tests = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(RULE_TESTS.glob("*.test.yml"))]
    shown = {
        (test["alertname"], bool(test["exp_alerts"]))
        for file in tests
        for case in file["tests"]
        for test in case["alert_rule_test"]
    }
    for rule in rules():
        name = rule.get("alert")
        if name is None:
            continue
        page = HERE.parent / rule["annotations"]["runbook_url"]
        if not page.is_file():
            yield f"{name}: there is no {page}"
        elif name not in page.read_text(encoding="utf-8"):
            yield f"{name}: {page} does not name it"
        if rule["labels"]["severity"] not in {"page", "ticket"}:
            yield f"{name}: its severity is neither page nor ticket"
        yield from (
            f"{name}: no test shows it {'firing' if firing else 'quiet'}"
            for firing in (True, False)
            if (name, firing) not in shown
        )


def main() -> int:
    """Print what is wrong; return 1 if anything is."""
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    faults = list(
        chain(
            kubernetes_faults(),
            compose_faults(COMPOSE.read_text(encoding="utf-8")),
            compose_faults(COMPOSE_TLS.read_text(encoding="utf-8")),
            dashboard_faults(dashboard),
            alert_faults(),
        )
    )
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
