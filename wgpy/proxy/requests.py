# SPDX-License-Identifier: MIT
"""What clients of the proxy ask for."""

import re
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, Protocol

from wgpy.addresses import parse_decimal

NAME_MAX: Final = 253  # characters; RFC 1035, 2.3.4, without lengths and root
_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")


@dataclass(frozen=True, slots=True)
class Target:
    """A host, by name or address, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return it as parse_target reads it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Request:
    """A connection to a target; or an association for UDP, whose target is what the client says of
    its own address.
    """

    target: Target
    is_association: bool = False


class Conversation(Protocol):
    """What is said until a connection is there, whichever the protocol."""

    @property
    def request(self) -> Request | None:
        """What the client asks for, as soon as that is known."""

    def feed_untrusted(self, data: bytes) -> bytes:
        """Take what came; return what to send.  Raises BadRequest."""

    def early(self) -> bytes:
        """Return what came behind the request: the connection's first bytes."""

    def granted(self, bound: Target) -> bytes:
        """Return the answer when the request is served, at an address of ours."""

    def refused(self, error: OSError) -> bytes:
        """Return the answer when it cannot be."""


def check_host(text: str) -> str:
    """Return a name, or an address as it is usually written.  Raises ValueError."""
    if ":" in text and "%" not in text:  # no zone of the host is one of the tunnel
        return str(IPv6Address(text))
    with suppress(ValueError):
        return str(IPv4Address(text))
    if len(text) > NAME_MAX + text.endswith(".") or not _NAME.fullmatch(text):
        raise ValueError("no host name")
    return text


def is_address(host: str) -> bool:
    """Tell whether what check_host returned is no name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def parse_target(text: str) -> Target:
    """Return it of HOST:PORT; an IPv6 address is in brackets.  Raises ValueError."""
    host, _, port = text.rpartition(":")
    in_brackets = host.startswith("[") and host.endswith("]")
    if in_brackets != (":" in host):
        raise ValueError("IPv6 addresses, and nothing else, stand in brackets")
    host = host[1:-1] if in_brackets else host
    return Target(check_host(host), parse_decimal(port, 0xFFFF))
