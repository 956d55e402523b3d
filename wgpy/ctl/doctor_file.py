# SPDX-License-Identifier: MIT
"""`wgpyctl doctor CONF`: what is wrong with a file of wg-quick before it is up."""

import socket
import stat
from collections.abc import Iterator
from ipaddress import ip_address
from itertools import combinations
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from wgpy.addresses import format_prefix
from wgpy.ctl.conf_file import read_file
from wgpy.ctl.findings import ERROR, NOTE, OK, WARNING, Finding
from wgpy.linux import probes
from wgpy.wgquick import MTU_MIN_V6, Host, Network, QuickFile, Section, interface_of, network_of


def examine_file(path: Path) -> Iterator[Finding]:
    """Yield what is wrong with the file.  Raises CallError if it cannot be read."""
    parsed = read_file(path)
    found = [*_lines(path, parsed), *_name(path), *_interface(parsed), *_peers(parsed)]
    if not found:
        yield Finding(OK, "every line is one of wg-quick's, and they fit together")
    yield from found
    yield from _surroundings(path, parsed)


def _lines(path: Path, parsed: QuickFile) -> Iterator[Finding]:
    for problem in parsed.problems:
        place = f"{path.name}, line {problem.line}" if problem.line else path.name
        yield Finding(ERROR, f"{place}: {problem.text}")


def _name(path: Path) -> Iterator[Finding]:
    if interface_of(path) is None:
        text = (
            "wg-quick makes no interface of that name: it takes up to 15 letters, digits and _=+.-"
        )
        yield Finding(ERROR, f"{text}, and .conf")
    if path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        yield Finding(WARNING, f"everybody may read or write the file: `chmod 600 {path}`")


def _interface(parsed: QuickFile) -> Iterator[Finding]:
    if not parsed.interfaces:
        yield Finding(ERROR, "there is no [Interface]")
        return
    if parsed.last("privatekey") is None and not _sets_key(parsed):
        yield Finding(ERROR, "there is no PrivateKey, so no handshake begins or is answered")
    addresses = [prefix for section in parsed.interfaces for prefix in section.prefixes("address")]
    if not addresses:
        yield Finding(NOTE, "there is no Address: the host says nothing into the tunnel by itself")
    mtu = parsed.last("mtu")
    is_v6 = any(len(prefix.address) == 16 for prefix in addresses)
    if isinstance(mtu, int) and mtu < MTU_MIN_V6 and is_v6:
        yield Finding(ERROR, f"an MTU below {MTU_MIN_V6} takes no IPv6 address")


def _sets_key(parsed: QuickFile) -> bool:
    """Tell whether a command may set the private key."""
    lines = [
        line for one in parsed.interfaces for name in ("preup", "postup") for line in one.all(name)
    ]
    return any("private-key" in str(line.value) for line in lines)


# ---- peers ----


def _peers(parsed: QuickFile) -> Iterator[Finding]:
    if not parsed.peers:
        yield Finding(WARNING, "there is no [Peer], so nobody to talk to")
    private_key = parsed.last("privatekey")
    own = _public_key(private_key) if isinstance(private_key, bytes) else None
    for peer in parsed.peers:
        yield from _peer(peer, own)
        yield from _loop(parsed, peer)
    for one, other in combinations([peer for peer in parsed.peers if peer.last("publickey")], 2):
        if one.last("publickey") == other.last("publickey"):
            text = f"{_place(one)} and {_place(other)} have one PublicKey"
            yield Finding(WARNING, f"{text}: they are one peer")
    yield from _shared_prefixes(parsed)
    begins = any(peer.last("endpoint") for peer in parsed.peers)
    if parsed.peers and not begins and not parsed.last("listenport"):
        text = "no peer has an Endpoint, and without ListenPort the port is another each time"
        yield Finding(WARNING, f"{text}: nobody can begin")


def _public_key(private_key: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()


def _place(peer: Section) -> str:
    return f"the [Peer] of line {peer.line}"


def _peer(peer: Section, own: bytes | None) -> Iterator[Finding]:
    key = peer.last("publickey")
    if key is None:
        yield Finding(ERROR, f"{_place(peer)} has no PublicKey")
    elif key == own:
        text = f"{_place(peer)} has the public key of this very interface"
        yield Finding(ERROR, f"{text}: it takes the other side's")
    if not any(peer.prefixes("allowedips")):
        text = f"{_place(peer)} has no AllowedIPs"
        yield Finding(WARNING, f"{text}: nothing goes to it, and what comes from it is dropped")


def _loop(parsed: QuickFile, peer: Section) -> Iterator[Finding]:
    """Yield whether wg-quick's routes lead the endpoint into the tunnel.

    For 0.0.0.0/0 and ::/0 it makes rules that keep the tunnel's own messages out.
    """
    endpoint = peer.last("endpoint")
    if not isinstance(endpoint, Host) or parsed.last("table") == "off":
        return
    try:
        address = ip_address(endpoint.host.partition("%")[0])
    except ValueError:
        return  # a name
    for other in parsed.peers:
        for prefix in other.prefixes("allowedips"):
            if prefix.cidr and address in network_of(prefix):
                text = f"the Endpoint of {_place(peer)} is in AllowedIPs {format_prefix(prefix)}"
                yield Finding(ERROR, f"{text}: its route leads into the tunnel itself")


def _shared_prefixes(parsed: QuickFile) -> Iterator[Finding]:
    owners: dict[Network, Section] = {}
    for peer in parsed.peers:
        for prefix in peer.prefixes("allowedips"):
            before = owners.setdefault(network_of(prefix), peer)
            owners[network_of(prefix)] = peer
            if before.last("publickey") != peer.last("publickey"):
                text = f"{_place(before)} and {_place(peer)} both have {format_prefix(prefix)}"
                yield Finding(WARNING, f"{text}: it goes to the last one")


# ---- what is around ----


def _surroundings(path: Path, parsed: QuickFile) -> Iterator[Finding]:
    interface = interface_of(path)
    is_there = interface is not None and probes.find_link(interface) is not None
    if is_there:
        yield Finding(
            NOTE, f"{interface} is there already: `wgpyctl doctor {interface}` knows more"
        )
    port = parsed.last("listenport")
    if isinstance(port, int) and port and port in probes.bound_ports() and not is_there:
        yield Finding(ERROR, f"somebody has UDP port {port}: look at `ss -ulnp`")
    for peer in parsed.peers:
        endpoint = peer.last("endpoint")
        if isinstance(endpoint, Host):
            yield from _look_up(peer, endpoint)


def _look_up(peer: Section, endpoint: Host) -> Iterator[Finding]:
    try:
        socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no name of a host"
        text = f"the Endpoint of {_place(peer)} is not found ({reason})"
        yield Finding(ERROR, f"{text}: wg-quick tries for some time, and gives up")
