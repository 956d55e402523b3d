"""Addresses, endpoints and prefixes as text, as wg shows them."""

from socket import AF_INET, AF_INET6, inet_ntop

from wgpy.config import AllowedIP, Endpoint


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
