# SPDX-License-Identifier: MIT
"""The configuration protocol of wg as text: requests to config data, a snapshot to a reply.

Source: the "Configuration Protocol" of WireGuard's cross-platform page, and what `wg` sends.  No
I/O here but one: the name of an IPv6 zone is looked up among this host's interfaces.

A request is validated as a whole before anybody sees it.  Requests arrive by the chunk and are
parsed as they arrive, so that neither their text is kept nor the control loop held up by a big one.
"""

import errno
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from wgpy.addresses import format_endpoint, parse_decimal, parse_endpoint, parse_prefix
from wgpy.config import (
    KEY_LEN,
    ZERO_KEY,
    AllowedIP,
    DeviceChange,
    DeviceSnapshot,
    PackedAllowedIPs,
    PeerChange,
    PeerSnapshot,
)
from wgpy.dataplane.plane import (
    ALLOWED_IPS_PER_TEXT,
    format_allowed_ips,
    parse_allowed_ips_untrusted,
)
from wgpy.errors import ConfigError

LINE_MAX: Final = 4096  # bytes; the longest sensible line has about 80
REQUEST_MAX: Final = 64 << 20  # bytes; 10,000 peers with 131,000 allowed IPs take about 10 MiB
_CHUNK: Final = 32 << 10  # bytes of a reply, or a little more

# So many lines that it is worth while to have C read them, and those that follow.
_SOME_ALLOWED_IPS: Final = re.compile(rb"allowed_ip=[^\n]*\n(?:allowed_ip=[^\n]*\n){7}")
_NEWLINE: Final = ord("\n")

# A key takes 64 characters of hex or 44 of base64; addresses have dots or colons in between.
_LOOKS_LIKE_A_KEY: Final = re.compile(r"[0-9A-Za-z+/]{40}")


@dataclass(frozen=True, slots=True)
class GetRequest:
    """The client asks for everything (`get=1`)."""


# What a complete request amounts to: answer it, apply it, or refuse it with this error.
Request = GetRequest | DeviceChange | ConfigError


# ---- values: ValueError or OSError for a bad one ----


def _parse_key(value: str) -> bytes:
    key = bytes.fromhex(value)
    if len(value) != 2 * KEY_LEN or len(key) != KEY_LEN:  # fromhex skips blanks
        raise ValueError
    return key


def _parse_u16(value: str) -> int:
    return parse_decimal(value, 0xFFFF)


def _parse_u32(value: str) -> int:
    return parse_decimal(value, 0xFFFFFFFF)


def _parse_true(value: str) -> bool:
    if value != "true":
        raise ValueError
    return True


def _parse_version(value: str) -> None:
    if value != "1":
        raise ValueError


def _parse_allowed_ip(value: str) -> AllowedIP:
    if value[:1] == "-":
        return parse_prefix(value[1:])._replace(remove=True)
    return parse_prefix(value)


# ---- set requests ----

# Line name -> (field of DeviceChange or PeerChange, its parser).  A later line wins.
_Lines = dict[str, tuple[str, Callable[[str], object]]]
_DEVICE_LINES: Final[_Lines] = {
    "private_key": ("private_key", _parse_key),
    "listen_port": ("listen_port", _parse_u16),
    "fwmark": ("fwmark", _parse_u32),
    "replace_peers": ("replace_peers", _parse_true),
}
_PEER_LINES: Final[_Lines] = {
    "remove": ("remove", _parse_true),
    "update_only": ("update_only", _parse_true),
    "preshared_key": ("preshared_key", _parse_key),
    "endpoint": ("endpoint", parse_endpoint),
    "persistent_keepalive_interval": ("persistent_keepalive_s", _parse_u16),
}


def _without_keys(line: str) -> str | None:
    """Return line if it may be logged, None if it holds a key or looks as if it might."""
    name = line.partition("=")[0]
    return None if "key" in name.lower() or _LOOKS_LIKE_A_KEY.search(line) else line


class SetRequest:
    """A set request in the making: takes the lines between `set=1` and the blank line."""

    __slots__ = ("_allowed_ips", "_device", "_packed", "_peer", "_peers")

    def __init__(self) -> None:
        self._device: dict[str, Any] = {}
        self._peers: list[PeerChange] = []
        self._peer: dict[str, Any] | None = None  # the section we are in
        self._packed = bytearray()  # the allowed IPs of that section up to some point
        self._allowed_ips: list[AllowedIP] = []  # the others

    def add_untrusted(self, lines: Iterable[str]) -> None:
        """Take lines without their newlines; after an error the request is of no more use.

        Raises ConfigError: EPROTO for a line without `=`, EINVAL for an unknown or misplaced name
        or a bad value.
        """
        line = ""
        try:
            for line in lines:
                name, equals, value = line.partition("=")
                if not equals:
                    raise ConfigError(errno.EPROTO, "a line without '='", _without_keys(line))
                if name == "allowed_ip" and self._peer is not None:  # there may be very many
                    self._allowed_ips.append(_parse_allowed_ip(value))
                elif name == "public_key":
                    self._begin_peer(value)
                elif self._peer is not None:
                    self._add_to_peer(self._peer, name, value)
                else:
                    _set_field(_DEVICE_LINES, self._device, name, value)
        except KeyError:
            reason = "unknown or misplaced key"
            raise ConfigError(errno.EINVAL, reason, _without_keys(line)) from None
        except (ValueError, OSError):
            raise ConfigError(errno.EINVAL, "bad value", _without_keys(line)) from None

    def add_allowed_ips_untrusted(self, text: bytes) -> int:
        """Take the `allowed_ip` lines that text begins with, up to the first that is no good.

        Returns how many bytes they are; none where they are misplaced.
        """
        if self._peer is None:
            return 0
        prefixes, used = parse_allowed_ips_untrusted(text)
        self._pack()
        self._packed += prefixes.packed
        return used

    def finish(self) -> DeviceChange:
        """Return the whole change, as the blank line is there."""
        self._end_peer()
        return DeviceChange(**self._device, peers=tuple(self._peers))

    def _add_to_peer(self, peer: dict[str, Any], name: str, value: str) -> None:
        if name == "replace_allowed_ips":
            peer["replace_allowed_ips"] = _parse_true(value)
            self._forget_allowed_ips()  # it replaces by what comes after it
        elif name == "protocol_version":
            _parse_version(value)
        else:
            _set_field(_PEER_LINES, peer, name, value)

    def _begin_peer(self, value: str) -> None:
        public_key = _parse_key(value)
        self._end_peer()
        self._peer = {"public_key": public_key}

    def _end_peer(self) -> None:
        if self._peer is not None:
            self._peers.append(PeerChange(**self._peer, allowed_ips=self._all_allowed_ips()))
        self._peer = None
        self._forget_allowed_ips()

    def _all_allowed_ips(self) -> Sequence[AllowedIP]:
        if not self._packed:
            return tuple(self._allowed_ips)
        self._pack()
        return PackedAllowedIPs(bytes(self._packed))

    def _pack(self) -> None:
        self._packed += PackedAllowedIPs.of(self._allowed_ips).packed
        self._allowed_ips.clear()

    def _forget_allowed_ips(self) -> None:
        self._packed.clear()
        self._allowed_ips.clear()


def _set_field(known: _Lines, fields: dict[str, Any], name: str, value: str) -> None:
    field, parse = known[name]
    fields[field] = parse(value)


# ---- requests in a stream ----


class _OpenRequest(Protocol):
    def add_untrusted(self, lines: Sequence[str]) -> None: ...
    def finish(self) -> Request: ...


class _OpenGet:
    def add_untrusted(self, lines: Sequence[str]) -> None:
        if lines:
            reason = "a line inside a get request"
            raise ConfigError(errno.EINVAL, reason, _without_keys(lines[0]))

    def finish(self) -> GetRequest:
        return GetRequest()


class _Refused:
    """A request that went wrong: the rest of it is passed over, so that the next one is found."""

    def __init__(self, error: ConfigError) -> None:
        self._error = error

    def add_untrusted(self, lines: Sequence[str]) -> None:
        pass

    def finish(self) -> ConfigError:
        return self._error


def _open_request(line: str) -> _OpenRequest:
    if line == "set=1":
        return SetRequest()
    if line == "get=1":
        return _OpenGet()
    code = errno.EINVAL if "=" in line else errno.EPROTO
    return _Refused(ConfigError(code, "unknown operation", _without_keys(line)))


class RequestParser:
    """Cuts one connection's bytes into requests, however they are fragmented or pipelined.

    Blank lines between requests mean nothing.  Memory is bounded by LINE_MAX and REQUEST_MAX.
    """

    def __init__(self) -> None:
        self._tail = b""  # the line that has not ended yet
        self._open: _OpenRequest | None = None
        self._size = 0  # bytes of the open request so far, give or take a chunk

    def feed_untrusted(self, data: bytes) -> Iterator[Request]:
        """Yield the requests that data completes.

        Raises ConfigError(EMSGSIZE) for a line or request without end: the connection is of no
        more use.
        """
        text = self._tail + data
        end = text.rfind(b"\n") + 1
        self._tail = text[end:]
        at = searched = 0
        while (some := _SOME_ALLOWED_IPS.search(text, searched, end)) is not None:
            start, searched = some.span()
            if start == 0 or text[start - 1] == _NEWLINE:
                yield from self._take_lines(text[at:start])
                at = start + self._take_allowed_ips(text[start:end])
                searched = max(searched, at)
        yield from self._take_lines(text[at:end])
        self._size += len(data)
        if len(self._tail) > LINE_MAX:
            raise ConfigError(errno.EMSGSIZE, "line too long")
        if self._open is not None and self._size > REQUEST_MAX:
            raise ConfigError(errno.EMSGSIZE, "request too long")

    def _take_lines(self, text: bytes) -> Iterator[Request]:
        """Take whole lines."""
        # Every byte is a character in Latin-1; no value parser accepts any beyond ASCII.
        *lines, _ = text.decode("latin-1").split("\n")
        start = 0
        for _ in range(lines.count("")):
            end = lines.index("", start)
            self._add(lines[start:end])
            start = end + 1
            if self._open is not None:
                yield self._finish(self._open)
        self._add(lines[start:])

    def _take_allowed_ips(self, text: bytes) -> int:
        """Take what C can read of many lines; -> how many bytes they are."""
        if not isinstance(self._open, SetRequest):
            return 0
        return self._open.add_allowed_ips_untrusted(text)

    def end_untrusted(self) -> Request | None:
        """Return what the end of the stream completes, if anything.

        A request may end here instead of with a blank line, as in wireguard-go, so that a pipe from
        a shell needs none.  If the stream ends within a line it was cut off, and what came before
        must not be taken for the whole: EPROTO.
        """
        if self._tail:
            return ConfigError(errno.EPROTO, "the connection ended within a line")
        return None if self._open is None else self._finish(self._open)

    def _add(self, lines: list[str]) -> None:
        if self._open is None and lines:
            self._open = _open_request(lines.pop(0))
        try:
            if self._open is not None:
                self._open.add_untrusted(lines)
        except ConfigError as error:
            # A new one, for this one's traceback leads to us: who leaves now would stay in memory.
            self._open = _Refused(ConfigError(error.errno, error.reason, error.line))

    def _finish(self, request: _OpenRequest) -> Request:
        self._open = None
        self._size = 0
        return request.finish()


# ---- replies ----


def format_get(snapshot: DeviceSnapshot) -> Iterator[bytes]:
    """Yield the lines of a get reply in chunks of some 32 KiB, without the errno line."""
    parts: list[str] = []
    size = 0
    for part in _format_device(snapshot):
        parts.append(part)
        size += len(part)
        if size >= _CHUNK:
            yield "".join(parts).encode("ascii")
            parts.clear()
            size = 0
    yield "".join(parts).encode("ascii")


def format_errno(code: int) -> bytes:
    """Return the end of every reply; code is 0 or a positive errno, which goes out negated."""
    return b"errno=%d\n\n" % -code


def _format_device(snapshot: DeviceSnapshot) -> Iterator[str]:
    if snapshot.private_key != ZERO_KEY:
        yield f"private_key={snapshot.private_key.hex()}\n"
    yield f"listen_port={snapshot.listen_port}\n"
    if snapshot.fwmark:
        yield f"fwmark={snapshot.fwmark}\n"
    for peer in snapshot.peers:
        yield _format_peer(peer)
        yield from _format_allowed_ips(peer.allowed_ips)


def _format_allowed_ips(prefixes: Sequence[AllowedIP]) -> Iterator[str]:
    if not isinstance(prefixes, PackedAllowedIPs):
        prefixes = PackedAllowedIPs.of(prefixes)
    if len(prefixes) <= ALLOWED_IPS_PER_TEXT:
        yield format_allowed_ips(prefixes)  # mostly; a part takes longer than its text
        return
    for at in range(0, len(prefixes), ALLOWED_IPS_PER_TEXT):
        yield format_allowed_ips(prefixes[at : at + ALLOWED_IPS_PER_TEXT])


def _format_peer(peer: PeerSnapshot) -> str:
    endpoint = "" if peer.endpoint is None else f"endpoint={format_endpoint(peer.endpoint)}\n"
    seconds, nanoseconds = divmod(peer.last_handshake_ns, 10**9)
    return (
        f"public_key={peer.public_key.hex()}\n"
        f"preshared_key={peer.preshared_key.hex()}\n"
        "protocol_version=1\n"
        f"{endpoint}"
        f"last_handshake_time_sec={seconds}\n"
        f"last_handshake_time_nsec={nanoseconds}\n"
        f"tx_bytes={peer.tx_bytes}\n"
        f"rx_bytes={peer.rx_bytes}\n"
        f"persistent_keepalive_interval={peer.persistent_keepalive_s}\n"
    )
