"""The settings tree: every setting with its type, bounds, default and the text of ``docs/configuration.md``.

The defaults are those of production: what development relaxes stands in ``config/development.toml``, so that a setting
nobody thought of is the strict one. Every setting has a default; what production cannot do without is in `rules`.
"""

import re
from collections.abc import Mapping
from ipaddress import ip_network
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, SecretStr

RELAXED = ("development", "test")
"""The environments in which development defaults are allowed. Every other one is a production."""

REVOCATION_MARGIN_SECONDS = 660
"""Ten minutes, and the most leeway a token's times may have."""
UNIX_PEERS = "unix"
"""What stands for every peer on a Unix socket."""

# User and password hold no reserved character unescaped: libpq would cut the URL elsewhere and print half a password.
_POSTGRES_URL = re.compile(
    r"postgres(ql)?://([^:@/?#\s]*(:[^@/?#\s]*)?@)?[^@/?#\s]*(/[^@?#\s]*)?(\?[^#\s]*)?",
)

_LONE_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})")  # libpq's complaint about one quotes the password


def _postgres_url(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not _POSTGRES_URL.fullmatch(text) or _LONE_PERCENT.search(text):
        raise ValueError(
            "should be postgresql://user:password@host:port/name, with : / ? # @ in user and password percent-encoded",
        )
    return value


def _proxy(value: str) -> str:
    if value != UNIX_PEERS:
        try:
            ip_network(value)
        except ValueError as error:
            raise ValueError("should be networks like 10.0.0.0/8, addresses, or unix") from error
    return value


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


PostgresUrl = Annotated[SecretStr, AfterValidator(_postgres_url)]
Host = Annotated[str, Field(pattern=r"^[A-Za-z0-9.:_-]+$")]
Port = Annotated[int, Field(ge=0, le=65535)]
Level = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)]
TrustedProxies = tuple[Annotated[str, AfterValidator(_proxy)], ...]
Endpoint = Annotated[str, Field(pattern=r"^https?://[^@/?#\s]+/?$")]


class Section(BaseModel):
    """A frozen group of settings that knows no other keys. Its errors never show what was put in."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)


class Tls(Section):
    """Certificates of the gRPC server. Files are PEM, read again when they change."""

    cert_file: str | None = Field(
        default=None, description="The server's certificate and those between it and the root. None: plaintext."
    )
    key_file: str | None = Field(default=None, description="The certificate's private key, not encrypted.")
    client_ca_file: str | None = Field(default=None, description="Whose client certificates are accepted.")
    client_auth: Literal["none", "required"] = Field(
        default="none", description="Whether clients are asked for a certificate; without one they cannot connect."
    )
    service_identities: dict[Annotated[str, Field(min_length=1)], list[str]] = Field(
        default_factory=dict,
        description="Services by the name in their verified certificate (URI, else DNS name, else common name) with "
        'their roles: `{"spiffe://corp/billing":["reader"]}`.',
    )


class Server(Section):
    """The gRPC server."""

    host: Host = Field(default="127.0.0.1", description="Address to listen on.")
    port: Port = Field(default=50051, description="Port to listen on; 0 takes a free one.")
    trusted_proxies: TrustedProxies = Field(
        default=(),
        description="Peers whose `x-forwarded-for` tells where a call comes from: networks and addresses, or `unix`: "
        '`["10.0.0.0/8"]`.',
    )
    unix_socket: Annotated[str, Field(pattern=r"^/\S{1,99}$")] | None = Field(
        default=None, description="Listen on this Unix socket, an absolute path, in place of host and port."
    )
    unix_socket_mode: Literal["0600", "0660", "0666"] = Field(
        default="0600", description="Who may connect to it: the owner, the group too, or everyone on this machine."
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=256,
        description="Processes that share the port. More than one: as many as there are cores to use.",
    )
    worker_connection_age_seconds: float = Field(
        default=60,
        ge=0.1,
        le=2_000_000,
        description="Bounds max_connection_age_seconds where there are several workers: how soon a worker replaced "
        "on SIGHUP is left by its clients.",
    )
    reflection: bool = Field(default=False, description="Serve gRPC reflection, for grpcurl without protos.")
    insecure: bool = Field(
        default=False,
        description="Allow plaintext on an address other hosts can reach: something in front does TLS.",
    )
    max_message_bytes: int = Field(
        default=1_048_576, ge=1024, le=67_108_864, description="Largest request taken, bytes."
    )
    max_metadata_bytes: int = Field(
        default=16_384, ge=1024, le=1_048_576, description="Most metadata a call may send, bytes."
    )
    max_concurrent_calls: int = Field(default=1000, ge=1, description="Calls in progress before new ones are refused.")
    max_streams: int = Field(default=1000, ge=1, description="Streamed responses open before new ones are refused.")
    max_connections: int = Field(
        default=10_000,
        ge=1,
        le=1_000_000,
        description="Connections open before new ones are closed; never more than the limit of open files allows.",
    )
    max_connection_idle_seconds: float = Field(
        default=300, ge=0.1, le=86_400, description="A connection without calls is closed after so long."
    )
    max_connection_age_seconds: float = Field(
        default=3600, ge=0.1, le=2_000_000, description="After so long, give or take a tenth, clients connect anew."
    )
    max_connection_age_grace_seconds: float = Field(
        default=60,
        ge=0.1,
        le=86_400,
        description="How long calls on such a connection may go on: more than the default deadline.",
    )
    gzip_responses: bool = Field(default=False, description="Compress responses to clients that accept gzip.")
    default_deadline_seconds: float = Field(
        default=30, gt=0, le=3600, description="Deadline of a call that brings none."
    )
    drain_linger_seconds: float = Field(
        default=1.5,
        ge=0,
        le=300,
        description="On shutdown, how long to serve on as NOT_SERVING so that balancers see it.",
    )
    drain_grace_seconds: float = Field(
        default=10, ge=0, le=3600, description="After that, how long calls may take to finish."
    )
    tls: Tls = Tls()


class Ops(Section):
    """The HTTP port for operators: metrics, JWKS, probes."""

    enabled: bool = Field(default=True, description="Serve the ops port.")
    host: Host = Field(default="127.0.0.1", description="Address to listen on.")
    port: Port = Field(default=9464, description="Port to listen on; 0 takes a free one.")


class Database(Section):
    """PostgreSQL and the pool of connections to it."""

    url: PostgresUrl | None = Field(
        default=None,
        description="`postgresql://user:password@host:port/name`. None: the embedded PostgreSQL, never in production.",
    )
    pool_min_size: int = Field(default=2, ge=0, description="Connections kept open.")
    pool_max_size: int = Field(default=20, ge=1, le=1000, description="Most connections open at a time.")
    fast_connections: int = Field(
        default=2,
        ge=0,
        le=16,
        description="Connections beside the pool for hot reads of one row; none unless prepare_statements.",
    )
    max_waiting: int = Field(
        default=200, ge=1, description="Callers waiting for a connection before new ones are refused."
    )
    acquire_timeout_seconds: float = Field(default=5, gt=0, description="Longest wait for a connection.")
    max_idle_seconds: float = Field(default=600, gt=0, description="A connection unused for so long is closed.")
    max_lifetime_seconds: float = Field(default=1800, gt=0, description="A connection so old is replaced.")
    statement_timeout_seconds: float = Field(
        default=30, gt=0, description="The database ends a statement after so long."
    )
    prepare_statements: bool = Field(
        default=True,
        description="False behind PgBouncer in transaction mode; the statement timeout is the role's then.",
    )
    connect_patience_seconds: float = Field(
        default=30, ge=0, le=3600, description="On start, how long to wait for the database before giving up."
    )
    migrate_on_start: bool = Field(default=False, description="Apply missing migrations before serving.")
    embedded_dir: str = Field(
        default="var/postgres", min_length=1, description="Where the embedded PostgreSQL keeps its data."
    )


class Argon2(Section):
    """The cost of a password hash. The defaults are OWASP's floor, below which only tests go."""

    memory_kib: int = Field(default=19_456, ge=8, le=262_144, description="Memory of one hash, KiB.")
    time_cost: int = Field(default=2, ge=1, le=16, description="Passes over the memory.")
    parallelism: int = Field(default=1, ge=1, le=16, description="Lanes of one hash.")
    hash_threads: int | None = Field(
        default=None, ge=1, le=256, description="Hashes computed at once. None: one per core, shared by the workers."
    )
    hash_queue: int = Field(
        default=256,
        ge=0,
        le=10_000,
        description="Hashes waiting before more are refused; half of it for new passwords.",
    )
    hash_priority: Literal["idle", "normal"] = Field(
        default="idle",
        description="`idle` (Linux): hashes get what processor time is left, so other calls stay quick. `normal`: they"
        " share it, and calls beside logins take several times as long; only where programs outside of any container"
        " keep the same cores busy, so that an idle hash takes seconds.",
    )
    bindings: Literal["auto", "wheel"] = Field(
        default="auto",
        description="`auto`: the image's own build of argon2 where the processor has x86-64-v3. `wheel`: never that.",
    )


class Throttle(Section):
    """How often passwords may be guessed. Attempts are counted in the database, for all replicas together."""

    account_free_attempts: int = Field(
        default=10, ge=1, le=1_000_000, description="Attempts at one account before each must wait."
    )
    source_free_attempts: int = Field(
        default=100, ge=1, le=1_000_000, description="Attempts from one IPv4 address or IPv6 /64 before each must wait."
    )
    device_free_attempts: int = Field(
        default=10, ge=1, le=1_000_000, description="Attempts from a device that logged in before; counted apart."
    )
    decay_seconds: float = Field(default=600, ge=1, le=86_400, description="One attempt is forgotten after so long.")
    base_delay_seconds: float = Field(
        default=1, gt=0, le=3600, description="The first wait; each further attempt doubles it."
    )
    max_delay_seconds: float = Field(default=900, gt=0, le=86_400, description="The longest wait.")


class Auth(Section):
    """Tokens, passwords and registration."""

    issuer: str = Field(default="gatelodge", min_length=1, max_length=256, description="`iss` of access tokens.")
    audience: str = Field(default="gatelodge", min_length=1, max_length=256, description="`aud` of access tokens.")
    access_token_ttl_seconds: int = Field(default=900, ge=30, le=86_400, description="Life of an access token.")
    session_lifetime_days: float = Field(
        default=30, gt=0, le=3650, description="Life of a session, however much it is used."
    )
    session_idle_days: float = Field(default=7, gt=0, le=3650, description="A session not refreshed for so long ends.")
    refresh_grace_seconds: float = Field(
        default=10,
        ge=0,
        le=300,
        description="How long a used refresh token gets the same successor again; after that it ends its session.",
    )
    max_sessions_per_user: int = Field(
        default=100, ge=1, le=10_000, description="Sessions of one user; a login beyond that ends the oldest."
    )
    master_secret: Annotated[SecretStr, Field(min_length=32)] | None = Field(
        default=None,
        description="Encrypts the secrets in the database; 32 characters or more. None: one is made under `var/`, "
        "never in production.",
    )
    previous_master_secrets: tuple[Annotated[SecretStr, Field(min_length=32)], ...] = Field(
        default=(),
        description="Open what was encrypted under them, encrypt nothing; as a JSON list where only text is possible. "
        "For changing the master secret.",
    )
    signing_algorithm: Literal["ES256", "EdDSA", "RS256"] = Field(
        default="ES256", description="Of the signing keys made from now on."
    )
    key_rotation_days: float = Field(default=30, gt=0, le=3650, description="How long a key signs access tokens.")
    key_publish_seconds: float = Field(
        default=600,
        ge=0,
        le=604_800,
        description="How long a key is published before it signs: longer than verifiers keep the JWK set.",
    )
    revocation_staleness_seconds: float = Field(
        default=5,
        ge=1,
        le=60,
        description="When a process has heard nothing of the database for so long, it asks about every token.",
    )
    token_cache_size: int = Field(
        default=10_000, ge=0, le=1_000_000, description="Verified tokens remembered, about 2 KiB each; 0: none."
    )
    registration: Literal["open", "closed"] = Field(default="closed", description="Whether anyone may make an account.")
    password_min_length: int = Field(default=15, ge=8, le=64, description="Shortest password taken, code points.")
    password_pepper: Annotated[SecretStr, Field(min_length=16)] | None = Field(
        default=None,
        description="Keyed into every password hash; 16 characters or more. Lost: no password verifies any more.",
    )
    password_blocklist_file: str | None = Field(
        default=None, min_length=1, description="Passwords and words to refuse besides, one a line, UTF-8."
    )
    device_token_days: float = Field(
        default=180, gt=0, le=3650, description="How long a device that logged in is known, and throttled apart."
    )
    argon2: Argon2 = Argon2()
    throttle: Throttle = Throttle()

    @property
    def revocation_window_seconds(self) -> int:
        """How long a revocation matters: no token issued before it was committed lives longer after it was recorded.

        That is a token's life, and a margin for transactions that last and for clocks that disagree.
        """
        return self.access_token_ttl_seconds + REVOCATION_MARGIN_SECONDS


class Users(Section):
    """Accounts."""

    retention_days: float = Field(
        default=30, gt=0, le=3650, description="How long a deleted user can be undeleted before the purge."
    )


class Events(Section):
    """The record of what happened."""

    retention_days: float = Field(
        default=400, gt=0, le=36_500, description="How long an event is kept. Watchers must come back sooner."
    )


class Log(Section):
    """What is logged, and how."""

    level: Level = Field(default="INFO", description="Least level logged.")
    format: Literal["json", "console"] = Field(default="json", description="`json` for machines, `console` for people.")
    levels: dict[str, Level] = Field(
        default_factory=dict,
        description='Least level by logger, as JSON in the environment: `{"gatelodge.access":"WARNING"}`. '
        "Sources are merged logger by logger.",
    )


class Tracing(Section):
    """OpenTelemetry traces."""

    otlp_endpoint: Endpoint | None = Field(
        default=None,
        description="OTLP/gRPC collector, `http://host:4317` or `https://…`. None: no traces.",
    )
    sample_ratio: float = Field(
        default=0.1, ge=0, le=1, description="Share of calls without a sampled parent that is traced."
    )


class Metrics(Section):
    """Metrics pushed over OTLP, beside the Prometheus page on the ops port."""

    otlp_endpoint: Endpoint | None = Field(default=None, description="OTLP/gRPC collector. None: nothing is pushed.")
    interval_seconds: float = Field(default=30, ge=0.1, le=3600, description="Time between pushes.")


class Settings(Section):
    """Everything the service is told from outside. Immutable; secrets in it do not print."""

    env: str = Field(
        default="development", description="Set by `APP_ENV` alone: which file is read and how strict to be."
    )
    server: Server = Server()
    ops: Ops = Ops()
    database: Database = Database()
    auth: Auth = Auth()
    users: Users = Users()
    events: Events = Events()
    log: Log = Log()
    tracing: Tracing = Tracing()
    metrics: Metrics = Metrics()

    _references: Mapping[str, str] = PrivateAttr(default_factory=dict)

    @property
    def references(self) -> Mapping[str, str]:
        """By the dotted name of each secret that was fetched from elsewhere, the scheme of its reference."""
        return self._references

    def fetched_from(self, references: Mapping[str, str]) -> Self:
        """Return these settings, knowing which secrets were fetched from elsewhere."""
        known = self.model_copy()
        known._references = dict(references)  # noqa: SLF001 - ours
        return known

    @property
    def production(self) -> bool:
        """Whether development defaults are refused: in every environment but development and test."""
        return self.env not in RELAXED
