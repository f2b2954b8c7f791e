"""Network addresses as gRPC writes them."""

from __future__ import annotations


def address(host: str, port: int) -> str:
    """Return ``host:port``, an IPv6 host in brackets (RFC 3986 §3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
