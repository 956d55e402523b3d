# SPDX-License-Identifier: MIT
"""Connections by name, in whichever network."""

import asyncio
import errno
import os
import socket
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol, TypeVar

_T = TypeVar("_T")

AddressInfo = tuple[int, int, int, str, tuple[Any, ...]]  # as of getaddrinfo


class Network(Protocol):
    """Where sockets and names are."""

    def socket_factory(self, addr_info: AddressInfo) -> socket.socket:
        """Return a socket for an entry of getaddrinfo that does not block.  Raises OSError."""

    async def getaddrinfo(
        self, host: str, port: str | int, *, type: int = 0, flags: int = 0
    ) -> Sequence[AddressInfo]:
        """Look a name up, as loop.getaddrinfo does.  Raises socket.gaierror, OSError."""


class HostNetwork:
    """That of the process."""

    def socket_factory(self, addr_info: AddressInfo) -> socket.socket:
        """Return a socket for an entry of getaddrinfo that does not block.  Raises OSError."""
        family, kind, protocol, _, _ = addr_info
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made

    async def getaddrinfo(
        self, host: str, port: str | int, *, type: int = 0, flags: int = 0
    ) -> Sequence[AddressInfo]:
        """Look a name up, as loop.getaddrinfo does.  Raises socket.gaierror, OSError."""
        loop = asyncio.get_running_loop()
        return await loop.getaddrinfo(host, port, type=type, flags=flags)


async def connect(
    network: Network, host: str, port: str | int, kind: int = socket.SOCK_STREAM
) -> socket.socket:
    """Return a connected socket that does not block; each address of the host is tried.

    Raises socket.gaierror, OSError.
    """
    loop = asyncio.get_running_loop()
    failure = OSError(errno.EADDRNOTAVAIL, f"{host} has no address")
    for info in await network.getaddrinfo(host, port, type=kind):
        try:
            connecting = network.socket_factory(info)
        except OSError as error:  # a family that the host lacks
            failure = error
            continue
        try:
            await loop.sock_connect(connecting, info[-1])
        except OSError as error:
            connecting.close()
            failure = error
        except BaseException:
            connecting.close()
            raise
        else:
            return connecting
    raise failure


async def within(limit_s: float | None, doing: Coroutine[Any, Any, _T]) -> _T:
    """Return its result.  Raises TimeoutError with ETIMEDOUT if that takes longer; None: never."""
    try:
        return await asyncio.wait_for(doing, limit_s)
    except asyncio.TimeoutError:  # which is TimeoutError since Python 3.11 only
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None
