"""Prometheus's names in OpenTelemetry's spelling, for the ones that OpenTelemetry's semantic conventions define."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAMES = {
    "rpc_server_call_duration": "rpc.server.call.duration",
    "rpc_server_active_calls": "rpc.server.active_calls",
    "db_client_connection_count": "db.client.connection.count",
    "db_client_connection_max": "db.client.connection.max",
    "db_client_connection_idle_min": "db.client.connection.idle.min",
    "db_client_connection_pending_requests": "db.client.connection.pending_requests",
}

_ATTRIBUTES = {
    "rpc_method": "rpc.method",
    "rpc_response_status_code": "rpc.response.status_code",
    "state": "db.client.connection.state",
}

_UNITS = {"_seconds": "s", "_bytes": "By"}


def name_and_unit(name: str) -> tuple[str, str]:
    """Return a metric's name without its unit, and the unit as UCUM spells it; ``1`` where there is none."""
    suffix = next((suffix for suffix in _UNITS if name.endswith(suffix)), "")
    bare = name.removesuffix(suffix)
    return _NAMES.get(bare, bare), _UNITS.get(suffix, "1")


def attributes(labels: Mapping[str, str]) -> dict[str, str]:
    """Return labels as attributes."""
    return {_ATTRIBUTES.get(name, name): value for name, value in labels.items()}
