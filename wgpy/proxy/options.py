# SPDX-License-Identifier: MIT
"""What the proxy is told by its command line."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from wgpy.addresses import parse_listen
from wgpy.proxy.credentials import Credentials
from wgpy.proxy.requests import Target, parse_target
from wgpy.settings import Config

LOOPBACK: Final = "127.0.0.1"
ANY: Final = "::"  # of both families
CONNECTIONS_MAX: Final = 1024
# A connection that does nothing is kept as long as a NAT has to (RFC 5382, REQ-5: 2 h 4 min); of
# datagrams as long as it should (RFC 4787, REQ-5).
IDLE_S: Final = 7440
DATAGRAMS_IDLE_S: Final = 300


@dataclass(frozen=True, slots=True)
class Forward:
    """What comes at one place goes to another."""

    at: Target
    to: Target
    is_udp: bool

    @classmethod
    def parse(cls, text: str, otherwise: str) -> "Forward":
        """Return it of [ADDRESS:]PORT=HOST:PORT[/udp].  Raises ValueError."""
        at, equals, to = text.partition("=")
        to, slash, protocol = to.partition("/")
        if not equals or (slash and protocol not in ("tcp", "udp")):
            raise ValueError
        return cls(_place(at, otherwise), parse_target(to), protocol == "udp")

    def __str__(self) -> str:
        """Return it as people read it."""
        return f"{self.at} to {self.to}{'/udp' if self.is_udp else ''}"


@dataclass(frozen=True, slots=True)
class Options:
    """All that it is to do.  Raises ValueError for what it is not to do unless told so."""

    config: Config
    socks5: tuple[Target, ...] = ()
    http: tuple[Target, ...] = ()
    local: tuple[Forward, ...] = ()  # listen here, connect in the tunnel
    remote: tuple[Forward, ...] = ()  # listen in the tunnel, connect here
    credentials: Credentials | None = None
    allows_remote: bool = False  # clients that are not of this host
    allows_open: bool = False  # and need no password
    connections_max: int = CONNECTIONS_MAX
    client_max: int = CONNECTIONS_MAX  # of one address
    idle_s: int = IDLE_S  # 0: no limit

    def __post_init__(self) -> None:
        """Raise ValueError for what it is not to do unless told so."""
        if not (self.socks5 or self.http or self.local or self.remote):
            raise ValueError("nothing to do: say --socks5, --http, -L or -R")
        if self.credentials is not None and not (self.socks5 or self.http):
            raise ValueError("--auth is for --socks5 and --http")
        proxies = (*self.socks5, *self.http)
        for place in _beyond_loopback((*proxies, *(one.at for one in self.local))):
            if not self.allows_remote:
                raise ValueError(f"{place} is open to other hosts: --allow-remote permits that")
        for place in _beyond_loopback(proxies):
            if self.credentials is None and not self.allows_open:
                raise ValueError(
                    f"{place} would let everybody into the tunnel: give --auth, "
                    "or --allow-open permits that"
                )


def _beyond_loopback(places: Iterable[Target]) -> Iterator[Target]:
    return (place for place in places if not ip_address(place.host).is_loopback)


def parse_options(
    config: Config,
    *,
    socks5: Iterable[str] = (),
    http: Iterable[str] = (),
    local: Iterable[str] = (),
    remote: Iterable[str] = (),
    auth: str | None = None,
    allow_remote: bool = False,
    allow_open: bool = False,
    max_connections: int = CONNECTIONS_MAX,
    max_per_client: int | None = None,
    idle: int = IDLE_S,
) -> Options:
    """Return them of what the command line says.  Raises ValueError."""
    if min(max_connections, max_connections if max_per_client is None else max_per_client) < 1:
        raise ValueError("at least one connection has to be allowed")
    if idle < 0:
        raise ValueError("--idle takes seconds, or 0 for no limit")
    return Options(
        config,
        socks5=tuple(_parse_place("--socks5", text) for text in socks5),
        http=tuple(_parse_place("--http", text) for text in http),
        local=tuple(_parse_forward("-L", text, LOOPBACK) for text in local),
        remote=tuple(_parse_forward("-R", text, ANY) for text in remote),
        credentials=None if auth is None else _read_credentials(auth),
        allows_remote=allow_remote,
        allows_open=allow_open,
        connections_max=max_connections,
        client_max=max_connections if max_per_client is None else max_per_client,
        idle_s=idle,
    )


def _place(text: str, otherwise: str) -> Target:
    try:
        return Target(*parse_listen(text, otherwise))
    except OSError:
        raise ValueError from None


def _parse_place(option: str, text: str) -> Target:
    try:
        return _place(text, LOOPBACK)
    except ValueError:
        raise ValueError(f"{option} takes [ADDRESS:]PORT, not {text!r}") from None


def _parse_forward(option: str, text: str, otherwise: str) -> Forward:
    try:
        return Forward.parse(text, otherwise)
    except ValueError:
        form = "[ADDRESS:]PORT=HOST:PORT[/udp]"
        raise ValueError(f"{option} takes {form}, not {text!r}") from None


def _read_credentials(path: str) -> Credentials:
    try:
        return Credentials.from_file(Path(path))
    except OSError as error:
        raise ValueError(f"--auth: {path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"--auth: {path}: {error}") from None
