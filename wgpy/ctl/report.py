# SPDX-License-Identifier: MIT
"""A status as text for people: what is wrong first, then what `wg show` would say, and more."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from wgpy.addresses import format_endpoint, format_prefix
from wgpy.ctl.printing import format_age, format_duration, format_size
from wgpy.keys import format_key
from wgpy.protocol.handshake import Handshake
from wgpy.status import DeviceStatus, Diagnosis, PeerStatus, Tally
from wgpy.text import format_errno, printable

Paint = Callable[[str, str], str]  # (what it is, text) -> text
Fact = tuple[str, str]  # its name, and what it says

# ECMA-48, 8.3.117
_COLOURS: Final = {
    "interface": "1;32",
    "peer": "1;33",
    "fact": "1",
    "ok": "1;32",
    "error": "1;31",
    "warning": "1;35",
    "note": "1;36",
}


def plain(_kind: str, text: str) -> str:
    """Paint nothing."""
    return text


def coloured(kind: str, text: str) -> str:
    """Paint for a terminal."""
    return f"\x1b[{_COLOURS[kind]}m{text}\x1b[0m"


def format_report(status: DeviceStatus, paint: Paint = plain) -> str:
    """Return lines, the last with its newline; all text from outside is made printable."""
    return "".join(f"{line}\n" for line in _lines(status, paint))


def _lines(status: DeviceStatus, paint: Paint) -> Iterator[str]:
    yield _heading("interface", status.interface, paint)
    for diagnosis in status.diagnoses or ():
        severity = str(diagnosis.severity)
        yield f"  {paint(severity, severity)}: {format_diagnosis(diagnosis)}"
    yield from _facts(_interface_facts(status), paint)
    for peer in status.peers:
        yield ""
        yield _heading("peer", format_key(peer.public_key), paint)
        yield from _facts(_peer_facts(peer), paint)


def format_diagnosis(diagnosis: Diagnosis) -> str:
    """Return its sentence with the peer, if it does not name it, and its code."""
    key = "" if diagnosis.peer is None else format_key(diagnosis.peer)
    about = f"peer {key}: " if key not in diagnosis.text else ""
    return printable(f"{about}{diagnosis.text} ({diagnosis.code})")


def _heading(kind: str, name: str, paint: Paint) -> str:
    return f"{paint(kind, kind)}: {paint(kind, printable(name))}"


def _facts(facts: Iterable[Fact], paint: Paint) -> Iterator[str]:
    for name, value in facts:
        yield f"  {paint('fact', name)}: {printable(value)}"


def _interface_facts(status: DeviceStatus) -> Iterator[Fact]:
    if status.public_key is not None:
        yield "public key", format_key(status.public_key)
    if status.listen_port:
        closed = " (closed)" if status.listening is False else ""
        yield "listening port", f"{status.listen_port}{closed}"
    if status.fwmark:
        yield "fwmark", hex(status.fwmark)
    if link := ", ".join(_link(status)):
        yield "link", link
    if carrier := ", ".join(_carrier(status)):
        yield "data plane", carrier
    yield from _tallies(status.drops, status.refusals)


def _link(status: DeviceStatus) -> Iterator[str]:
    if status.up is not None:
        yield "up" if status.up else "down"
    if status.mtu is not None:
        yield f"mtu {status.mtu}"


def _carrier(status: DeviceStatus) -> Iterator[str]:
    if status.workers is not None:
        yield f"{status.workers} worker{'s' if status.workers > 1 else ''}"
    if status.aead is not None:
        yield status.aead
    if status.features:
        yield " ".join(status.features)
    if status.under_load:
        yield "under load"


def _peer_facts(peer: PeerStatus) -> Iterator[Fact]:
    if peer.endpoint is not None:
        yield "endpoint", format_endpoint(peer.endpoint)
    yield "allowed ips", ", ".join(map(format_prefix, peer.allowed_ips)) or "(none)"
    if peer.last_handshake_age_s is not None:
        yield "latest handshake", format_age(peer.last_handshake_age_s)
    if peer.handshake not in (None, Handshake.IDLE, Handshake.ESTABLISHED):
        yield "handshake", _handshake(peer)
    if peer.responses and peer.responses_age_s is not None:
        answers = _count(peer.responses, "answer")
        yield "unconfirmed", f"{answers} in {format_duration(peer.responses_age_s)}"
    if peer.rx_bytes or peer.tx_bytes:
        received, sent = format_size(peer.rx_bytes), format_size(peer.tx_bytes)
        yield "transfer", f"{received} received, {sent} sent"
    if peer.staged:
        yield "waiting for a session", _count(peer.staged, "packet")
    if peer.persistent_keepalive_s:
        interval = format_duration(peer.persistent_keepalive_s)
        yield "persistent keepalive", f"every {interval}"
    yield from _tallies(peer.drops, peer.refusals)


def _handshake(peer: PeerStatus) -> str:
    state = "" if peer.handshake is None else peer.handshake.value
    if not peer.attempts:
        return state
    attempts = f"{state}, {_count(peer.attempts, 'attempt')}"
    if peer.attempts_age_s is None:
        return attempts
    return f"{attempts} in {format_duration(peer.attempts_age_s)}"


def _tallies(drops: Sequence[Tally], refusals: Sequence[Tally]) -> Iterator[Fact]:
    if text := "; ".join(map(_tally, drops)):
        yield "dropped", text
    if text := "; ".join(map(_tally, refusals)):
        yield "refused", text


def _tally(tally: Tally) -> str:
    last = [format_key(tally.public_key)] if tally.public_key else []
    last += [tally.address] if tally.address else []
    last += [format_errno(tally.errno)] if tally.errno else []
    last += [format_age(tally.age_s)] if tally.age_s is not None else []
    return f"{tally.count} {tally.reason}" + (f" ({', '.join(last)})" if last else "")


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
