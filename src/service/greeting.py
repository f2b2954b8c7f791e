"""What a person at a terminal wants to know when the service serves."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from service.build import this_build

_FIRST_REQUEST = '{"email": "ada@example.com", "password": "correct horse battery staple"}'


def greeting(address: str, ops_address: str | None, *, tls: bool) -> str:
    """Return where it listens, and a first call to paste."""
    grpcurl = shutil.which("grpcurl") or str(Path(sys.executable).with_name("grpcurl"))
    lines = [
        "",
        f"  {this_build()}",
        f"  gRPC     {address}",
        *([f"  metrics  http://{ops_address}/metrics"] if ops_address else []),
        "",
        "  A first call:",
        f"  {grpcurl} {'-cacert CA.pem' if tls else '-plaintext'} -d '{_FIRST_REQUEST}' \\",
        f"    {address} gatelodge.auth.v1.AuthService/Register",
        "",
    ]
    return "\n".join(lines)
