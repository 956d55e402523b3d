# SPDX-License-Identifier: MIT
"""What the core does when the kernel refuses, or does half; no kernel here does so by itself."""

import errno
import select
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace

import pytest
from core_numbers import (
    MESSAGE_TRANSPORT,
    REJECT_AFTER_MESSAGES,
    REKEY_AFTER_MESSAGES,
    TRANSPORT_OVERHEAD,
)
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from wgpy.config import AllowedIP, Endpoint
from wgpy.dataplane.plane import Plane
from wgpy.dataplane.types import MessageEvent, PendingEvent, PlaneIO, Session, WorkerIO
from wgpy.ports import Feature

from .ends import WAIT_S
from .faults import FaultyKernel, Message, refusing, willing
from .packets import UDP, Packet, vnet

pytestmark = pytest.mark.threads

KEY = bytes(range(32))
LOOPBACK = socket.inet_aton("127.0.0.1")
NOT_OURS = socket.inet_aton("192.0.2.77")
FEATURES = Feature.VNET_HDR | Feature.TUN_TSO | Feature.TUN_USO
PLAIN = vnet()
SMALL, LARGE = 100, 484  # payloads; with the headers multiples of 16, so not padded
HEADERS = 28  # IPv4 and UDP, inside


def segment(payload: int) -> int:
    """The length of the message that carries it."""
    return payload + HEADERS + TRANSPORT_OVERHEAD


class Wire:
    """A plane with peers 0, 1 and 2, of which the test has the sockets, and the TUN's other end.

    It runs from `start` on: what was sent before, either way, it finds in one go.
    """

    def __init__(self, stack: ExitStack, lanes: int = 1) -> None:
        self.plane = stack.enter_context(closing(Plane(lanes=lanes)))
        self.tun, self.lent_tun = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.lent_udp, *self.peers = (socket.socket(type=socket.SOCK_DGRAM) for _ in range(4))
        for end in (self.tun, self.lent_tun, self.lent_udp, *self.peers):
            stack.enter_context(end)
        stack.callback(self.plane.stop)
        for lent in (self.lent_tun, self.lent_udp):
            lent.setblocking(False)
        for end in (self.tun, *self.peers):
            end.settimeout(WAIT_S)
        for udp in (self.lent_udp, *self.peers):
            udp.bind(("127.0.0.1", 0))
        self._indexes = [self._add_peer(number) for number in range(len(self.peers))]
        self._sealed = 0

    def _add_peer(self, number: int) -> int:
        assert self.plane.add_peer() == number
        self.plane.change_allowed_ips(number, [AllowedIP(bytes([10, number, 0, 0]), 16)])
        self.plane.set_endpoint(number, self.endpoint(number))
        return self.install(number)

    def endpoint(self, number: int) -> Endpoint:
        return Endpoint(LOOPBACK, self.port(number))

    def port(self, number: int) -> int:
        port: int = self.peers[number].getsockname()[1]
        return port

    def install(self, number: int) -> int:
        """A new session with the peer; -> our index."""
        index = self.plane.reserve_index(number)
        session = Session(KEY, KEY, index, 7, self.plane.now_ns(), True)
        self.plane.install_keypair(number, session)
        return index

    def start(self, features: Feature = FEATURES | Feature.UDP_GSO) -> None:
        worker = WorkerIO(self.lent_tun.fileno(), self.lent_udp.fileno(), -1)
        self.plane.start(PlaneIO((worker,), features))

    # ---- out ----

    def send(self, number: int, count: int, payload: int = SMALL, rest: int = 0) -> list[bytes]:
        """Packets to the peer in one frame, which makes a batch of them; `rest`: of the last."""
        whole = Packet(
            protocol=UDP,
            dst=0x0A000001 | number << 16,
            payload=b"".join(bytes([i]) * payload for i in range(count)) + bytes(rest),
        )
        packets = [bytes(packet) for packet in whole.segments(payload)]
        self.tun.send(whole.frame(payload) if len(packets) > 1 else PLAIN + packets[0])
        return packets

    def arrivals(self, number: int, count: int) -> tuple[list[int], list[bytes]]:
        """So many messages to the peer as they come: their counters, and the packets in them."""
        messages = [self.peers[number].recv(65535) for _ in range(count)]
        counters = [int.from_bytes(message[8:16], "little") for message in messages]
        key = ChaCha20Poly1305(KEY)
        packets = [key.decrypt(bytes(4) + m[8:16], m[16:], b"") for m in messages]
        return counters, [packet[: int.from_bytes(packet[2:4], "big")] for packet in packets]

    def assert_all_came(self, number: int, packets: Sequence[bytes], first: int = 0) -> None:
        """All, once and in order, and nothing between them and what is sent next."""
        last = first + len(packets)
        assert self.arrivals(number, len(packets)) == (list(range(first, last)), packets)
        after = self.send(number, 1)
        assert self.arrivals(number, 1) == ([last], after)

    # ---- in ----

    def receive(self, packets: Sequence[bytes]) -> None:
        """Let peer 0 send packets to the plane."""
        for packet in packets:
            self.peers[0].sendto(self.seal(packet), self.lent_udp.getsockname())

    def seal(self, packet: bytes) -> bytes:
        """The next message of peer 0."""
        nonce = self._sealed.to_bytes(8, "little")
        self._sealed += 1
        header = struct.pack("<II", MESSAGE_TRANSPORT, self._indexes[0])
        return header + nonce + ChaCha20Poly1305(KEY).encrypt(bytes(4) + nonce, packet, b"")

    def frames(self, count: int) -> list[bytes]:
        return [self.tun.recv(65535) for _ in range(count)]

    def assert_goes_on(self) -> None:
        """The next packet is the next that comes out of the TUN."""
        [packet] = flow(9, 1)
        self.receive([packet])
        assert self.frames(1) == [PLAIN + packet]
        assert self.plane.failure is None

    def failure(self) -> int | None:
        """Why a thread ends."""
        while (failure := self.plane.failure) is None:
            self._next_events()
        return failure.errno

    # ---- what became of it ----

    def _next_events(self) -> list[PendingEvent | MessageEvent]:
        assert select.select([self.plane.event_fd], [], [], WAIT_S)[0]
        return self.plane.take_events()

    def await_wish_for_handshake(self) -> None:
        while not wants_handshake(self._next_events()):
            pass

    def count(self, name: str) -> int:
        """What the threads have counted when they have ended."""
        self.plane.stop()
        return self.plane.counters()[name]

    def source(self) -> bytes:
        """From where peer 0 is sent to when the threads have ended."""
        self.plane.stop()
        endpoint = self.plane.stats(0).endpoint
        assert endpoint is not None
        return endpoint.source


def wants_handshake(events: Sequence[object]) -> bool:
    return any(isinstance(event, PendingEvent) and event.want_handshake for event in events)


@pytest.fixture(params=[1, 3], ids=["one lane", "three lanes"])
def wire(request: pytest.FixtureRequest, kernel: FaultyKernel) -> Iterator[Wire]:
    with ExitStack() as stack:
        yield Wire(stack, lanes=request.param)


def flow(number: int, count: int, payload: int = SMALL) -> list[bytes]:
    """Packets from peer 0 that make one frame."""
    packet = Packet(protocol=UDP, dst=0x0A090001, sport=number)
    return [bytes(replace(packet, ident=i, payload=bytes([i]) * payload)) for i in range(count)]


def batches(kernel: FaultyKernel, port: int) -> list[int]:
    """The segments of the messages to the port that were batched, or tried to be."""
    return [m.segment for send in kernel.sends for m in send if m.port == port and m.segment]


def is_batch(message: Message) -> bool:
    return message.segment > 0


# ---- out: batches ----


def test_a_batch_leaves_in_one_piece(kernel: FaultyKernel, wire: Wire) -> None:
    packets = wire.send(0, 10, rest=SMALL // 2)
    wire.start()
    wire.assert_all_came(0, packets)
    assert batches(kernel, wire.port(0)) == [segment(SMALL)]


def test_on_eio_that_peer_is_sent_no_more_batches_and_the_others_are(
    kernel: FaultyKernel, wire: Wire
) -> None:
    refused, other = wire.port(0), wire.port(1)
    kernel.on_send = refusing(errno.EIO, lambda m: m.port == refused and m.segment)
    sent = [wire.send(peer, 10, LARGE, rest=SMALL) for peer in (0, 1)]
    wire.start()
    for peer in (0, 1):
        wire.assert_all_came(peer, sent[peer])
    kernel.sends.clear()
    wire.assert_all_came(0, wire.send(0, 10, SMALL), first=12)
    wire.assert_all_came(1, wire.send(1, 10, LARGE), first=12)
    assert batches(kernel, refused) == [], "it was tried again, with shorter ones"
    assert batches(kernel, other) == [segment(LARGE)]
    assert wire.count("tx_send_errors") == 0


@pytest.mark.parametrize("error", [errno.EMSGSIZE, errno.EINVAL], ids=errno.errorcode.get)
def test_a_peer_is_sent_no_more_batches_of_a_size_that_does_not_fit(
    kernel: FaultyKernel, wire: Wire, error: int
) -> None:
    too_long, refused = segment(LARGE), wire.port(0)
    kernel.on_send = refusing(error, lambda m: m.port == refused and m.segment >= too_long)
    wire.start()
    wire.assert_all_came(0, wire.send(0, 10, LARGE, rest=SMALL))
    assert batches(kernel, refused) == [too_long]
    wire.assert_all_came(0, wire.send(0, 10, LARGE), first=12)
    assert batches(kernel, refused) == [too_long], "it was tried again"
    wire.assert_all_came(0, wire.send(0, 10, SMALL), first=23)
    wire.assert_all_came(1, wire.send(1, 10, LARGE))
    assert batches(kernel, refused) == [too_long, segment(SMALL)]
    assert batches(kernel, wire.port(1)) == [too_long]
    assert wire.count("tx_send_errors") == 0


@pytest.mark.parametrize("error", [errno.EMSGSIZE, errno.EIO], ids=errno.errorcode.get)
def test_a_new_session_tries_the_size_again(kernel: FaultyKernel, wire: Wire, error: int) -> None:
    kernel.on_send = refusing(error, is_batch)
    wire.start()
    wire.assert_all_came(0, wire.send(0, 10))
    wire.install(0)
    wire.assert_all_came(0, wire.send(0, 10))
    assert batches(kernel, wire.port(0)) == [segment(SMALL)] * 2


@pytest.mark.parametrize("error", [errno.EPERM, errno.EACCES], ids=errno.errorcode.get)
def test_what_the_kernel_refuses_for_good_is_counted_and_the_rest_goes(
    kernel: FaultyKernel, wire: Wire, error: int
) -> None:
    kernel.on_send = refusing(error, lambda m: m.port == wire.port(1))
    sent = [wire.send(peer, 10) for peer in (0, 1, 2)]
    wire.start()
    for peer in (0, 2):
        wire.assert_all_came(peer, sent[peer])
    kernel.on_send = willing
    wire.assert_all_came(1, [], first=10)
    assert wire.count("tx_send_errors") == 10


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_send_of_fewer_than_asked_goes_on_from_there(
    kernel: FaultyKernel, wire: Wire, most: int
) -> None:
    kernel.on_send = lambda messages: min(len(messages), most)
    sent: list[list[bytes]] = [[], [], []]
    for _ in range(3):
        for peer in (0, 1, 2):
            sent[peer] += wire.send(peer, 4)
    wire.start()
    for peer in (0, 1, 2):
        wire.assert_all_came(peer, sent[peer])
    asked = list(range(9, 0, -most))
    assert [len(send) for send in kernel.sends][: len(asked)] == asked
    assert wire.count("tx_send_errors") == 0


def test_an_interrupted_send_is_repeated(kernel: FaultyKernel, wire: Wire) -> None:
    answers = iter([-errno.EINTR, -errno.EINTR, 1, -errno.EINTR])
    kernel.on_send = lambda messages: next(answers, len(messages))
    sent = [wire.send(peer, 4) for peer in (0, 1, 2)]
    wire.start()
    for peer in (0, 1, 2):
        wire.assert_all_came(peer, sent[peer])
    assert [len(send) for send in kernel.sends][:5] == [3, 3, 3, 2, 2]
    assert wire.count("tx_send_errors") == 0


# ---- out: the source address ----


def lose_source(wire: Wire) -> None:
    """Peer 0 is at a path from an address that this host has no more."""
    wire.plane.set_endpoint(0, replace(wire.endpoint(0), source=NOT_OURS))


def test_a_batch_from_an_address_that_is_gone_leaves_from_another(
    kernel: FaultyKernel, wire: Wire
) -> None:
    lose_source(wire)
    wire.start()
    wire.assert_all_came(0, wire.send(0, 10))
    assert wire.source() == b""
    assert batches(kernel, wire.port(0)) == [segment(SMALL)] * 2  # with the source, and without


@pytest.mark.parametrize(
    "error", [errno.EIO, errno.EMSGSIZE, errno.EINVAL], ids=errno.errorcode.get
)
def test_nothing_is_lost_when_the_address_is_gone_and_batches_do_not_fit_either(
    kernel: FaultyKernel, wire: Wire, error: int
) -> None:
    kernel.on_send = refusing(error, is_batch)
    lose_source(wire)
    wire.start()
    wire.assert_all_came(0, wire.send(0, 10))
    assert wire.source() == b""
    assert wire.count("tx_send_errors") == 0


# ---- out: the last messages of a session ----


def test_a_session_that_has_sent_enough_asks_to_be_renewed_and_goes_on(
    kernel: FaultyKernel, wire: Wire
) -> None:
    kernel.set_send_counter(wire.plane, 0, REKEY_AFTER_MESSAGES - 1)
    wire.start()
    for counter, enough in ((REKEY_AFTER_MESSAGES - 1, False), (REKEY_AFTER_MESSAGES, True)):
        packets = wire.send(0, 1)
        assert wire.arrivals(0, 1) == ([counter], packets)
        assert wants_handshake(wire.plane.take_events()) == enough


def test_a_session_ends_before_its_counter_does(kernel: FaultyKernel, wire: Wire) -> None:
    kernel.set_send_counter(wire.plane, 0, REJECT_AFTER_MESSAGES - 1)
    wire.start()
    packets = wire.send(0, 1)
    assert wire.arrivals(0, 1) == ([REJECT_AFTER_MESSAGES - 1], packets)
    assert wants_handshake(wire.plane.take_events())
    packets = wire.send(0, 10)
    wire.await_wish_for_handshake()
    assert wire.plane.stats(0).staged == len(packets)
    wire.install(0)
    wire.plane.kick(0, keepalive=False)
    wire.assert_all_came(0, packets)


def test_a_batch_takes_no_counters_beyond_the_last(kernel: FaultyKernel, wire: Wire) -> None:
    kernel.set_send_counter(wire.plane, 0, REJECT_AFTER_MESSAGES - 9)
    wire.start()
    wire.send(0, 10)
    wire.await_wish_for_handshake()
    wire.install(0)
    wire.assert_all_came(0, wire.send(0, 10))


# ---- in: the TUN ----


def gso_type(start: bytes) -> int:
    return start[1]


def test_a_flow_comes_in_one_frame(wire: Wire) -> None:
    wire.receive(flow(1, 4))
    wire.start()
    [frame] = wire.frames(1)
    assert gso_type(frame)
    wire.assert_goes_on()


def test_packets_refused_in_one_frame_come_one_by_one(kernel: FaultyKernel, wire: Wire) -> None:
    kernel.on_write = lambda start: -errno.EINVAL if gso_type(start) else 0
    packets = [*flow(1, 4), *flow(2, 4)]
    wire.receive(packets)
    wire.start()
    assert wire.frames(8) == [PLAIN + packet for packet in packets]
    wire.assert_goes_on()
    assert wire.count("rx_tun_writes") == 2 + 8 + 1
    assert wire.count("rx_tun_errors") == 0


def test_a_packet_refused_in_a_frame_and_alone_is_counted_and_the_others_come(
    kernel: FaultyKernel, wire: Wire
) -> None:
    answers = iter([-errno.EINVAL, 0, -errno.EINVAL, 0])
    kernel.on_write = lambda start: next(answers, 0)
    packets = flow(1, 4)
    wire.receive(packets)
    wire.start()
    del packets[1]
    assert wire.frames(3) == [PLAIN + packet for packet in packets]
    wire.assert_goes_on()
    assert wire.count("rx_tun_errors") == 1


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOBUFS], ids=errno.errorcode.get)
def test_a_tun_that_is_down_costs_the_packets_and_no_more(
    kernel: FaultyKernel, wire: Wire, error: int
) -> None:
    answers = iter([-error, 0, -error])
    kernel.on_write = lambda start: next(answers, 0)
    [lucky] = flow(2, 1)
    wire.receive([*flow(1, 4), lucky, *flow(3, 2)])
    wire.start()
    assert wire.frames(1) == [PLAIN + lucky]
    wire.assert_goes_on()
    assert wire.count("rx_tun_errors") == 6


def test_an_interrupted_write_is_repeated(kernel: FaultyKernel, wire: Wire) -> None:
    answers = iter([-errno.EINTR, -errno.EINTR])
    kernel.on_write = lambda start: next(answers, 0)
    wire.start()
    wire.assert_goes_on()
    assert wire.count("rx_tun_errors") == 0


@pytest.mark.parametrize("before", [[], [-errno.EINVAL, 0]], ids=["a frame", "one by one"])
def test_a_tun_that_is_gone_ends_the_thread(
    kernel: FaultyKernel, wire: Wire, before: list[int]
) -> None:
    answers = [*before, -errno.EBADFD]
    written: list[bytes] = []

    def answer(start: bytes) -> int:
        written.append(start)
        return answers[len(written) - 1]

    kernel.on_write = answer
    wire.receive([*flow(1, 4), *flow(2, 4)])
    wire.start()
    assert wire.failure() == errno.EBADFD
    assert len(written) == len(answers), "it wrote on"


# ---- in: the socket ----


@pytest.mark.parametrize(
    "error",
    [
        *(errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN),
        *(errno.EMSGSIZE, errno.ENOMEM, errno.ENOBUFS, errno.EIO, errno.EPROTO, errno.EINTR),
    ],
    ids=errno.errorcode.get,
)
def test_receiving_survives_errors_of_the_socket(
    kernel: FaultyKernel, wire: Wire, error: int
) -> None:
    answers = iter([-error] * 50)
    kernel.on_receive = lambda: next(answers, 0)
    packets = flow(1, 4)
    wire.receive(packets)
    wire.start(Feature.VNET_HDR)
    assert wire.frames(4) == [PLAIN + packet for packet in packets]
    assert next(answers, None) is None
    wire.assert_goes_on()


def test_receiving_survives_a_report_of_a_closed_port(wire: Wire) -> None:
    """On a connected socket the kernel makes such reports by itself."""
    with socket.socket(type=socket.SOCK_DGRAM) as closed:
        closed.bind(("127.0.0.1", 0))
        wire.lent_udp.connect(closed.getsockname())
    wire.lent_udp.send(b"anybody?")
    wire.lent_udp.connect(wire.peers[0].getsockname())
    wire.start()
    wire.assert_goes_on()


def test_a_socket_that_is_gone_ends_the_thread(kernel: FaultyKernel, wire: Wire) -> None:
    kernel.on_receive = lambda: -errno.EBADF
    wire.receive(flow(1, 1))
    wire.start()
    assert wire.failure() == errno.EBADF


def test_a_truncated_datagram_is_left_out(kernel: FaultyKernel, wire: Wire) -> None:
    answers = iter([0b0010])
    kernel.on_receive = lambda: next(answers, 0)
    packets = flow(1, 4)
    wire.receive(packets)
    wire.start(Feature.VNET_HDR)
    del packets[1]
    assert wire.frames(3) == [PLAIN + packet for packet in packets]
    wire.assert_goes_on()
