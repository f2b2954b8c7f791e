"""Who is at the other end of a connection, by the name in a verified certificate."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID, uuid5

from service.access import Principal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from service.rpc.interceptors.layer import Context

_URI = "peer_uri"
_NAMES = (_URI, "peer_dns", "x509_common_name")
"""gRPC's names for what a verified certificate says, the most telling first."""

_SERVICES = UUID("b501b6f3-32fe-4c36-a0fa-36b10b531058")
"""The namespace of services' subjects: never change it, the audit record holds what came of it."""


def identity(context: Context) -> str | None:
    """Return the first URI of the peer's verified certificate, else its first DNS name, else its common name.

    None where the peer showed none. What reads like a URI counts as one only where the certificate says that it is one:
    an authority that is strict about URIs may let anything pass as a common name.
    """
    found = context.auth_context()
    for kind in _NAMES:
        for value in found.get(kind, ()):
            text = bytes(value).decode("utf-8", "replace")
            if text and text.isprintable() and (kind == _URI or ":" not in text):
                return text
    return None


class Services:
    """Services known by their certificates.

    Args:
        identities: the name in the certificate → the roles it comes with.
        permissions_of: what roles allow now.

    """

    def __init__(
        self,
        identities: Mapping[str, Iterable[str]],
        permissions_of: Callable[[frozenset[str]], frozenset[str]] = lambda _: frozenset(),
    ) -> None:
        self._permissions_of = permissions_of
        self._principals = {
            name: Principal(subject(name), frozenset(roles), is_service=True) for name, roles in identities.items()
        }

    def principal(self, name: str | None) -> Principal | None:
        """Return the service called `name`, None for everyone else."""
        found = self._principals.get(name) if name is not None else None
        return None if found is None else replace(found, permissions=self._permissions_of(found.roles))


def subject(name: str) -> str:
    """Return the subject of the service called `name`: a UUID, as users' are, always the same."""
    return str(uuid5(_SERVICES, name))
