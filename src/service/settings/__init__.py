"""Settings: one typed, frozen tree, loaded once. The only room that reads the environment.

`tree` says what there is, `sources` where values come from, `rules` what production refuses, `loading` puts
them together. Depends on no other room.
``docs/configuration.md`` is made from the tree by ``python -m service.settings.page``.
"""

from service.settings.faults import Fault, SettingsError
from service.settings.loading import load, load_server
from service.settings.processes import environment as worker_environment
from service.settings.processes import quiet_grpc
from service.settings.redaction import redacted
from service.settings.tree import Argon2, Auth, Database, Events, Log, Metrics, Ops, Server, Settings, Tls, Tracing

__all__ = [
    "Argon2",
    "Auth",
    "Database",
    "Events",
    "Fault",
    "Log",
    "Metrics",
    "Ops",
    "Server",
    "Settings",
    "SettingsError",
    "Tls",
    "Tracing",
    "load",
    "load_server",
    "quiet_grpc",
    "redacted",
    "worker_environment",
]
