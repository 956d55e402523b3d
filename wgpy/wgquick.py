# SPDX-License-Identifier: MIT
"""Files of wg-quick(8) and wg(8): which lines they may have, and what those say.

A line is read as those two read it: wg passes over every blank of its keys, wg-quick only those
around a name and a value; of a setting that has one value the last line counts.  What is wrong is
told by the number of its line; neither a key nor another value is ever in a text.  Stricter than
they are, on purpose:

- a file is UTF-8 (a byte order mark may begin it) without NUL, of at most FILE_MAX bytes, a line of
  at most LINE_MAX;
- a port is a number, where wg takes names of services too and forgets what exceeds 16 bits.
"""

import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import PurePath
from typing import Final

from wgpy.addresses import parse_decimal, parse_prefix
from wgpy.config import AllowedIP, require
from wgpy.errors import ConfigError
from wgpy.keys import parse_key

FILE_MAX: Final = 8 << 20  # bytes; 10,000 peers with 131,000 allowed IPs take about 4 MiB
LINE_MAX: Final = 1 << 20  # bytes; 50,000 allowed IPs
HOST_MAX: Final = 255  # characters; RFC 1035, 2.3.4
MTU_MIN_V6: Final = 1280  # bytes; RFC 8200, 5
PROBLEMS_MAX: Final = 100  # more than that are not kept

_FILE_NAME: Final = re.compile(r"([a-zA-Z0-9_=+.-]{1,15})\.conf")
_BLANKS: Final = " \t\n\v\f\r"  # of C, whatever the locale
_NO_BLANKS: Final = str.maketrans("", "", _BLANKS)
_SEPARATORS: Final = re.compile(f"[,{_BLANKS}]+")  # in lists of wg-quick
_HOST: Final = re.compile(r"[!-Z^-~]+")  # printable ASCII without blanks, brackets, backslash
_SERVER: Final = re.compile(r"[0-9.]+|.*:.*")  # what wg-quick takes for an address, not a domain
DOMAIN: Final = re.compile(r"[A-Za-z0-9._-]+")
_TABLE: Final = re.compile(r"[A-Za-z0-9_.-]*")  # a number, or a name of rt_tables


Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a line; 0 is the file as a whole."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Host:
    """Where a peer is said to be: an address without brackets or a name, and a UDP port.

    An address of IPv6 may have a zone: fe80::1%eth0.  Raises ConfigError for what is none.
    """

    host: str
    port: int

    def __post_init__(self) -> None:
        """Raise ConfigError for what cannot even be looked up."""
        named = len(self.host) <= HOST_MAX and _HOST.fullmatch(self.host) is not None
        require(named, "no name of a host in ASCII, nor an address")
        require(0 <= self.port <= 0xFFFF, "a port is 0 to 65535")


@dataclass(frozen=True, slots=True)
class AllowedIPs:
    """What a line of that name says.

    `replace` is False if a prefix has a sign: then the line adds to what the peer has, with "-" it
    takes away (wg since 2025).
    """

    prefixes: tuple[AllowedIP, ...]
    replace: bool = True


@dataclass(frozen=True, slots=True)
class Setting:
    """One line: what it says, and where it stands."""

    line: int
    value: object = field(repr=False)


@dataclass(slots=True)
class Section:
    """What follows a heading; settings by their name in lower case, in the order of the file."""

    line: int
    settings: dict[str, list[Setting]] = field(default_factory=dict)
    friendly_name: str = ""  # in a comment, as other tools give a peer one

    def all(self, name: str) -> list[Setting]:
        """Return each line of that name."""
        return self.settings.get(name, [])

    def last(self, name: str) -> object:
        """Return what the last line of that name says, which is the one that counts, or None."""
        settings = self.all(name)
        return settings[-1].value if settings else None

    def prefixes(self, name: str) -> Iterator[AllowedIP]:
        """Yield those of all its lines, whether Address or AllowedIPs."""
        for setting in self.all(name):
            value = setting.value
            if isinstance(value, AllowedIPs):
                yield from (prefix for prefix in value.prefixes if not prefix.remove)
            elif isinstance(value, tuple):
                yield from value


@dataclass(slots=True)
class QuickFile:
    """A file: its sections, and what is wrong with its lines, which are left out of them."""

    interfaces: list[Section] = field(default_factory=list)
    peers: list[Section] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def all(self, name: str) -> list[Setting]:
        """Return each line of a setting of the interface."""
        return [setting for section in self.interfaces for setting in section.all(name)]

    def last(self, name: str) -> object:
        """Return what counts of a setting of the interface, or None."""
        settings = self.all(name)
        return settings[-1].value if settings else None


def network_of(prefix: AllowedIP) -> Network:
    """Return what the prefix has in common with others: its host bits count for nothing."""
    pair = (prefix.address, prefix.cidr)
    if len(prefix.address) == 4:
        return IPv4Network(pair, strict=False)
    return IPv6Network(pair, strict=False)


def interface_of(path: PurePath) -> str | None:
    """Return the interface that wg-quick makes of a file of this name, None if it takes none."""
    found = _FILE_NAME.fullmatch(path.name)
    return None if found is None else found[1]


def parse_untrusted(data: bytes) -> QuickFile:
    """Return what a file says, and what is wrong with its lines, PROBLEMS_MAX at most."""
    parsed = QuickFile()
    if len(data) > FILE_MAX:
        parsed.problems.append(Problem(0, f"longer than {FILE_MAX >> 20} MiB"))
        return parsed
    reader = _Reader(parsed)
    for number, line in enumerate(BytesIO(data.removeprefix(BOM_UTF8)), 1):
        if problem := reader.read(line, number):
            parsed.problems.append(Problem(number, problem))
            if len(parsed.problems) == PROBLEMS_MAX:
                break
    return parsed


class _Reader:
    """Puts line after line into its section; each method returns what is wrong, or None."""

    def __init__(self, parsed: QuickFile) -> None:
        self._parsed = parsed
        self._section: Section | None = None
        self._is_peer = False

    def read(self, line: bytes, number: int) -> str | None:
        if len(line) > LINE_MAX:
            return f"longer than {LINE_MAX >> 20} MiB"
        try:
            text = line.decode()
        except UnicodeDecodeError:
            return "not UTF-8"
        if "\0" in text:
            return "a NUL"
        said, _, comment = text.partition("#")
        if said := said.strip(_BLANKS):
            return self._begin(said, number) if said.startswith("[") else self._add(said, number)
        self._name_peer(comment)
        return None

    def _begin(self, said: str, number: int) -> str | None:
        self._section = section = Section(number)
        heading = _without_blanks(said).lower()
        self._is_peer = heading == "[peer]"
        if self._is_peer:
            self._parsed.peers.append(section)
        elif heading == "[interface]":
            self._parsed.interfaces.append(section)
        else:
            self._section = None
            return "neither [Interface] nor [Peer]"
        return None

    def _add(self, said: str, number: int) -> str | None:
        if self._section is None:
            return "a line in no section"
        name, equals, value = said.partition("=")
        if not equals:
            return "a line without ="
        found = self._find(name.rstrip(_BLANKS))
        if isinstance(found, str):
            return found
        try:
            setting = Setting(number, found.read(value))
        except (ValueError, OSError, ConfigError):
            return f"{found.name}: {found.expected}"
        self._section.settings.setdefault(found.name.lower(), []).append(setting)
        return None

    def _find(self, name: str) -> "_Kind | str":
        """Return the kind of line, or what is wrong."""
        here, there = (_PEER, _INTERFACE) if self._is_peer else (_INTERFACE, _PEER)
        if kind := _look_up(here, name):
            return kind
        return (
            "it belongs in the other kind of section"
            if _look_up(there, name)
            else "no such setting"
        )

    def _name_peer(self, comment: str) -> None:
        name, equals, value = comment.partition("=")
        if self._section is not None and equals and name.strip() == "friendly_name":
            self._section.friendly_name = value.strip()


# ---- values ----
# Each raises ValueError, OSError or ConfigError for a bad one.


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of line.  wg's are read without any blanks, wg-quick's without those around."""

    name: str
    parse: Callable[[str], object]
    expected: str
    by_wg: bool = False

    def read(self, value: str) -> object:
        return self.parse(_without_blanks(value) if self.by_wg else value.strip(_BLANKS))


def _without_blanks(text: str) -> str:
    return text.translate(_NO_BLANKS)


def _look_up(kinds: Mapping[str, _Kind], name: str) -> _Kind | None:
    if kind := kinds.get(name.lower()):
        return kind
    kind = kinds.get(_without_blanks(name).lower())
    return kind if kind is not None and kind.by_wg else None


def parse_host(text: str) -> Host:
    """Return what an Endpoint says: 192.0.2.1:51820, [2001:db8::1]:51820, vpn.example:51820.

    Raises ValueError or ConfigError.
    """
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]:")
    else:
        host, bracket, port = text.rpartition(":")
    if not bracket:
        raise ValueError
    return Host(host, parse_decimal(port, 0xFFFF))


def _allowed_ips(value: str) -> AllowedIPs:
    prefixes = []
    replace = True
    for part in value.split(","):
        sign = part[:1] if part[:1] in ("+", "-") else ""
        address, length = _prefix(part[len(sign) :])[:2]
        prefixes.append(AllowedIP(address, length, remove=sign == "-"))
        replace = replace and not sign
    return AllowedIPs(tuple(prefixes), replace)


def _prefix(text: str) -> AllowedIP:
    address, slash, bits = text.partition("/")
    return parse_prefix(f"{address}/{parse_decimal(bits, 128)}" if slash else address)


def _addresses(value: str) -> tuple[AllowedIP, ...]:
    return tuple(_prefix(part) for part in _list(value))


def _dns(value: str) -> tuple[IPv4Address | IPv6Address | str, ...]:
    return tuple(
        _server(part) if _SERVER.fullmatch(part) else _domain(part) for part in _list(value)
    )


def _server(text: str) -> IPv4Address | IPv6Address:
    if "%" in text:
        raise ValueError  # a zone of which side?
    return ip_address(text)


def _domain(text: str) -> str:
    if not DOMAIN.fullmatch(text):
        raise ValueError
    return text


def _list(value: str) -> tuple[str, ...]:
    return tuple(part for part in _SEPARATORS.split(value) if part)


def _port(value: str) -> int:
    return parse_decimal(value, 0xFFFF)


def _seconds(value: str) -> int:
    return 0 if value.lower() == "off" else parse_decimal(value, 0xFFFF)


def _mark(value: str) -> int:
    if value.lower() == "off":
        return 0
    if value.startswith("0x"):
        value = str(int(value[2:], 16)) if value[2:].isalnum() else ""
    return parse_decimal(value, 0xFFFFFFFF)


def _mtu(value: str) -> int | None:
    return parse_decimal(value, 0xFFFF) if value else None


def _table(value: str) -> str:
    if not _TABLE.fullmatch(value):
        raise ValueError
    return value or "auto"


def _truth(value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise ValueError
    return value.lower() == "true"


def _text(value: str) -> str:
    return value


_KEY: Final = "no key of 32 bytes in base64"
_LIST: Final = "no list of addresses with prefix lengths, such as 10.0.0.0/24, fd00::/64"
_PORT: Final = "no number from 0 to 65535"
_KINDS: Final = (
    _Kind("PrivateKey", parse_key, _KEY, by_wg=True),
    _Kind("ListenPort", _port, _PORT, by_wg=True),
    _Kind("FwMark", _mark, "neither off nor a number of 32 bits", by_wg=True),
    _Kind("Address", _addresses, _LIST),
    _Kind("DNS", _dns, "no list of addresses of servers and of search domains"),
    _Kind("MTU", _mtu, "no number of bytes"),
    _Kind("Table", _table, "neither off nor auto nor a table"),
    _Kind("PreUp", _text, ""),
    _Kind("PostUp", _text, ""),
    _Kind("PreDown", _text, ""),
    _Kind("PostDown", _text, ""),
    _Kind("SaveConfig", _truth, "neither true nor false"),
)
_PEER_KINDS: Final = (
    _Kind("PublicKey", parse_key, _KEY, by_wg=True),
    _Kind("PresharedKey", parse_key, _KEY, by_wg=True),
    _Kind("AllowedIPs", _allowed_ips, _LIST, by_wg=True),
    _Kind(
        "Endpoint",
        parse_host,
        "no address or name with a port, such as 192.0.2.1:51820, [2001:db8::1]:51820",
        by_wg=True,
    ),
    _Kind("PersistentKeepalive", _seconds, "neither off nor seconds from 0 to 65535", by_wg=True),
)
_INTERFACE: Final = {kind.name.lower(): kind for kind in _KINDS}
_PEER: Final = {kind.name.lower(): kind for kind in _PEER_KINDS}
