# SPDX-License-Identifier: MIT
"""What is wrong with an interface, in words: from one status of it, without I/O and clock.

WireGuard is silent to strangers, so from one side much looks alike: a sentence names all that it
may be, claims none of it, and says where to look next.  What has been mended is not told any more:
a fact is of now while it is RECENT_S old at most and nothing has happened since that refutes it.
"""

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from wgpy.addresses import format_endpoint, parse_endpoint
from wgpy.keys import format_key
from wgpy.ports import BUFFER_LEN, Feature
from wgpy.protocol.constants import REJECT_AFTER_TIME_S, REKEY_TIMEOUT_S
from wgpy.protocol.handshake import UNANSWERED, Handshake
from wgpy.protocol.messages import INITIATION_LEN
from wgpy.status import DeviceStatus, Diagnosis, PeerStatus, Severity, Tally
from wgpy.text import format_errno

# Implementation constants.
RECENT_S: Final = REJECT_AFTER_TIME_S  # so long a session outlives its cause (6.1)
PEERS_PER_PIECE: Final = 64  # a millisecond
ATTEMPTS_MIN: Final = 2  # one message may be lost, and nothing be wrong

OFFLOADS: Final = (Feature.TUN_TSO, Feature.UDP_GSO, Feature.UDP_GRO)


class Code(str, enum.Enum):
    """What is wrong: stable names, the most important first."""

    __str__ = str.__str__

    NO_PRIVATE_KEY = "no-private-key", Severity.ERROR
    PORT_IN_USE = "port-in-use", Severity.ERROR
    ROUTING_LOOP = "routing-loop", Severity.ERROR
    UNREACHABLE = "unreachable", Severity.ERROR
    PSK_MISMATCH = "psk-mismatch", Severity.ERROR
    CLOCK_BACK = "clock-back", Severity.ERROR
    NO_ANSWER = "no-answer", Severity.ERROR
    UNCONFIRMED = "unconfirmed", Severity.ERROR
    UNKNOWN_INITIATOR = "unknown-initiator", Severity.WARNING
    WRONG_IDENTITY = "wrong-identity", Severity.WARNING
    NOT_ALLOWED = "not-allowed", Severity.WARNING
    NO_ENDPOINT = "no-endpoint", Severity.WARNING
    NO_PEER_FOR = "no-peer-for", Severity.WARNING
    UNDER_LOAD = "under-load", Severity.WARNING
    SMALL_BUFFERS = "small-buffers", Severity.NOTE
    NO_OFFLOAD = "no-offload", Severity.NOTE

    _value_: str
    severity: Severity

    def __new__(cls, name: str, severity: Severity) -> "Code":
        """Have the name alone as value."""
        code = str.__new__(cls, name)
        code._value_ = name
        code.severity = severity
        return code


OF_WHAT_IS_DOWN: Final = (Code.NO_PRIVATE_KEY.value,)


def diagnose(status: DeviceStatus) -> tuple[Diagnosis, ...]:
    """Return all that is wrong, the most important first, then in the order of the peers.

    Of an interface that is down only what keeps it from working when it is up: nothing comes or
    goes, so what was counted before is no fact of now.
    """
    return in_order(found for piece in examine(status) for found in piece)


def examine(status: DeviceStatus) -> Iterator[list[Diagnosis]]:
    """Yield the same in pieces, of the interface first and then of PEERS_PER_PIECE peers each."""
    yield _those_of_now(status, _of_interface(status))
    for at in range(0, len(status.peers), PEERS_PER_PIECE):
        peers = status.peers[at : at + PEERS_PER_PIECE]
        yield _those_of_now(status, _of_peers(status, peers))


def in_order(found: Iterable[Diagnosis]) -> tuple[Diagnosis, ...]:
    """Return what examine() yields as diagnose() does."""
    return tuple(sorted(found, key=lambda diagnosis: _IMPORTANCE[diagnosis.code]))


def _those_of_now(status: DeviceStatus, found: Iterable[Diagnosis]) -> list[Diagnosis]:
    return [one for one in found if status.up is not False or one.code in OF_WHAT_IS_DOWN]


def _of_interface(status: DeviceStatus) -> Iterator[Diagnosis]:
    for code, tell in _INTERFACE_RULES.items():
        text = tell(status)
        if text is not None:
            yield Diagnosis(code.value, code.severity, text)


def _of_peers(status: DeviceStatus, peers: Iterable[PeerStatus]) -> Iterator[Diagnosis]:
    for peer in peers:
        for code, tell in _PEER_RULES.items():
            text = tell(status, peer)
            if text is not None:
                yield Diagnosis(code.value, code.severity, text, peer.public_key)


# ---- of the interface: the sentence, or None ----


def _no_private_key(status: DeviceStatus) -> str | None:
    if status.public_key is not None:
        return None
    return (
        "there is no private key, so no handshake begins or is answered: set one, "
        f"`wg set {status.interface} private-key FILE`"
    )


def _port_in_use(status: DeviceStatus) -> str | None:
    if status.listening is not False or not status.up:
        return None
    return (
        f"UDP port {status.listen_port} is not to be had: most likely somebody else has it. "
        "Look at `ss -ulnp`; the log has the system's reason. It is tried again every second"
    )


def _unknown_initiator(status: DeviceStatus) -> str | None:
    tally = _recent(status.refusals, "unknown-initiator")
    if tally is None or any(peer.public_key == tally.public_key for peer in status.peers):
        return None  # it has become a peer since
    return (
        f"a handshake in the name of {format_key(tally.public_key)} came from {_place(tally)} "
        f"{_ago(tally.age_s)}, and no peer here has that key: if it is to be one, add it; "
        "else look whose it is"
    )


def _wrong_identity(status: DeviceStatus) -> str | None:
    tally = _recent(status.refusals, "bad-mac1")
    if tally is None or _has_come_since(status, tally):
        return None
    return (
        f"a handshake message from {_place(tally)}, {_ago(tally.age_s)}, is not meant for our "
        f"public key {format_key(status.public_key)}, or damaged: if its sender is a peer, look "
        "which PublicKey it has of us"
    )


def _no_peer_for(status: DeviceStatus) -> str | None:
    tally = _recent(status.drops, "no-peer")
    if tally is None:
        return None
    return (
        f"{_place(tally)} is in nobody's AllowedIPs, so packets to it are dropped, the last "
        f"{_ago(tally.age_s)}: add it to a peer's, or look at `ip route get` of it"
    )


def _under_load(status: DeviceStatus) -> str | None:
    tally = _recent(status.refusals, "under-load") or _recent(status.refusals, "rate-limited")
    if not status.under_load and tally is None:
        return None
    last = "" if tally is None else f", the last refused from {_place(tally)} {_ago(tally.age_s)}"
    return (
        "so many handshake messages come at once that their senders have to prove their "
        f"addresses first{last}: very many peers that begin together, or a flood. Look with "
        f"`tcpdump -ni any udp port {status.listen_port}` where they come from"
    )


def _small_buffers(status: DeviceStatus) -> str | None:
    if status.receive_buffer is None or status.receive_buffer >= BUFFER_LEN:
        return None
    limit = "" if status.rmem_max is None else f" (net.core.rmem_max is {status.rmem_max})"
    return (
        f"the sockets have {status.receive_buffer >> 10} KiB for what comes, and bursts at speed "
        f"need {BUFFER_LEN >> 10}{limit}: `sysctl -w net.core.rmem_max={BUFFER_LEN}`, then set "
        "the link down and up"
    )


def _no_offload(status: DeviceStatus) -> str | None:
    if status.workers is None or not status.listening:
        return None  # another implementation's; not known yet
    missing = [str(one.name) for one in OFFLOADS if one.name not in status.features]
    if not missing:
        return None
    return (
        f"without {', '.join(missing)} it is slower than it could be: look at the variables of "
        "its environment, at the age of the kernel (`uname -r`) and at `ethtool -k`"
    )


# ---- of a peer ----


def _routing_loop(status: DeviceStatus, peer: PeerStatus) -> str | None:
    if not peer.looped:
        return None
    return (
        f"the route to {_endpoint(peer)} leads into {status.interface} itself, so nothing is sent: "
        "give that address a route by the real gateway; look at `ip route get`"
    )


def _unreachable(_: DeviceStatus, peer: PeerStatus) -> str | None:
    tally = _failed_send(peer)
    if tally is None:
        return None
    return (
        f"cannot send to {_place(tally)}, {_ago(tally.age_s)}: {format_errno(tally.errno)}. Look "
        "at `ip route get` of that address and at what this host's firewall lets out"
    )


def _psk_mismatch(_: DeviceStatus, peer: PeerStatus) -> str | None:
    tally = _unopened_answer(peer)
    if tally is None:
        return None
    return (
        f"the peer answers from {_place(tally)}, but its answer, {_ago(tally.age_s)}, does not "
        "open: the preshared keys differ, unless somebody on the way alters it. Look at "
        "PresharedKey on both sides"
    )


def _clock_back(_: DeviceStatus, peer: PeerStatus) -> str | None:
    tally = _recent(peer.refusals, "old-timestamp")
    if tally is None or _is_refuted(tally, peer.last_received_age_s):
        return None
    return (
        f"a handshake of the peer from {_place(tally)}, {_ago(tally.age_s)}, has a timestamp that "
        "is not later than one before: its clock went back while it was restarted, or somebody "
        "repeats an old message of it. Look at `date` there; with a right clock, or removed and "
        "added again here, it is heard"
    )


def _no_answer(status: DeviceStatus, peer: PeerStatus) -> str | None:
    asked = _unanswered(peer)
    if asked is None or peer.looped or _failed_send(peer) or _unopened_answer(peer):
        return None  # or it is known why
    if _is_refuted_age(peer.attempts_age_s, peer.last_received_age_s):
        return (
            f"no answer to {asked}, though messages of the peer come: what we send to "
            f"{_endpoint(peer)} is lost, or its answers are. Look at a firewall on the way, and "
            "with tcpdump there"
        )
    return (
        f"no answer to {asked}: UDP to or from {_endpoint(peer)} is lost, nobody listens there, "
        f"the peer does not know our key {format_key(status.public_key)}, it has another key than "
        "we have of it, or our clock went back. Look there, with tcpdump and at its status"
    )


def _unconfirmed(_: DeviceStatus, peer: PeerStatus) -> str | None:
    if (peer.responses or 0) < ATTEMPTS_MIN or peer.looped or _failed_send(peer):
        return None  # or it is known why
    if peer.responses_age_s is None or not peer.responses_age_s >= REKEY_TIMEOUT_S:
        return None
    if peer.last_received_age_s is None or not peer.last_received_age_s <= RECENT_S:
        return None  # it asks no more
    return (
        f"the peer repeats its handshakes, though {peer.responses} answers went to "
        f"{_endpoint(peer)}, the first {_ago(peer.responses_age_s)}: they are lost on the way, or "
        "do not open there, for the preshared keys differ. Look at its status, which tells the one "
        "from the other, at PresharedKey on both sides, and with tcpdump there"
    )


def _not_allowed(_: DeviceStatus, peer: PeerStatus) -> str | None:
    tally = _recent(peer.drops, "not-allowed")
    if tally is None:
        return None
    return (
        f"packets of the peer from {_place(tally)} are dropped, {tally.count} so far, the last "
        f"{_ago(tally.age_s)}: that address is not in its AllowedIPs here. Add it, or look why "
        "the peer sends from it"
    )


def _no_endpoint(_: DeviceStatus, peer: PeerStatus) -> str | None:
    tally = _recent(peer.drops, "no-endpoint")
    if tally is None or peer.endpoint is not None:
        return None
    return (
        f"packets to the peer are dropped, the last {_ago(tally.age_s)}: it has no Endpoint here "
        "and has never called. Set one, or look why it does not call"
    )


_INTERFACE_RULES: Final[Mapping[Code, Callable[[DeviceStatus], str | None]]] = {
    Code.NO_PRIVATE_KEY: _no_private_key,
    Code.PORT_IN_USE: _port_in_use,
    Code.UNKNOWN_INITIATOR: _unknown_initiator,
    Code.WRONG_IDENTITY: _wrong_identity,
    Code.NO_PEER_FOR: _no_peer_for,
    Code.UNDER_LOAD: _under_load,
    Code.SMALL_BUFFERS: _small_buffers,
    Code.NO_OFFLOAD: _no_offload,
}

_PEER_RULES: Final[Mapping[Code, Callable[[DeviceStatus, PeerStatus], str | None]]] = {
    Code.ROUTING_LOOP: _routing_loop,
    Code.UNREACHABLE: _unreachable,
    Code.PSK_MISMATCH: _psk_mismatch,
    Code.CLOCK_BACK: _clock_back,
    Code.NO_ANSWER: _no_answer,
    Code.UNCONFIRMED: _unconfirmed,
    Code.NOT_ALLOWED: _not_allowed,
    Code.NO_ENDPOINT: _no_endpoint,
}

_IMPORTANCE: Final = {code.value: place for place, code in enumerate(Code)}


# ---- what is a fact of now ----


def _tally(tallies: tuple[Tally, ...], reason: str) -> Tally | None:
    return next((tally for tally in tallies if tally.reason == reason), None)


def _recent(tallies: tuple[Tally, ...], reason: str) -> Tally | None:
    tally = _tally(tallies, reason)
    return tally if tally is not None and _is_recent(tally) else None


def _is_recent(tally: Tally) -> bool:
    return tally.age_s is not None and tally.age_s <= RECENT_S


def _is_refuted(tally: Tally, age_s: float | None) -> bool:
    return _is_refuted_age(tally.age_s, age_s)


def _is_refuted_age(fact_age_s: float | None, age_s: float | None) -> bool:
    """Return whether something of this age, if it ever was, came after the fact."""
    return fact_age_s is not None and age_s is not None and age_s < fact_age_s


def _of_attempts(peer: PeerStatus, tally: Tally) -> bool:
    """Return whether it is recent, or of the attempts that are unanswered still."""
    if _is_recent(tally):
        return True
    return peer.handshake in UNANSWERED and not _is_refuted(tally, peer.attempts_age_s)


def _failed_send(peer: PeerStatus) -> Tally | None:
    """Return the last send, if it failed, to where we would send now."""
    tally = _tally(peer.drops, "send-error")
    if tally is None or _is_refuted(tally, peer.last_sent_age_s) or not _of_attempts(peer, tally):
        return None
    elsewhere = peer.endpoint is not None and tally.address not in ("", _endpoint(peer))
    return None if elsewhere else tally


def _unopened_answer(peer: PeerStatus) -> Tally | None:
    """Return the last answer, if it did not open and nothing that did has come since."""
    tally = _tally(peer.refusals, "bad-response")
    if tally is None or _is_refuted(tally, peer.last_received_age_s):
        return None
    return tally if _of_attempts(peer, tally) else None


def _unanswered(peer: PeerStatus) -> str | None:
    """Return what was asked without an answer, in words, if that is more than a lost message."""
    if peer.handshake is None:  # another implementation's: it tells only of bytes
        alone = peer.tx_bytes >= ATTEMPTS_MIN * INITIATION_LEN and not peer.rx_bytes
        return f"{peer.tx_bytes} bytes" if alone and peer.last_handshake_age_s is None else None
    if peer.handshake not in UNANSWERED or (peer.attempts or 0) < ATTEMPTS_MIN:
        return None
    if peer.attempts_age_s is None or not peer.attempts_age_s >= REKEY_TIMEOUT_S:
        return None
    given_up = ", given up until there is traffic" * (peer.handshake is Handshake.GIVEN_UP)
    return f"{peer.attempts} handshakes, the first {_ago(peer.attempts_age_s)}{given_up}"


def _has_come_since(status: DeviceStatus, tally: Tally) -> bool:
    """Return whether a peer at that address was heard after it."""
    try:
        place = parse_endpoint(tally.address)
    except (ValueError, OSError):
        return False
    at_it = (peer for peer in status.peers if peer.endpoint == place)
    return any(_is_refuted(tally, peer.last_received_age_s) for peer in at_it)


# ---- in words ----


def _endpoint(peer: PeerStatus) -> str:
    return "its endpoint" if peer.endpoint is None else format_endpoint(peer.endpoint)


def _place(tally: Tally) -> str:
    return tally.address or "an unknown address"


def _ago(age_s: float | None) -> str:
    if age_s is None:
        return "some time ago"
    if age_s < 1:
        return "just now"
    for unit, seconds in (("d", 86400), ("h", 3600), ("min", 60)):
        if age_s >= 2 * seconds:
            return f"{age_s / seconds:.0f} {unit} ago"
    return f"{age_s:.0f} s ago"
