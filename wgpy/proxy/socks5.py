# SPDX-License-Identifier: MIT
"""SOCKS5, the server's side: RFC 1928, and RFC 1929 for names and passwords.  No I/O."""

import enum
import errno
import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from wgpy.errors import BadRequest
from wgpy.proxy.credentials import Credentials
from wgpy.proxy.requests import Request, Target, check_host

VERSION: Final = 5
PASSWORD_VERSION: Final = 1  # RFC 1929, 2
NO_AUTHENTICATION: Final = 0  # RFC 1928, 3
PASSWORD: Final = 2
NO_METHOD: Final = 0xFF
CONNECT: Final = 1  # 4
UDP_ASSOCIATE: Final = 3
IPV4: Final = 1  # 5
NAME: Final = 3
IPV6: Final = 4


class Reply(enum.IntEnum):
    """How a request went (6)."""

    SUCCEEDED = 0
    FAILURE = 1
    NOT_ALLOWED = 2
    NETWORK_UNREACHABLE = 3
    HOST_UNREACHABLE = 4
    REFUSED = 5
    TTL_EXPIRED = 6
    COMMAND_UNKNOWN = 7
    ADDRESS_TYPE_UNKNOWN = 8


_REPLIES: Final = {
    errno.EACCES: Reply.NOT_ALLOWED,
    errno.EPERM: Reply.NOT_ALLOWED,
    errno.ENETUNREACH: Reply.NETWORK_UNREACHABLE,
    errno.EHOSTUNREACH: Reply.HOST_UNREACHABLE,
    errno.EADDRNOTAVAIL: Reply.HOST_UNREACHABLE,
    errno.ECONNREFUSED: Reply.REFUSED,
    errno.ETIMEDOUT: Reply.TTL_EXPIRED,
}
NOWHERE: Final = Target("0.0.0.0", 0)  # noqa: S104


class _MoreError(Exception):
    """What came ends in the middle of a message."""


class _Reader:
    """Takes a message apart that may not have come whole."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        taken = self._data[self.at : self.at + count]
        if len(taken) < count:
            raise _MoreError
        self.at += count
        return taken

    def byte(self) -> int:
        return self.take(1)[0]

    def counted(self) -> bytes:
        return self.take(self.byte())

    def port(self) -> int:
        return int.from_bytes(self.take(2), "big")


class Socks5:
    """A client's conversation up to its request."""

    def __init__(self, credentials: Credentials | None) -> None:
        """Begin; without credentials nobody has to say who it is."""
        self.request: Request | None = None
        self._credentials = credentials
        self._came = b""
        self._next: Callable[[_Reader], bytes] = self._take_greeting

    def feed_untrusted(self, data: bytes) -> bytes:
        """Take what came; return what to send.  Raises BadRequest."""
        self._came += data
        answers = b""
        while self.request is None:
            reader = _Reader(self._came)
            try:
                answers += self._next(reader)
            except _MoreError:
                break
            except BadRequest as bad:
                raise BadRequest(str(bad), answers + bad.answer, is_guess=bad.is_guess) from None
            self._came = self._came[reader.at :]
        return answers

    def early(self) -> bytes:
        """Return what came behind the request: the connection's first bytes."""
        return self._came

    def granted(self, bound: Target) -> bytes:
        """Return the answer when the request is served, at an address of ours."""
        return _reply(Reply.SUCCEEDED, bound)

    def refused(self, error: OSError) -> bytes:
        """Return the answer when it cannot be."""
        if isinstance(error, socket.gaierror):
            return _reply(Reply.HOST_UNREACHABLE)
        return _reply(_REPLIES.get(error.errno or 0, Reply.FAILURE))

    def _take_greeting(self, reader: _Reader) -> bytes:
        """Do as in RFC 1928, 3."""
        if reader.byte() != VERSION:
            raise BadRequest("not SOCKS5")
        methods = reader.counted()
        wanted = NO_AUTHENTICATION if self._credentials is None else PASSWORD
        if wanted not in methods:
            raise BadRequest("no method in common", bytes((VERSION, NO_METHOD)))
        self._next = self._take_request if self._credentials is None else self._take_password
        return bytes((VERSION, wanted))

    def _take_password(self, reader: _Reader) -> bytes:
        """Do as in RFC 1929, 2."""
        if reader.byte() != PASSWORD_VERSION:
            raise BadRequest("malformed name and password")
        user, password = reader.counted(), reader.counted()
        assert self._credentials is not None, "else it is not asked for"
        if not self._credentials.match(user, password):
            raise BadRequest("wrong password", bytes((PASSWORD_VERSION, 1)), is_guess=True)
        self._next = self._take_request
        return bytes((PASSWORD_VERSION, 0))

    def _take_request(self, reader: _Reader) -> bytes:
        """Do as in RFC 1928, 4."""
        version, command, _ = reader.take(3)
        if version != VERSION:
            raise BadRequest("not SOCKS5")
        if command not in (CONNECT, UDP_ASSOCIATE):
            raise BadRequest("unknown command", _reply(Reply.COMMAND_UNKNOWN))
        target = _take_target(reader)
        self.request = Request(target, is_association=command == UDP_ASSOCIATE)
        return b""


def _take_target(reader: _Reader) -> Target:
    """Do as in RFC 1928, 5.  Raises BadRequest, _MoreError."""
    kind = reader.byte()
    if kind == IPV4:
        return Target(str(IPv4Address(reader.take(4))), reader.port())
    if kind == IPV6:
        return Target(str(IPv6Address(reader.take(16))), reader.port())
    if kind != NAME:
        raise BadRequest("unknown type of address", _reply(Reply.ADDRESS_TYPE_UNKNOWN))
    name, port = reader.counted(), reader.port()
    try:
        return Target(check_host(name.decode("ascii")), port)
    except ValueError:
        raise BadRequest("no host name", _reply(Reply.HOST_UNREACHABLE)) from None


def _reply(reply: Reply, bound: Target = NOWHERE) -> bytes:
    """Return an answer (RFC 1928, 6)."""
    return bytes((VERSION, reply, 0)) + _address(bound)


def _address(target: Target) -> bytes:
    address = ip_address(target.host)
    kind = IPV4 if address.version == 4 else IPV6
    return bytes((kind,)) + address.packed + target.port.to_bytes(2, "big")


# ---- datagrams ----


def read_datagram_untrusted(data: bytes) -> tuple[Target, bytes]:
    """Return where a client's datagram goes, and what (RFC 1928, 7).

    Raises BadRequest for a malformed one, and for fragments, which are optional.
    """
    reader = _Reader(data)
    try:
        reserved, fragment = reader.take(2), reader.byte()
        if fragment or any(reserved):
            raise BadRequest("a fragment")
        target = _take_target(reader)
    except _MoreError:
        raise BadRequest("a datagram without its header") from None
    return target, data[reader.at :]
