"""Files of wg-quick: which lines they may have, and what those say.  See wg-quick(8) and wg(8).

What a line says wrong is told by its number; neither a key nor another value is ever in a text.
"""

import re
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Final

from wgpy.addresses import parse_decimal, parse_prefix
from wgpy.config import KEY_LEN, AllowedIP

FILE_MAX: Final = 64 << 20  # bytes; as much as a request may have

_FILE_NAME: Final = re.compile(r"([a-zA-Z0-9_=+.-]{1,15})\.conf")
# How other tools give a peer a name: in a comment of its section.
_FRIENDLY_NAME: Final = re.compile(r"#\s*friendly_name\s*=\s*(.*\S)")


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a line; 0 is the file as a whole."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Host:
    """Where a peer is said to be: an address without brackets, or a name."""

    host: str
    port: int


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
    friendly_name: str = ""

    def all(self, name: str) -> list[Setting]:
        """Return each line of that name."""
        return self.settings.get(name, [])

    def last(self, name: str) -> object:
        """Return what the last line of that name says, which is the one that counts, or None."""
        settings = self.all(name)
        return settings[-1].value if settings else None

    def prefixes(self, name: str) -> Iterator[AllowedIP]:
        """Yield those of all its lines."""
        for setting in self.all(name):
            if isinstance(setting.value, tuple):
                yield from setting.value


@dataclass(slots=True)
class QuickFile:
    """A file: its sections, and what is wrong with its lines, which are left out of them."""

    interfaces: list[Section] = field(default_factory=list)
    peers: list[Section] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def last(self, name: str) -> object:
        """Return what counts of a setting of the interface, or None."""
        values = [section.last(name) for section in self.interfaces]
        return next((value for value in reversed(values) if value is not None), None)


def interface_of(path: PurePath) -> str | None:
    """Return the interface that wg-quick makes of a file of this name, None if it takes none."""
    found = _FILE_NAME.fullmatch(path.name)
    return None if found is None else found[1]


def parse_untrusted(text: str) -> QuickFile:
    """Return what a file says, and all that is wrong with its lines."""
    parsed = QuickFile()
    known: _Known = {}
    section: Section | None = None
    for number, line in enumerate(text.split("\n"), 1):
        if section is not None and (named := _FRIENDLY_NAME.fullmatch(line.strip())):
            section.friendly_name = named[1]
        said = line.partition("#")[0].strip()
        if said.startswith("["):
            known, section = _begin(parsed, said, number)
        elif said and (problem := _add(known, section, said, number)):
            parsed.problems.append(Problem(number, problem))
    return parsed


def _begin(parsed: QuickFile, heading: str, number: int) -> tuple["_Known", Section | None]:
    section = Section(number)
    if heading.lower() == "[interface]":
        parsed.interfaces.append(section)
        return _INTERFACE, section
    if heading.lower() == "[peer]":
        parsed.peers.append(section)
        return _PEER, section
    parsed.problems.append(Problem(number, "neither [Interface] nor [Peer]"))
    return {}, None


def _add(known: "_Known", section: Section | None, said: str, number: int) -> str | None:
    """Add a line to its section; -> what is wrong with it."""
    if section is None:
        return "a line in no section"
    name, equals, value = (part.strip() for part in said.partition("="))
    if not equals:
        return "a line without ="
    parse = known.get(name.lower())
    if parse is None:
        elsewhere = name.lower() in {**_INTERFACE, **_PEER}
        return "it belongs in the other kind of section" if elsewhere else "no such setting"
    try:
        setting = Setting(number, parse(value))
    except (ValueError, OSError):
        return f"{name}: {_EXPECTED[parse]}"
    section.settings.setdefault(name.lower(), []).append(setting)
    return None


# ---- values: ValueError or OSError for a bad one ----

_Parse = Callable[[str], object]
_Known = Mapping[str, _Parse]


def _key(value: str) -> bytes:
    key = b64decode(value, validate=True)
    if len(key) != KEY_LEN:
        raise ValueError
    return key


def _prefixes(value: str) -> tuple[AllowedIP, ...]:
    parts = (part.strip() for part in value.split(","))
    return tuple(parse_prefix(part) for part in parts if part)


def _host(value: str) -> Host:
    host, _, port = value.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not host or any(c.isspace() for c in host):
        raise ValueError
    return Host(host, parse_decimal(port, 0xFFFF))


def _port(value: str) -> int:
    return parse_decimal(value, 0xFFFF)


def _seconds(value: str) -> int:
    return 0 if value == "off" else parse_decimal(value, 0xFFFF)


def _mark(value: str) -> int:
    if value.lower().startswith("0x"):
        value = str(int(value, 16))
    return 0 if value == "off" else parse_decimal(value, 0xFFFFFFFF)


def _mtu(value: str) -> int:
    return parse_decimal(value, 0xFFFF)


def _truth(value: str) -> bool:
    if value not in ("true", "false"):
        raise ValueError
    return value == "true"


def _text(value: str) -> str:
    return value


_INTERFACE: Final[_Known] = {
    "privatekey": _key,
    "listenport": _port,
    "fwmark": _mark,
    "address": _prefixes,
    "dns": _text,
    "mtu": _mtu,
    "table": _text,
    "preup": _text,
    "postup": _text,
    "predown": _text,
    "postdown": _text,
    "saveconfig": _truth,
}
_PEER: Final[_Known] = {
    "publickey": _key,
    "presharedkey": _key,
    "allowedips": _prefixes,
    "endpoint": _host,
    "persistentkeepalive": _seconds,
}
_EXPECTED: Final[Mapping[_Parse, str]] = {
    _key: "no key of 32 bytes in base64",
    _prefixes: "no list of addresses with prefix lengths, such as 10.0.0.0/24, fd00::/64",
    _host: "no address or name with a port, such as 192.0.2.1:51820, [2001:db8::1]:51820",
    _port: "no number from 0 to 65535",
    _seconds: "neither off nor seconds from 0 to 65535",
    _mark: "neither off nor a number of 32 bits",
    _mtu: "no number of bytes",
    _truth: "neither true nor false",
}
