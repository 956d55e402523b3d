# SPDX-License-Identifier: MIT
"""What a tunnel of a program is to be: typed data, made by hand or from a file of wg-quick.

A file is taken by these rules, for no private namespace has more, and wgpy runs no command of a
file and writes none:

- PreUp, PostUp, PreDown and PostDown are refused, for only their author knows what the tunnel would
  be without them.  `ignore_commands` passes over them.
- Table and SaveConfig are checked and passed over: the routes of the allowed IPs are the only ones
  of a private namespace, and the file stays as it is.
- FwMark is for an interface of the system.  A tunnel passes over it: its own messages never come
  near its routes.
- Several [Peer] of one PublicKey are one peer, with what `wg setconf` would have made of them; a
  prefix is the last one's that has it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv6Address,
    IPv6Interface,
)
from itertools import chain
from os import PathLike, fspath
from typing import Any, Final, cast

from wgpy.config import ZERO_KEY, AllowedIP, DeviceChange, Endpoint, PeerChange, require
from wgpy.errors import ConfigError, ConfigFileError
from wgpy.wgquick import (
    DOMAIN,
    FILE_MAX,
    MTU_MIN_V6,
    AllowedIPs,
    Host,
    Network,
    QuickFile,
    Section,
    network_of,
    parse_untrusted,
)

InterfaceAddress = IPv4Interface | IPv6Interface
Address = IPv4Address | IPv6Address

MTU_MIN: Final = 68  # bytes; RFC 791, 3.2
_ADDRESS: Final = {4: IPv4Interface, 16: IPv6Interface}
# Lines that are a field each.
_FIELDS: Final = {
    "privatekey": "private_key",
    "listenport": "listen_port",
    "fwmark": "fwmark",
}
_PEER_FIELDS: Final = {
    "presharedkey": "preshared_key",
    "endpoint": "endpoint",
    "persistentkeepalive": "persistent_keepalive_s",
}
_COMMANDS: Final = ("PreUp", "PostUp", "PreDown", "PostDown")


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """A peer.  Keys are 32 raw bytes; raises ConfigError for what no peer can have."""

    public_key: bytes
    preshared_key: bytes | None = field(default=None, repr=False)
    endpoint: Host | None = None  # None: the peer begins
    allowed_ips: tuple[Network, ...] = ()
    persistent_keepalive_s: int = 0  # 0: off

    def __post_init__(self) -> None:
        """Raise ConfigError for what no peer can have."""
        self.change(None)

    def change(self, endpoint: Endpoint | None) -> PeerChange:
        """Return what makes this peer of a device, at the endpoint that its name leads to."""
        return PeerChange(
            self.public_key,
            preshared_key=self.preshared_key,
            endpoint=endpoint,
            persistent_keepalive_s=self.persistent_keepalive_s,
            replace_allowed_ips=True,
            allowed_ips=tuple(
                AllowedIP(network.network_address.packed, network.prefixlen)
                for network in self.allowed_ips
            ),
        )


@dataclass(frozen=True, slots=True)
class Config:
    """A tunnel.  Keys are 32 raw bytes; raises ConfigError for what cannot be.

    >>> from base64 import b64decode
    >>> from ipaddress import ip_interface, ip_network
    >>> peer = PeerConfig(
    ...     b64decode("xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="),
    ...     endpoint=Host("vpn.example", 51820),
    ...     allowed_ips=(ip_network("10.0.0.0/24"),),
    ... )
    >>> config = Config(
    ...     b64decode("yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="),
    ...     addresses=(ip_interface("10.0.0.2/24"),),
    ...     peers=(peer,),
    ... )
    """

    private_key: bytes = field(repr=False)
    addresses: tuple[InterfaceAddress, ...] = ()
    peers: tuple[PeerConfig, ...] = ()
    dns: tuple[Address, ...] = ()  # servers, reached through the tunnel
    search_domains: tuple[str, ...] = ()
    mtu: int | None = None  # bytes; None: as wgpy sees fit
    listen_port: int = 0  # 0: any
    fwmark: int = 0  # 0: none; a private namespace passes over it

    def __post_init__(self) -> None:
        """Raise ConfigError for what no device can have, or a key that two peers have."""
        # Each peer has been through the same already.
        DeviceChange(self.private_key, listen_port=self.listen_port, fwmark=self.fwmark)
        require(self.private_key != ZERO_KEY, "a private key of zeros is none")
        keys = {peer.public_key for peer in self.peers}
        require(len(keys) == len(self.peers), "two peers have one public key")
        has_v6 = any(address.version == 6 for address in self.addresses)
        least = MTU_MIN_V6 if has_v6 else MTU_MIN
        fits = self.mtu is None or least <= self.mtu <= 0xFFFF
        require(fits, f"an MTU is {least} to 65535 bytes here")
        # Both become lines of resolv.conf.
        require(all(map(DOMAIN.fullmatch, self.search_domains)), "no search domain")
        scoped = any(isinstance(one, IPv6Address) and one.scope_id for one in self.dns)
        require(not scoped, "a DNS server in a zone")

    @classmethod
    def from_file(cls, path: str | PathLike[str], *, ignore_commands: bool = False) -> "Config":
        """Read a file of wg-quick, by the rules above.

        Raises ConfigFileError, with the number of the line; OSError if the file cannot be read.
        """
        with open(path, "rb") as file:
            data = file.read(FILE_MAX + 1)
        return cls.from_bytes(data, fspath(path), ignore_commands=ignore_commands)

    @classmethod
    def from_bytes(cls, data: bytes, name: str, *, ignore_commands: bool = False) -> "Config":
        """Take the contents of a file of wg-quick; the name is for errors only.

        Raises ConfigFileError, with the number of the line.
        """
        parsed = parse_untrusted(data)
        for problem in parsed.problems:
            raise ConfigFileError(name, problem.line, problem.text)
        if not ignore_commands:
            _refuse_commands(parsed, name)
        return _config(parsed, name)

    def change(
        self, endpoints: Mapping[bytes, Endpoint], *, with_fwmark: bool = False
    ) -> DeviceChange:
        """Return what makes a device this one, whatever it was before.

        `endpoints` says where peers are whose names were looked up, by public key; the others have
        to begin themselves, or to wait for a later change.
        """
        return DeviceChange(
            private_key=self.private_key,
            listen_port=self.listen_port,
            fwmark=self.fwmark if with_fwmark else None,
            replace_peers=True,
            peers=tuple(peer.change(endpoints.get(peer.public_key)) for peer in self.peers),
        )


# ---- from a file ----


def _refuse_commands(parsed: QuickFile, name: str) -> None:
    lines = ((setting.line, key) for key in _COMMANDS for setting in parsed.all(key.lower()))
    for line, key in sorted(lines):
        raise ConfigFileError(name, line, f"{key} is a command, and none is run here")


def _config(parsed: QuickFile, name: str) -> Config:
    if not parsed.interfaces:
        raise ConfigFileError(name, 0, "there is no [Interface]")
    if parsed.last("privatekey") is None:
        raise ConfigFileError(
            name, parsed.interfaces[-1].line, "this [Interface] has no PrivateKey"
        )
    fields: dict[str, Any] = {
        field: value for key, field in _FIELDS.items() if (value := parsed.last(key)) is not None
    }
    dns = [entry for setting in parsed.all("dns") for entry in cast("tuple[Any]", setting.value)]
    fields["addresses"] = tuple(
        _ADDRESS[len(prefix.address)]((prefix.address, prefix.cidr))
        for section in parsed.interfaces
        for prefix in section.prefixes("address")
    )
    fields["dns"] = tuple(entry for entry in dns if not isinstance(entry, str))
    fields["search_domains"] = tuple(entry for entry in dns if isinstance(entry, str))
    fields["peers"] = _merge(parsed.peers, name)
    with _at(name, parsed.all("privatekey")[-1].line):
        config = Config(**fields)
    if mtu := parsed.all("mtu"):
        with _at(name, mtu[-1].line):
            return replace(config, mtu=cast("int | None", mtu[-1].value))
    return config


@contextmanager
def _at(name: str, line: int) -> Iterator[None]:
    """Say of what is refused in here that it is this line."""
    try:
        yield
    except ConfigError as refused:
        raise ConfigFileError(name, line, refused.reason) from None


def _merge(sections: list[Section], name: str) -> tuple[PeerConfig, ...]:
    """Do as the kernel does with a request of these peers, one after the other."""
    peers: dict[bytes, dict[str, Any]] = {}
    prefixes = _Prefixes()
    for section in sections:
        key = cast("bytes | None", section.last("publickey"))
        if key is None:
            raise ConfigFileError(name, section.line, "this [Peer] has no PublicKey")
        said = {field: section.last(line) for line, field in _PEER_FIELDS.items()}
        fields = peers.setdefault(key, {})
        fields.update((field, value) for field, value in said.items() if value is not None)
        prefixes.set(key, section)
    return tuple(
        PeerConfig(key, **fields, allowed_ips=prefixes.of(key)) for key, fields in peers.items()
    )


class _Prefixes:
    """Who has which prefix: the last to be given it."""

    def __init__(self) -> None:
        self._owners: dict[Network, bytes] = {}
        self._of: dict[bytes, dict[Network, None]] = {}  # in order

    def of(self, key: bytes) -> tuple[Network, ...]:
        return tuple(self._of.get(key, ()))

    def set(self, key: bytes, section: Section) -> None:
        """Do what the AllowedIPs of a section say; without any the peer has none."""
        lines = [cast(AllowedIPs, setting.value) for setting in section.all("allowedips")]
        own = self._of.setdefault(key, {})
        if not lines or lines[-1].replace:
            for network in own:
                del self._owners[network]
            own.clear()
        for prefix in chain.from_iterable(line.prefixes for line in lines):
            network = network_of(prefix)
            if prefix.remove:
                self._remove(key, network)
            else:
                self._of.get(self._owners.get(network, b""), {}).pop(network, None)
                self._owners[network] = key
                own[network] = None

    def _remove(self, key: bytes, network: Network) -> None:
        if self._owners.get(network) == key:
            del self._owners[network]
            del self._of[key][network]
