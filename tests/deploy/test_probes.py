"""The manifests' settings and probes put to a running service, in plaintext and with TLS of its own."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any

import pytest
from gatelodge.auth.v1 import tokens_pb2
from tests.app.client import Client
from tests.app.conftest import MASTER_SECRET, as_url
from tests.app.process import gatelodge, serving
from tests.app.scrape import fetch
from tests.certificates import Authority

from service.rpc import probe

if TYPE_CHECKING:
    from pathlib import Path

    from tests.app.process import Serving

Manifests = dict[tuple[str, str], dict[str, Any]]
PROBES = ("startup", "liveness", "readiness")


def environ(manifests: Manifests, url: str, folder: Path, **more: str) -> dict[str, str]:
    """Return the pod's environment with its mounts in `folder`, on free ports."""
    secrets, tls = folder / "secrets", folder / "tls"
    secrets.mkdir()
    (secrets / "database__url").write_text(as_url(url))
    (secrets / "auth__master_secret").write_text(MASTER_SECRET)
    settings = manifests["ConfigMap", "gatelodge-settings"]["data"]
    mounted = {name: value.replace("/run/tls", str(tls)) for name, value in settings.items()}
    ours = {"APP_SECRETS_DIR": str(secrets), "APP_SERVER__PORT": "0", "APP_OPS__PORT": "0"}
    return mounted | ours | {"APP_TRACING__SAMPLE_RATIO": "0"} | more


def container(manifests: Manifests) -> dict[str, Any]:
    (found,) = manifests["Deployment", "gatelodge"]["spec"]["template"]["spec"]["containers"]
    return dict(found)


async def asked(server: Serving, probes: dict[str, Any], name: str) -> bool:
    """Do what the kubelet does: gRPC in the clear, or a GET of the ops port."""
    of = probes[f"{name}Probe"]
    if "grpc" in of:
        local = f"127.0.0.1:{server.address.rpartition(':')[2]}"
        return await probe.check(local, of["grpc"]["service"], within=of["timeoutSeconds"]) == "SERVING"
    assert of["httpGet"]["port"] == "ops"
    local = f"127.0.0.1:{server.ops_address.rpartition(':')[2]}"
    return (await fetch(local, of["httpGet"]["path"]))[0] == 200


async def test_the_probes_of_production_are_answered(manifests: Manifests, url: str, tmp_path: Path) -> None:
    async with serving(environ(manifests, url, tmp_path)) as server, Client(server.address, url) as client:
        assert [await asked(server, container(manifests), name) for name in PROBES] == [True] * 3
        await client.tokens.GetJwks(tokens_pb2.GetJwksRequest())


@pytest.mark.faults
@pytest.mark.parametrize("workers", ["1", "2"])
async def test_the_probes_of_production_with_tls_are_answered_and_tell_of_the_drain(
    manifests: Manifests, tls_manifests: Manifests, url: str, tmp_path: Path, workers: str
) -> None:
    pair = Authority().issue(dns=("gatelodge.gatelodge.svc",))
    (tmp_path / "tls").mkdir()
    (tmp_path / "tls" / "tls.crt").write_bytes(pair.certificate)
    (tmp_path / "tls" / "tls.key").write_bytes(pair.key)
    env = environ(tls_manifests, url, tmp_path, APP_SERVER__WORKERS=workers)
    async with serving(env) as server:
        assert [await asked(server, container(tls_manifests), name) for name in PROBES] == [True] * 3
        port = server.address.rpartition(":")[2]
        status, out, _ = await gatelodge("health", environ={**env, "APP_SERVER__PORT": port})
        assert (status, out.split()[-1]) == (0, "SERVING")
        # The negative control: plaintext's probes would kill every pod.
        assert not any([await asked(server, container(manifests), name) for name in PROBES])
        server.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(1.4):  # the linger is 1.5 s
            while await asked(server, container(tls_manifests), "readiness"):
                await asyncio.sleep(0.05)
        assert await asked(server, container(tls_manifests), "liveness")
        assert await asyncio.wait_for(server.process.wait(), 15) == 0
