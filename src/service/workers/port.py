"""The port that workers share, held by their parent, which accepts nothing on it."""

from __future__ import annotations

import socket
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from service.errors import CannotRun

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def held(host: str, port: int) -> Iterator[int]:
    """Hold `port` of `host`, 0 for any, while the block lasts, and yield its number.

    A socket that is bound and does not listen gets no connection. It keeps the number ours while workers come and go,
    and finds out at the start whether somebody else listens there: with SO_REUSEPORT the kernel would let another
    process of the same user in and share the calls with it.

    Raises:
        CannotRun: somebody else has it, or the address is not this machine's.

    """
    with ExitStack() as stack:
        try:
            for family, address in _addresses(host):
                if port:
                    _bound(family, address, port, shared=False).close()
                placeholder = stack.enter_context(_bound(family, address, port, shared=True))
                port = int(placeholder.getsockname()[1])
        except OSError as error:
            raise CannotRun(
                f"cannot listen on {host}:{port}: is the port taken, or the address not this machine's?"
            ) from error
        yield port


def _addresses(host: str) -> list[tuple[socket.AddressFamily, str]]:
    found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))


def _bound(family: socket.AddressFamily, address: str, port: int, *, shared: bool) -> socket.socket:
    placeholder = socket.socket(family, socket.SOCK_STREAM)
    try:
        placeholder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            placeholder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family is socket.AF_INET6:
            placeholder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        where: Any = (address, port)
        placeholder.bind(where)
    except BaseException:
        placeholder.close()
        raise
    return placeholder
