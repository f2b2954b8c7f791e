"""Where a call comes from: its peer, or what a proxy that may say so tells of it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import unquote

from service.rpc.metadata import headers_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from service.rpc.context import Context

FORWARDED_KEY = "x-forwarded-for"
_UNIX = "unix"
_MOST_HOPS = 20

Address: TypeAlias = IPv4Address | IPv6Address


class Sources:
    """Finds the source of calls. `trusted` are the peers that may forward: networks, addresses, or ``unix``."""

    def __init__(self, trusted: Iterable[str] = ()) -> None:
        names = tuple(trusted)
        self._unix = _UNIX in names
        self._networks: tuple[IPv4Network | IPv6Network, ...] = tuple(
            ip_network(name) for name in names if name != _UNIX
        )

    def __call__(self, context: Context) -> str:
        """Return where the call comes from, written as gRPC writes a peer; port 0 where a proxy told it.

        Of what proxies wrote into ``x-forwarded-for``, each adding one address at the right, the right-most that is not
        a trusted proxy's counts: what stands left of it, anybody can have written. From all other peers, and where it
        is not a list of addresses, the header counts for nothing.
        """
        peer: str = context.peer()
        if peer.startswith(_UNIX):
            peer = _UNIX  # the path is the server's own
        if not (self._unix or self._networks) or not self._trusts_peer(peer):
            return peer
        told = ",".join(headers_of(context).texts(FORWARDED_KEY))
        found = self._origin(told.split(",")) if told else None
        return peer if found is None else f"ipv4:{found}:0" if found.version == 4 else f"ipv6:[{found}]:0"  # noqa: PLR2004 - IPv4

    def _trusts_peer(self, peer: str) -> bool:
        address = parse_peer(peer)
        return self._trusts(address) if address else self._unix and peer.startswith(_UNIX)

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._networks)

    def _origin(self, hops: list[str]) -> Address | None:
        """Return the last hop that is not trusted; the first one if all are; None if one met is no address."""
        address = None
        for hop in reversed(hops[-_MOST_HOPS:]):
            address = parse(hop.strip())
            if address is None or not self._trusts(address):
                return address
        return address


def parse_peer(peer: str) -> Address | None:
    """Return the address of a peer as gRPC writes it; None if it has none."""
    kind, _, rest = unquote(peer).partition(":")
    return parse(rest.rpartition(":")[0].strip("[]")) if kind in {"ipv4", "ipv6"} else None


def parse(text: str) -> Address | None:
    """Read an address; an IPv4 address in IPv6's clothes becomes itself."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
