# SPDX-License-Identifier: MIT
"""Addresses, endpoints and prefixes as text: as wg shows them, and back.

What parses raises ValueError or OSError for what is none.
"""

from socket import AF_INET, AF_INET6, if_nametoindex, inet_ntop, inet_pton
from typing import Final

from wgpy.config import AllowedIP, Endpoint

_new_tuple = tuple.__new__  # AllowedIP() takes twice as long
_V4_MAPPED: Final = bytes(10) + b"\xff\xff"  # RFC 4291, 2.5.5.2
_PREFIX_LENGTHS: Final = {str(bits): bits for bits in range(129)}


def format_address(address: bytes) -> str:
    """Return it: 192.0.2.1, 2001:db8::1; of 4 or 16 bytes in network order."""
    return inet_ntop(AF_INET if len(address) == 4 else AF_INET6, address)


def format_endpoint(endpoint: Endpoint) -> str:
    """Return it: 192.0.2.1:51820, [2001:db8::1]:51820, [fe80::1%3]:51820."""
    address = format_address(endpoint.address)
    if len(endpoint.address) == 4:
        return f"{address}:{endpoint.port}"
    # By index, not name: wg show fails as a whole on the name of an interface that has gone.
    zone = f"%{endpoint.scope_id}" if endpoint.scope_id else ""
    return f"[{address}{zone}]:{endpoint.port}"


def format_prefix(prefix: AllowedIP) -> str:
    """Return it: 10.0.0.0/24."""
    return f"{format_address(prefix.address)}/{prefix.cidr}"


def parse_decimal(text: str, maximum: int) -> int:
    """Return a number from 0 to maximum, without sign, blanks and digits of other scripts."""
    if not (text.isascii() and text.isdigit()) or (number := int(text)) > maximum:
        raise ValueError
    return number


def parse_endpoint(text: str) -> Endpoint:
    """Return what format_endpoint shows; a zone may be the name of an interface of this host."""
    host, _, port_text = text.rpartition(":")
    port = parse_decimal(port_text, 0xFFFF)
    if not (host.startswith("[") and host.endswith("]")):
        return Endpoint(inet_pton(AF_INET, host), port)
    address_text, percent, zone = host[1:-1].partition("%")
    address = inet_pton(AF_INET6, address_text)
    scope_id = _parse_zone(zone) if percent else 0
    if address.startswith(_V4_MAPPED):  # the IPv6 socket cannot send there, the IPv4 one can
        return Endpoint(address[len(_V4_MAPPED) :], port)
    return Endpoint(address, port, scope_id)


def _parse_zone(zone: str) -> int:
    """Turn an interface name, or else a number, into an index (getaddrinfo's order, as in wg)."""
    try:
        return if_nametoindex(zone)
    except OSError:
        return parse_decimal(zone, 0xFFFFFFFF)


def parse_listen(text: str, otherwise: str) -> tuple[str, int]:
    """Return address and port of [ADDRESS:]PORT; an IPv6 address is in brackets."""
    address, _, port_text = text.rpartition(":")
    port = parse_decimal(port_text, 0xFFFF)
    if address.startswith("[") and address.endswith("]"):
        return format_address(inet_pton(AF_INET6, address[1:-1])), port
    return (format_address(inet_pton(AF_INET, address)) if address else otherwise), port


def parse_prefix(text: str) -> AllowedIP:
    """Return what format_prefix shows; without a length it is one address."""
    address_text, slash, bits = text.partition("/")
    address = inet_pton(AF_INET6 if ":" in address_text else AF_INET, address_text)
    longest = 8 * len(address)
    cidr = _PREFIX_LENGTHS.get(bits, 129) if slash else longest
    if cidr > longest:
        raise ValueError
    return _new_tuple(AllowedIP, (address, cidr, False))
