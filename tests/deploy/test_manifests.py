"""What the deployment's files promise each other and the service: settings, names, times, defences."""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from service.settings import load
from service.settings.keys import RESERVED, settable, variables
from service.settings.tree import Ops, Server

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parents[2]
SPARE_SECONDS = 5
"""For the last push of telemetry, and the end of the process."""

Manifests = dict[tuple[str, str], dict[str, Any]]


def _pod(manifests: Manifests, kind: str = "Deployment", name: str = "gatelodge") -> dict[str, Any]:
    pod: dict[str, Any] = manifests[kind, name]["spec"]["template"]["spec"]
    return pod


def _container(manifests: Manifests) -> dict[str, Any]:
    (container,) = _pod(manifests)["containers"]
    found: dict[str, Any] = container
    return found


def _settings(environ: dict[str, str], folder: Path) -> Any:
    """Load the settings as the process would, its secrets in `folder`."""
    (folder / "database__url").write_text("postgresql://gatelodge:secret@postgres/gatelodge")
    (folder / "auth__master_secret").write_text("a master secret that is long enough to be one")
    return load(environ | {"APP_SECRETS_DIR": str(folder)})


def test_the_settings_in_the_manifests_start_a_production(manifests: Manifests, tmp_path: Path) -> None:
    settings = _settings(manifests["ConfigMap", "gatelodge-settings"]["data"], tmp_path)
    assert settings.production
    assert settings.server.port == _container(manifests)["ports"][0]["containerPort"]
    assert settings.ops.port == _container(manifests)["ports"][1]["containerPort"]


def test_production_with_tls_speaks_no_plaintext_and_mounts_what_its_settings_name(
    tls_manifests: Manifests, manifests: Manifests, tmp_path: Path
) -> None:
    settings = _settings(tls_manifests["ConfigMap", "gatelodge-settings"]["data"], tmp_path)
    assert (settings.production, settings.server.insecure) == (True, False)
    (at,) = [mount["mountPath"] for mount in _container(tls_manifests)["volumeMounts"] if mount["name"] == "tls"]
    assert settings.server.tls.cert_file == f"{at}/tls.crt"
    assert settings.server.tls.key_file == f"{at}/tls.key"
    (volume,) = [volume for volume in _pod(tls_manifests)["volumes"] if volume["name"] == "tls"]
    assert volume["secret"]["secretName"] == "gatelodge-tls"
    probes = [_container(tls_manifests)[f"{name}Probe"] for name in ("startup", "liveness", "readiness")]
    assert [probe["httpGet"] for probe in probes] == [
        {"path": path, "port": "ops"} for path in ("/healthz", "/healthz", "/readyz")
    ]
    assert not any("grpc" in probe for probe in probes), "Kubernetes' gRPC probes speak no TLS"
    # All else is production's.
    assert tls_manifests.keys() == manifests.keys()
    job = "Job", "gatelodge-migrate"
    assert tls_manifests[job]["spec"]["template"]["spec"]["volumes"] == _pod(manifests, *job)["volumes"]


def test_the_settings_in_the_compose_file_start_a_production(compose: dict[str, Any], tmp_path: Path) -> None:
    service = compose["services"]["gatelodge"]
    environ = service["environment"] | {"APP_AUTH__REGISTRATION": "closed"}
    assert set(environ) <= set(variables()) | RESERVED
    assert _settings(environ, tmp_path).production
    assert set(service["secrets"]) <= {key.file for key in settable()}


def test_compose_with_tls_speaks_no_plaintext(compose: dict[str, Any], check: ModuleType, tmp_path: Path) -> None:
    more = yaml.safe_load(check.COMPOSE_TLS.read_text())["services"]
    assert more.keys() == {"gatelodge"} <= compose["services"].keys()
    environ = compose["services"]["gatelodge"]["environment"] | more["gatelodge"]["environment"]
    server = _settings(environ | {"APP_AUTH__REGISTRATION": "closed"}, tmp_path).server
    (at,) = [mount.split(":")[1] for mount in more["gatelodge"]["volumes"]]
    assert (server.insecure, server.tls.cert_file, server.tls.key_file) == (False, f"{at}/tls.crt", f"{at}/tls.key")
    assert not at.startswith(environ["APP_SECRETS_DIR"]), "there every file is a setting"


def test_the_drain_fits_into_the_time_that_is_given(manifests: Manifests, compose: dict[str, Any]) -> None:
    server = Server()
    drain = server.drain_linger_seconds + server.drain_grace_seconds
    before = _container(manifests)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert _pod(manifests)["terminationGracePeriodSeconds"] >= before + drain + SPARE_SECONDS
    assert float(compose["services"]["gatelodge"]["stop_grace_period"].rstrip("s")) >= drain + SPARE_SECONDS


def test_a_pod_is_not_killed_while_it_waits_for_its_database(manifests: Manifests, tmp_path: Path) -> None:
    settings = _settings(manifests["ConfigMap", "gatelodge-settings"]["data"], tmp_path)
    probe = _container(manifests)["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] > settings.database.connect_patience_seconds


def test_probes_ask_for_the_names_that_health_knows(manifests: Manifests) -> None:
    container = _container(manifests)
    asked = {name: container[f"{name}Probe"]["grpc"] for name in ("startup", "liveness", "readiness")}
    assert {name: probe["service"] for name, probe in asked.items()} == {
        "startup": "liveness",
        "liveness": "liveness",
        "readiness": "readiness",
    }
    assert {probe["port"] for probe in asked.values()} == {Server().port}


@pytest.mark.parametrize(("kind", "name"), [("Deployment", "gatelodge"), ("Job", "gatelodge-migrate")])
def test_pods_may_do_nothing_but_their_work(manifests: Manifests, kind: str, name: str) -> None:
    pod = _pod(manifests, kind, name)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    for container in pod["containers"]:
        held = container["securityContext"]
        assert held["readOnlyRootFilesystem"] is True
        assert held["allowPrivilegeEscalation"] is False
        assert held["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]
        assert "env" not in container, "secrets are files"


def test_services_and_budgets_select_the_servers_and_no_migration(manifests: Manifests) -> None:
    server = manifests["Deployment", "gatelodge"]["spec"]["template"]["metadata"]["labels"]
    migration = manifests["Job", "gatelodge-migrate"]["spec"]["template"]["metadata"]["labels"]
    selectors = [manifests["Service", name]["spec"]["selector"] for name in ("gatelodge", "gatelodge-ops")]
    selectors.append(manifests["PodDisruptionBudget", "gatelodge"]["spec"]["selector"]["matchLabels"])
    for selector in selectors:
        assert selector.items() <= server.items()
        assert not selector.items() <= migration.items()
    policy = manifests["NetworkPolicy", "gatelodge"]["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= migration.items()
    assert manifests["Service", "gatelodge"]["spec"]["clusterIP"] == "None"


def test_the_network_lets_in_calls_and_metrics_only_and_out_what_is_needed(manifests: Manifests) -> None:
    policy = manifests["NetworkPolicy", "gatelodge"]["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    ports = {way: {port["port"] for rule in policy[way] for port in rule["ports"]} for way in ("ingress", "egress")}
    assert ports == {"ingress": {Server().port, Ops().port}, "egress": {53, 5432, 4317}}
    assert all(rule.get("from") for rule in policy["ingress"])
    assert all(rule.get("to") for rule in policy["egress"])


def test_the_service_monitor_finds_the_ops_service(manifests: Manifests) -> None:
    labels = manifests["Service", "gatelodge-ops"]["metadata"]["labels"]
    monitor = manifests["ServiceMonitor", "gatelodge"]["spec"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    assert labels[monitor["jobLabel"]] == "gatelodge"
    assert monitor["endpoints"][0]["port"] in {
        port["name"] for port in manifests["Service", "gatelodge-ops"]["spec"]["ports"]
    }


def test_the_compose_file_has_no_password_and_opens_nothing_to_other_hosts(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for variable, value in service.get("environment", {}).items():
            secret = any(word in variable for word in ("PASSWORD", "SECRET", "URL"))
            assert not secret or str(value).startswith("/run/secrets"), f"{name}: {variable}"
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
    assert all(secret["file"].startswith("secrets/") for secret in compose["secrets"].values())
    assert compose["services"]["gatelodge"]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"


def test_secrets_are_drawn_once_and_private(compose: dict[str, Any], tmp_path: Path) -> None:
    script = tmp_path / "make-secrets.sh"
    script.write_bytes((ROOT / "deploy" / "compose" / "make-secrets.sh").read_bytes())
    script.chmod(0o755)
    subprocess.run([script], check=True, capture_output=True)
    drawn = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert {f"secrets/{name}" for name in drawn} == {secret["file"] for secret in compose["secrets"].values()}
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    assert len({*drawn.values()}) == 4
    assert len(drawn["auth__master_secret"]) == 48
    assert f":{drawn['postgres_password']}@postgres:" in drawn["database__url"]
    again = subprocess.run([script], check=True, capture_output=True, text=True).stdout
    assert again.count("kept") == 4
    assert {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()} == drawn


def test_the_check_finds_what_the_schemas_forbid(check: ModuleType, manifests: Manifests) -> None:
    for kind, name, wrong in (
        ("Deployment", "gatelodge", {"spec": {"template": {"spec": {"containers": [{"name": "x", "imagee": "y"}]}}}}),
        ("ServiceMonitor", "gatelodge", {"spec": {"selector": {}, "endpoints": [{"portt": "ops"}]}}),
        ("PrometheusRule", "gatelodge", {"spec": {"groups": [{"name": "x", "rules": [{"alert": "y"}]}]}}),
    ):
        manifest = copy.deepcopy(manifests[kind, name])
        assert not list(check.manifest_faults(manifest))
        assert list(check.manifest_faults(manifest | wrong)), kind
    text = (ROOT / "deploy" / "compose" / "compose.yaml").read_text()
    assert not list(check.compose_faults(text))
    assert list(check.compose_faults(text.replace("read_only: true", "readonly: true")))


def test_the_check_finds_panels_that_overlap_and_queries_that_are_none(check: ModuleType) -> None:
    dashboard = json.loads(check.DASHBOARD.read_text())
    assert not list(check.dashboard_faults(dashboard))
    moved, broken = copy.deepcopy(dashboard), copy.deepcopy(dashboard)
    moved["panels"][2]["gridPos"] = moved["panels"][1]["gridPos"]
    broken["panels"][1]["targets"][0]["expr"] = "sum(rate("
    assert any("lies on" in fault for fault in check.dashboard_faults(moved))
    assert list(check.dashboard_faults(broken))
