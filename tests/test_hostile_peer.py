"""A device with the real data plane against a peer written by hand, over loopback.

What must not happen is shown by what happens next: a counter of the data plane tells that the
message was seen, and a genuine one that follows is all that came out of the tunnel.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from itertools import count
from socket import AddressFamily
from typing import TYPE_CHECKING, TypeVar

import pytest
from changes import PeerFields
from hostile import INITIATION, RESPONSE, TRANSPORT, HostilePeer, Link
from loopback import LOOPBACK, Host, Loop, packet

from wgpy.config import AllowedIP, Endpoint, PeerChange
from wgpy.dataplane._core import lib
from wgpy.dataplane.plane import (
    INITIATION_LEN,
    KEEPALIVE_TIMEOUT_S,
    REJECT_AFTER_MESSAGES,
    REJECT_AFTER_TIME_S,
    REKEY_AFTER_TIME_S,
    REKEY_TIMEOUT_S,
    RESPONSE_LEN,
    SESSION_CURRENT,
    SESSION_NEXT,
    SESSION_PREVIOUS,
    TRANSPORT_OVERHEAD,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

pytestmark = pytest.mark.threads

T = TypeVar("T")

V4, V6 = socket.AF_INET, socket.AF_INET6
REPLAY_WINDOW = lib.WG_REPLAY_WINDOW
STAGED_MAX = lib.WG_STAGED_MAX
REKEY_ON_RECEIVE_S = REJECT_AFTER_TIME_S - KEEPALIVE_TIMEOUT_S - REKEY_TIMEOUT_S
INSIDE = bytes([10, 0, 0, 2])  # the peer's tunnel address
INDEX = 0xFEDCBA98
TWO_INITIATIONS_S = 0.02  # at least so long from one to the next
IPV4_HEADER_LEN = 20
NOT_ECT, ECT1, ECT0, CE = range(4)  # RFC 3168
EXPEDITED = 0xB8


class Duel:
    """A device, and the hostile peer that it is configured to talk to."""

    def __init__(self, stack: ExitStack) -> None:
        self.loop = Loop()
        self.host = Host(stack, self.loop, 1)
        self.peer = HostilePeer(stack, b"\x42" * 32)
        self.peer.device_key = self.host.public_key
        self.host.configure(private_key=self.host.private_key)
        self.host.device.up()
        self.peer.device_port = self.host.port
        self.configure()
        self._markers = count()

    def configure(self, **changes: "Unpack[PeerFields]") -> None:
        usual: PeerFields = {
            "endpoint": Endpoint(LOOPBACK[4], self.peer.port()),
            "allowed_ips": (AllowedIP(INSIDE, 32),),
        }
        section = PeerChange(self.peer.public_key, **(usual | changes))
        self.host.configure(section)

    # ---- what the device does ----------------------------------------------------------------

    def send(self, payload: bytes, tos: int = 0) -> None:
        """The host has a packet for the peer."""
        self.host.tun.send(packet(self.host.address, INSIDE, payload, tos))

    def next_frame(self) -> bytes:
        """What comes out of the tunnel next."""
        return self._arrival(lambda: self.host.tun.recv(65535))

    def counter(self, name: str) -> int:
        return self.host.plane.counters()[name]

    def until_counted(self, name: str, number: int) -> None:
        self.loop.until(lambda: self.counter(name) >= number)
        assert self.counter(name) == number

    def until_bad(self, number: int) -> None:
        self.loop.until(lambda: self.host.device.bad_messages >= number)
        assert self.host.device.bad_messages == number

    # ---- what the peer does ------------------------------------------------------------------

    def receive(self, kind: int, family: AddressFamily = V4) -> bytes:
        """The next message of this kind; the device may have had others to send before."""
        got = b""

        def came() -> bool:
            nonlocal got
            got = self.peer.receive(family) or b""
            return got[:1] == bytes([kind])

        self.loop.until(came)
        return got

    def next_kind(self) -> int:
        """The type of the next message, whatever it is."""
        return self._arrival(lambda: self.peer.sockets[V4].recv(65535))[0]

    def receive_marked(self, family: AddressFamily) -> tuple[bytes, int]:
        """The next message and its DSCP and ECN, for which the socket was told to ask."""
        message, ancillary, _, _ = self._arrival(
            lambda: self.peer.sockets[family].recvmsg(65535, socket.CMSG_SPACE(4))
        )
        return message, ancillary[0][2][0]

    def _arrival(self, take: Callable[[], T]) -> T:
        """What a call comes to that would block until something arrives."""
        got: list[T] = []

        def came() -> bool:
            with suppress(BlockingIOError):
                got.append(take())
            return bool(got)

        self.loop.until(came)
        return got[0]

    def inner(self, payload: bytes, source: bytes = INSIDE, tos: int = 0) -> bytes:
        return packet(source, self.host.address, payload, tos)

    def respond(self) -> Link:
        """The device has something to say, initiates and gets its answers."""
        self.send(b"staged")
        response, link = self.peer.respond(self.receive(INITIATION), INDEX)
        self.peer.send(response)
        link.open(self.receive(TRANSPORT))
        self.peer.send(link.seal())
        self.loop.until(lambda: not self.host.stats.tx_unanswered_since_ns)
        return link

    def handshake(self, index: int = INDEX) -> Link:
        """The peer initiates and gets its answer; the session is not confirmed."""
        self.loop.advance(TWO_INITIATIONS_S)
        message, finish = self.peer.initiate(index)
        self.peer.send(message)
        return finish(self.receive(RESPONSE))

    def session(self, index: int = INDEX) -> Link:
        """The peer initiates a session and uses it, so that the device does too."""
        link = self.handshake(index)
        self.deliver(link)
        self.loop.until(lambda: self.host.stats.sessions & SESSION_CURRENT)
        self.loop.until(lambda: not self.host.stats.sessions & SESSION_NEXT)
        return link

    def deliver(self, link: Link, message: bytes | None = None, family: AddressFamily = V4) -> None:
        """Send payload, or the message that carries it, and see it come out of the tunnel."""
        payload = b"genuine %d" % next(self._markers)
        before = len(self.host.read())
        self.peer.send(message or link.seal(self.inner(payload)), family)
        self.loop.until(lambda: len(self.host.read()) > before)
        assert len(self.host.received) == before + 1

    def hear(self, link: Link, payload: bytes, family: AddressFamily = V4) -> None:
        """The device sends payload under this session."""
        self.send(payload)
        opened = link.open(self.receive(TRANSPORT, family))
        assert opened[IPV4_HEADER_LEN:].startswith(payload)

    def sealed(self, link: Link, counter: int) -> bytes:
        return link.seal(self.inner(b"counter %d" % counter), counter)


@pytest.fixture
def duel() -> Iterator[Duel]:
    with ExitStack() as stack:
        yield Duel(stack)


# ---- both roles ----------------------------------------------------------------------------------


def test_the_peer_initiates(duel: Duel) -> None:
    link = duel.session()
    duel.hear(link, b"pong")


def test_the_peer_responds(duel: Duel) -> None:
    for number in range(3):
        duel.send(b"staged %d" % number)
    initiation = duel.receive(INITIATION)
    assert duel.peer.addressed_by(initiation)
    response, link = duel.peer.respond(initiation, INDEX)
    duel.peer.send(response)
    for number in range(3):
        opened = link.open(duel.receive(TRANSPORT))
        assert opened[IPV4_HEADER_LEN:].startswith(b"staged %d" % number)


def test_a_preshared_key_of_its_own_gets_the_peer_nothing(duel: Duel) -> None:
    duel.configure(preshared_key=b"\x05" * 32)
    duel.send(b"staged")
    initiation = duel.receive(INITIATION)
    wrong, _ = duel.peer.respond(initiation, INDEX, b"\x06" * 32)
    duel.peer.send(wrong)
    duel.until_bad(1)
    right, link = duel.peer.respond(initiation, INDEX, b"\x05" * 32)
    duel.peer.send(right)
    assert link.open(duel.receive(TRANSPORT))


def test_of_the_packets_that_wait_for_a_session_the_oldest_are_dropped(duel: Duel) -> None:
    dropped = 5
    for number in range(dropped + STAGED_MAX):
        duel.send(b"staged %03d" % number)
    initiation = duel.receive(INITIATION)
    duel.until_counted("tx_staged_dropped", dropped)
    response, link = duel.peer.respond(initiation, INDEX)
    duel.peer.send(response)
    for number in range(dropped, dropped + STAGED_MAX):
        opened = link.open(duel.receive(TRANSPORT))
        assert opened[IPV4_HEADER_LEN:].startswith(b"staged %03d" % number)


@pytest.mark.parametrize(
    ("length", "padded"),
    [(21, 32), (32, 32), (33, 48), (1408, 1408), (1409, 1420), (1420, 1420)],
)
def test_payload_is_padded_to_16_bytes_but_not_beyond_the_mtu(
    duel: Duel, length: int, padded: int
) -> None:
    duel.host.plane.set_mtu(1420)
    link = duel.session()
    duel.send(bytes(length - IPV4_HEADER_LEN))
    opened = link.open(duel.receive(TRANSPORT))
    assert opened[2:4] == length.to_bytes(2, "big")
    assert opened[length:] == bytes(padded - length)


# ---- renewal -------------------------------------------------------------------------------------


def test_the_device_renews_by_sending_a_session_that_it_began(duel: Duel) -> None:
    link = duel.respond()
    duel.loop.advance(REKEY_AFTER_TIME_S - 1)
    duel.hear(link, b"young enough")
    duel.loop.advance(1)
    duel.send(b"old enough")
    assert duel.next_kind() == TRANSPORT  # for it is still good
    assert duel.next_kind() == INITIATION


def test_the_device_renews_by_receiving_a_session_that_it_began(duel: Duel) -> None:
    link = duel.respond()
    duel.loop.advance(REKEY_ON_RECEIVE_S - 1)
    for _ in range(2):  # what the first asks for comes before the second is through
        duel.deliver(link)
    assert duel.peer.receive() is None
    duel.loop.advance(1)
    duel.deliver(link)
    duel.receive(INITIATION)


def test_the_device_leaves_the_renewal_of_a_session_of_the_peer_to_the_peer(duel: Duel) -> None:
    link = duel.session()
    duel.loop.advance(REKEY_ON_RECEIVE_S)
    duel.deliver(link)
    for number in range(3):
        duel.send(b"old %d" % number)
        assert duel.next_kind() == TRANSPORT


# ---- indexes -------------------------------------------------------------------------------------


def test_the_peer_may_use_its_index_again(duel: Duel) -> None:
    links = [duel.session(index=7) for _ in range(3)]
    assert len({link.theirs for link in links}) == 3
    duel.hear(links[-1], b"under the newest key")
    duel.deliver(links[-1])


def test_an_index_of_a_handshake_carries_no_payload(duel: Duel) -> None:
    duel.send(b"staged")
    initiation = duel.receive(INITIATION)
    response, link = duel.peer.respond(initiation, INDEX)
    early = link.seal(duel.inner(b"early"))
    duel.peer.send(early)
    duel.until_counted("rx_unknown_index", 1)
    duel.peer.send(response)
    duel.receive(TRANSPORT)
    duel.deliver(link)


def test_an_index_of_a_session_takes_no_second_response(duel: Duel) -> None:
    duel.send(b"staged")
    initiation = duel.receive(INITIATION)
    response, link = duel.peer.respond(initiation, INDEX)
    other_response, other = duel.peer.respond(initiation, INDEX + 1)
    duel.peer.send(response)
    duel.receive(TRANSPORT)
    duel.peer.send(response)
    duel.peer.send(other_response)
    duel.until_counted("rx_unknown_index", 2)
    duel.peer.send(other.seal(duel.inner(b"under the second")))
    duel.until_counted("rx_bad_tag", 1)
    duel.deliver(link)


def test_a_response_to_an_initiation_that_was_repeated_is_refused(duel: Duel) -> None:
    duel.send(b"staged")
    late, _ = duel.peer.respond(duel.receive(INITIATION), INDEX)
    duel.loop.advance(6)
    in_time, link = duel.peer.respond(duel.receive(INITIATION), INDEX)
    duel.peer.send(late)
    duel.until_counted("rx_unknown_index", 1)
    duel.peer.send(in_time)
    assert link.open(duel.receive(TRANSPORT))


# ---- races ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer_first", [True, False])
def test_both_initiate_at_once_and_both_sessions_carry_payload(
    duel: Duel, answer_first: bool
) -> None:
    duel.send(b"ping")
    answer, answered = duel.peer.respond(duel.receive(INITIATION), 1)
    message, finish = duel.peer.initiate(2)
    if answer_first:
        duel.peer.send(answer)
        assert answered.open(duel.receive(TRANSPORT))
    duel.peer.send(message)
    initiated = finish(duel.receive(RESPONSE))
    if not answer_first:
        duel.peer.send(answer)
        assert answered.open(duel.receive(TRANSPORT))
    for link in (initiated, answered, initiated):
        duel.deliver(link)


def test_the_session_of_the_peer_ends_the_attempt_of_the_device(duel: Duel) -> None:
    duel.send(b"ping")
    answer, _ = duel.peer.respond(duel.receive(INITIATION), 1)
    message, finish = duel.peer.initiate(2)
    duel.peer.send(message)
    initiated = finish(duel.receive(RESPONSE))
    duel.deliver(initiated)
    assert initiated.open(duel.receive(TRANSPORT))[IPV4_HEADER_LEN:].startswith(b"ping")
    duel.peer.send(answer)
    duel.until_counted("rx_unknown_index", 1)
    duel.hear(initiated, b"no other session came to be")


def test_a_session_that_is_not_confirmed_sends_nothing(duel: Duel) -> None:
    old = duel.session()
    new = duel.handshake()
    assert duel.host.stats.sessions == SESSION_CURRENT | SESSION_NEXT
    duel.hear(old, b"still under the old key")
    duel.deliver(new)
    duel.hear(new, b"under the new key")


def test_without_a_confirmed_session_payload_waits(duel: Duel) -> None:
    link = duel.handshake()
    duel.send(b"staged")
    duel.loop.until(lambda: duel.host.stats.staged == 1)
    duel.peer.send(link.seal())
    assert link.open(duel.receive(TRANSPORT))[IPV4_HEADER_LEN:].startswith(b"staged")


# ---- late messages -------------------------------------------------------------------------------


def test_messages_under_the_previous_key_may_be_late(duel: Duel) -> None:
    old = duel.session()
    late = [old.seal(duel.inner(b"late %d" % number)) for number in range(3)]
    new = duel.session()
    assert duel.host.stats.sessions == SESSION_CURRENT | SESSION_PREVIOUS
    for message in reversed(late):
        duel.deliver(old, message)
    duel.hear(new, b"they are no reason to go back")


def test_messages_under_the_key_before_the_previous_are_refused(duel: Duel) -> None:
    links = [duel.session() for _ in range(3)]
    before = duel.counter("rx_unknown_index")
    duel.peer.send(links[0].seal(duel.inner(b"too late")))
    duel.until_counted("rx_unknown_index", before + 1)
    duel.deliver(links[2])


def test_a_key_older_than_180_s_is_refused(duel: Duel) -> None:
    link = duel.session()
    duel.loop.advance(165)
    duel.deliver(link)
    duel.loop.advance(15)
    duel.peer.send(link.seal(duel.inner(b"too old")))
    duel.until_counted("rx_expired", 1)
    duel.session()
    assert all(payload.startswith(b"genuine") for payload in duel.host.received)


# ---- replays -------------------------------------------------------------------------------------


def test_replays_at_the_edges_of_the_window(duel: Duel) -> None:
    link = duel.session()  # which took counter 0
    newest = 3 * REPLAY_WINDOW
    oldest = newest - REPLAY_WINDOW
    for counter in (newest, oldest, oldest + 1, newest - 1):
        duel.deliver(link, duel.sealed(link, counter))
    refused = (newest, oldest, oldest + 1, newest - 1, oldest - 1, 0, 1)
    for number, counter in enumerate(refused, start=1):
        duel.peer.send(duel.sealed(link, counter))
        duel.until_counted("rx_replayed", number)
    duel.deliver(link, duel.sealed(link, newest + 1))
    duel.peer.send(duel.sealed(link, oldest))
    duel.until_counted("rx_replayed", len(refused) + 1)
    duel.deliver(link, duel.sealed(link, oldest + 2))


def test_a_jump_over_the_whole_window_forgets_nothing_it_must_know(duel: Duel) -> None:
    link = duel.session()
    for number, newest in enumerate((10**6, 10**12, 2**60), start=1):
        duel.deliver(link, duel.sealed(link, newest))
        duel.peer.send(duel.sealed(link, newest))
        duel.until_counted("rx_replayed", number)


def test_counters_end_at_reject_after_messages(duel: Duel) -> None:
    link = duel.session()
    for number, counter in enumerate((REJECT_AFTER_MESSAGES, 2**64 - 1), start=1):
        duel.peer.send(duel.sealed(link, counter))
        duel.until_counted("rx_replayed", number)
    duel.deliver(link, duel.sealed(link, REJECT_AFTER_MESSAGES - 1))


def test_a_forged_counter_does_not_move_the_window(duel: Duel) -> None:
    link = duel.session()
    message = link.seal(duel.inner(b"genuine"))
    duel.peer.send(message[:8] + (10**9).to_bytes(8, "little") + message[16:])
    duel.until_counted("rx_bad_tag", 1)
    duel.deliver(link, message)


def test_a_replayed_initiation_gets_no_answer_and_does_not_roam(duel: Duel) -> None:
    message, finish = duel.peer.initiate(INDEX)
    duel.peer.send(message)
    link = finish(duel.receive(RESPONSE))
    duel.deliver(link)
    duel.loop.advance(TWO_INITIATIONS_S)
    duel.peer.send(message, V6)
    duel.until_bad(1)
    duel.hear(link, b"to the old address")
    assert duel.peer.receive(V6) is None


def test_an_initiation_of_an_earlier_time_gets_no_answer(duel: Duel) -> None:
    duel.peer.time = 1000
    link = duel.session()
    for number, time in enumerate((1000, 999, 0), start=1):
        duel.loop.advance(TWO_INITIATIONS_S)
        duel.peer.send(duel.peer.initiate(INDEX, time=time)[0])
        duel.until_bad(number)
    duel.deliver(link)
    duel.session()


# ---- roaming -------------------------------------------------------------------------------------


def test_the_endpoint_family_changes_at_once_on_a_live_session(duel: Duel) -> None:
    link = duel.session()
    for family in (V6, V4, V6, V4):
        duel.deliver(link, family=family)
        duel.hear(link, b"answer", family)
    assert duel.host.stats.sessions == SESSION_CURRENT
    assert duel.peer.receive(V6) is None


def test_a_replay_from_elsewhere_does_not_roam(duel: Duel) -> None:
    link = duel.session()
    message = link.seal(duel.inner(b"genuine"))
    duel.deliver(link, message)
    duel.peer.send(message, V6)
    duel.until_counted("rx_replayed", 1)
    duel.hear(link, b"to the old address")


def test_payload_of_a_source_that_is_not_allowed_roams_all_the_same(duel: Duel) -> None:
    """It is authentic: only the host does not get it."""
    link = duel.session()
    duel.hear(link, b"from here on everything is answered")
    before = duel.host.stats
    message = link.seal(duel.inner(b"forged", source=bytes([10, 0, 0, 3])))
    duel.peer.send(message, V6)
    duel.until_counted("rx_not_allowed", 1)
    duel.loop.until(lambda: duel.host.stats.rx_bytes > before.rx_bytes)
    after = duel.host.stats
    assert after.rx_bytes == before.rx_bytes + len(message)
    assert after.rx_unanswered_since_ns > before.rx_any_ns
    assert (before.tx_unanswered_since_ns > 0, after.tx_unanswered_since_ns) == (True, 0)
    duel.hear(link, b"to the new address", V6)


# ---- marks ---------------------------------------------------------------------------------------

# RFC 6040, figure 4: by what the packet had and what its message has on arrival.  But for one: of
# congestion on a packet that cannot carry the mark it says to drop; the kernel module does not.
DECAPSULATED = {
    (NOT_ECT, NOT_ECT): NOT_ECT,
    (NOT_ECT, ECT0): NOT_ECT,
    (NOT_ECT, ECT1): NOT_ECT,
    (NOT_ECT, CE): NOT_ECT,
    (ECT0, NOT_ECT): ECT0,
    (ECT0, ECT0): ECT0,
    (ECT0, ECT1): ECT1,
    (ECT0, CE): CE,
    (ECT1, NOT_ECT): ECT1,
    (ECT1, ECT0): ECT1,
    (ECT1, ECT1): ECT1,
    (ECT1, CE): CE,
    (CE, NOT_ECT): CE,
    (CE, ECT0): CE,
    (CE, ECT1): CE,
    (CE, CE): CE,
}
MARKS = {
    V4: (socket.IPPROTO_IP, socket.IP_TOS, socket.IP_RECVTOS),
    V6: (socket.IPPROTO_IPV6, socket.IPV6_TCLASS, socket.IPV6_RECVTCLASS),
}


@pytest.mark.parametrize("family", [V4, V6], ids=["ipv4", "ipv6"])
def test_marks_on_the_way_come_in_as_rfc_6040_has_it(duel: Duel, family: AddressFamily) -> None:
    link = duel.session()
    level, option, _ = MARKS[family]
    for (inner, outer), expected in DECAPSULATED.items():
        duel.peer.sockets[family].setsockopt(level, option, outer)
        duel.peer.send(link.seal(duel.inner(b"payload", tos=EXPEDITED | inner)), family)
        wanted = duel.inner(b"payload", tos=EXPEDITED | expected)
        assert duel.next_frame() == wanted, (inner, outer)
    duel.until_counted("rx_ecn_ignored", 1)


@pytest.mark.parametrize("family", [V4, V6], ids=["ipv4", "ipv6"])
def test_each_packet_of_a_batch_leaves_with_its_own_mark_and_no_dscp(
    duel: Duel, family: AddressFamily
) -> None:
    level, _, option = MARKS[family]
    duel.configure(endpoint=Endpoint(LOOPBACK[4 if family == V4 else 6], duel.peer.port(family)))
    marks = [NOT_ECT, NOT_ECT, ECT0, ECT0, ECT0, CE, ECT1, ECT1, NOT_ECT, ECT0]
    for mark in marks:
        duel.send(bytes(100), tos=EXPEDITED | mark)
    initiation = duel.receive(INITIATION, family)
    duel.loop.until(lambda: duel.host.stats.staged == len(marks))
    duel.peer.sockets[family].setsockopt(level, option, 1)
    response, link = duel.peer.respond(initiation, INDEX)
    duel.peer.send(response, family)
    for mark in marks:
        message, tos = duel.receive_marked(family)
        assert link.open(message)[1] == EXPEDITED | mark
        assert tos == mark


# ---- garbage -------------------------------------------------------------------------------------


def test_messages_of_wrong_length_or_type_are_dropped(duel: Duel) -> None:
    link = duel.session()
    handshakes = {1: INITIATION_LEN, 2: RESPONSE_LEN, 3: 64}
    number = 0
    duel.peer.send(b"")
    for kind in range(6):
        for length in range(1, 160):
            right = length == handshakes.get(kind)
            if right or (kind == TRANSPORT and length >= TRANSPORT_OVERHEAD):
                continue
            duel.peer.send(bytes([kind]).ljust(length, b"\0"))
            number += 1
            if number % 50 == 0:  # the socket's buffer is bounded
                duel.until_counted("rx_invalid", number)
    duel.until_counted("rx_invalid", number)
    duel.deliver(link)


@pytest.mark.parametrize("byte", [1, 2, 3])
def test_reserved_bytes_must_be_zero(duel: Duel, byte: int) -> None:
    link = duel.session()
    initiation, _ = duel.peer.initiate(INDEX)
    for number, message in enumerate((link.seal(duel.inner(b"x")), initiation), start=1):
        changed = bytearray(message)
        changed[byte] = 1
        duel.peer.send(duel.peer.with_macs(bytes(changed[:-32])) if number == 2 else bytes(changed))
        duel.until_counted("rx_invalid", number)
    duel.deliver(link)


def test_every_byte_of_an_initiation_is_authenticated(duel: Duel) -> None:
    message, finish = duel.peer.initiate(INDEX)
    body = message[:116]
    for number, at in enumerate(range(8, len(body)), start=1):  # the sender's index is its own
        changed = bytearray(body)
        changed[at] ^= 1
        duel.peer.send(duel.peer.with_macs(bytes(changed)))
        duel.until_bad(number)
    duel.peer.send(message)
    duel.deliver(finish(duel.receive(RESPONSE)))


def test_every_byte_of_a_response_is_authenticated(duel: Duel) -> None:
    duel.send(b"staged")
    message, link = duel.peer.respond(duel.receive(INITIATION), INDEX)
    body = message[:60]
    for number, at in enumerate(range(12, len(body)), start=1):
        changed = bytearray(body)
        changed[at] ^= 1
        duel.peer.send(duel.peer.with_macs(bytes(changed)))
        duel.until_bad(number)
    duel.peer.send(message)
    assert link.open(duel.receive(TRANSPORT))


def test_a_wrong_mac1_is_refused_before_all_else(duel: Duel) -> None:
    message, finish = duel.peer.initiate(INDEX)
    for number, at in enumerate(range(116, 132), start=1):
        changed = bytearray(message)
        changed[at] ^= 0x80
        duel.peer.send(bytes(changed))
        duel.until_counted("rx_bad_mac1", number)
    assert duel.host.device.bad_messages == 0
    duel.peer.send(message)
    duel.deliver(finish(duel.receive(RESPONSE)))


@pytest.mark.parametrize("ephemeral", [bytes(32), b"\x01" + bytes(31)], ids=["zero", "one"])
def test_an_ephemeral_key_of_low_order_is_refused(duel: Duel, ephemeral: bytes) -> None:
    message, finish = duel.peer.initiate(INDEX)
    duel.peer.send(duel.peer.with_macs(message[:8] + ephemeral + message[40:116]))
    duel.until_bad(1)
    duel.peer.send(message)
    duel.deliver(finish(duel.receive(RESPONSE)))


def test_a_forged_cookie_reply_changes_nothing(duel: Duel) -> None:
    duel.send(b"staged")
    initiation = duel.receive(INITIATION)
    duel.peer.send(b"\x03\0\0\0" + initiation[4:8] + bytes(56))
    duel.until_bad(1)
    response, link = duel.peer.respond(initiation, INDEX)
    duel.peer.send(response)
    assert link.open(duel.receive(TRANSPORT))


def malformed(packet_: bytes) -> dict[str, bytes]:
    """Payloads that are no whole IP packet."""
    too_long = packet_[:2] + (len(packet_) + 17).to_bytes(2, "big") + packet_[4:]
    return {
        "no version": b"\0" * 16,
        "version 5": b"\x55" + packet_[1:],
        "half a header": packet_[:16],
        "longer than the payload": too_long,
        "shorter than its header": packet_[:2] + b"\0\x05" + packet_[4:],
        "IPv6 cut off": b"\x60" + bytes(31),
        "IPv6 longer than the payload": b"\x60\0\0\0\xff\xff" + bytes(42),
    }


def test_payload_that_is_no_packet_is_dropped_and_the_session_goes_on(duel: Duel) -> None:
    link = duel.session()
    before = duel.host.stats.rx_bytes
    bad = malformed(duel.inner(b"payload")).values()
    for number, payload in enumerate(bad, start=1):
        duel.peer.send(link.seal(payload))
        duel.until_counted("rx_malformed", number)
    assert duel.host.stats.rx_bytes > before
    duel.deliver(link)


def test_a_source_that_is_not_the_peers_is_dropped(duel: Duel) -> None:
    link = duel.session()
    duel.peer.send(link.seal(duel.inner(b"forged", source=bytes([10, 0, 0, 3]))))
    duel.until_counted("rx_not_allowed", 1)
    duel.deliver(link)


def test_the_largest_datagram_is_survived(duel: Duel) -> None:
    link = duel.session()
    message = link.seal(duel.inner(b"genuine"))
    for number, length in enumerate((65507, 65506, 16384), start=1):
        duel.peer.send(message[:16] + bytes(length - 16))
        duel.until_counted("rx_bad_tag", number)
    duel.deliver(link, message)
