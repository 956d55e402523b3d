# SPDX-License-Identifier: MIT
"""cookie.c and the admission of handshake messages, through a running plane under load."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from core import advance_clock
from core_numbers import COOKIE_REPLY_LEN, LOAD, MESSAGE_COOKIE_REPLY, MESSAGE_RESPONSE

from wgpy.dataplane._core import lib
from wgpy.dataplane.plane import Plane
from wgpy.dataplane.types import MessageEvent, PlaneIO, WorkerIO
from wgpy.errors import BadMessage
from wgpy.linux.sockets import open_sockets
from wgpy.protocol.cookie import CookieGenerator, cookie_key, mac1_key

pytestmark = pytest.mark.threads

WAIT_S = 10  # what a test waits for comes at once, or the test has failed
NS = 10**9
PUBLIC_KEY = b"\x07" * 32
LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


def initiation(sender: int = 1) -> bytes:
    """A message 1 before its macs."""
    return b"\x01\0\0\0" + sender.to_bytes(4, "little") + b"\xe1" * 108


def response(receiver: int, sender: int = 1) -> bytes:
    """A message 2 before its macs."""
    indexes = sender.to_bytes(4, "little") + receiver.to_bytes(4, "little")
    return b"\x02\0\0\0" + indexes + b"\xe2" * 48


def flipped(message: bytes, byte: int) -> bytes:
    return message[:byte] + bytes([message[byte] ^ 0x01]) + message[byte + 1 :]


class Responder:
    """The owner of PUBLIC_KEY: a running plane, whose events nobody takes unless the test does."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.plane = Plane()
        stack.callback(self.plane.close)
        self.plane.set_mac1_key(mac1_key(PUBLIC_KEY))
        self.plane.set_cookie_key(cookie_key(PUBLIC_KEY))
        tun, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        tun.setblocking(False)
        for end in (tun, other):
            stack.enter_context(end)
        bound = open_sockets(0, 0)
        stack.callback(bound.close)
        self.port = bound.port
        self.plane.start(PlaneIO((WorkerIO(tun.fileno(), *bound.fds[0]),), bound.features))
        stack.callback(self.plane.stop)
        self.sent = 0

    def client(
        self, family: socket.AddressFamily = socket.AF_INET, *, to: str = "", at: str = ""
    ) -> "Client":
        """Somebody at a port of their own."""
        udp = self.stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        udp.bind((at or LOOPBACK[family], 0))
        udp.connect((to or LOOPBACK[family], self.port))
        udp.settimeout(WAIT_S)
        return Client(self, udp)

    def count(self, name: str) -> int:
        return self.plane.counters()[name]

    def settle(self) -> None:
        """Return when all that was sent has been looked at."""
        end_s = time.monotonic() + WAIT_S
        while self.count("rx_datagrams") < self.sent:
            assert time.monotonic() < end_s, "datagrams got lost"

    def fill(self, count: int = LOAD) -> None:
        """Let so many messages wait."""
        client = self.client()
        for number in range(count):
            client.send(client.cookies.add_macs(initiation(number), 0))
            if number % 32 == 0:
                self.settle()
        self.settle()

    def taken(self) -> list[bytes]:
        """All messages that got through to control, after the first LOAD."""
        self.settle()
        events = self.plane.take_events(2 * LOAD)
        return [event.data for event in events if isinstance(event, MessageEvent)][LOAD:]


class Client:
    """Who sends messages to the responder, and gets its replies."""

    def __init__(self, responder: Responder, udp: socket.socket) -> None:
        self.udp = udp
        self.cookies = CookieGenerator(PUBLIC_KEY)
        self._responder = responder

    def send(self, message: bytes) -> None:
        self.udp.send(message)
        self._responder.sent += 1

    def ask(self, message: bytes | None = None) -> bytes:
        """Send a message and return the reply to it."""
        self.send(self.cookies.add_macs(message or initiation(), 0))
        return self.udp.recv(65535)

    def get_cookie(self, message: bytes | None = None) -> None:
        self.cookies.consume_reply_untrusted(self.ask(message), 0)

    def with_macs(self, message: bytes | None = None) -> bytes:
        return self.cookies.add_macs(message or initiation(), 0)


@pytest.fixture
def responder() -> Iterator[Responder]:
    with ExitStack() as stack:
        yield Responder(stack)


@pytest.fixture
def loaded(responder: Responder) -> Responder:
    """Under load, and nobody takes the events."""
    responder.fill()
    return responder


# ---- the rule of load ----


def test_below_an_eighth_of_the_ring_nobody_is_asked_for_a_cookie(responder: Responder) -> None:
    responder.fill(LOAD)  # the last of them finds one less
    assert responder.count("rx_under_load") == 0
    assert len(responder.plane.take_events(2 * LOAD)) == LOAD == 4096 // 8


def test_from_an_eighth_on_who_has_no_cookie_gets_one_instead_of_an_answer(
    loaded: Responder,
) -> None:
    reply = loaded.client().ask()
    assert (len(reply), reply[0]) == (COOKIE_REPLY_LEN, MESSAGE_COOKIE_REPLY)
    assert loaded.taken() == []
    assert loaded.count("rx_under_load") == loaded.count("tx_cookie_replies") == 1


def test_load_is_held_for_a_second_after_the_ring_was_emptied(loaded: Responder) -> None:
    client = loaded.client()
    client.ask()
    loaded.plane.take_events(2 * LOAD)
    client.ask()
    advance_clock(NS)
    client.send(client.with_macs())
    loaded.settle()
    assert len(loaded.plane.take_events()) == 1


def test_a_flood_that_goes_on_prolongs_the_load(loaded: Responder) -> None:
    loaded.client().ask()  # begins the second
    loaded.plane.take_events(2 * LOAD)
    advance_clock(NS * 6 // 10)
    loaded.fill()
    advance_clock(NS * 6 // 10)
    loaded.client().get_cookie()
    assert loaded.plane.take_events() == []


def test_a_wrong_mac1_gets_no_cookie(loaded: Responder) -> None:
    client = loaded.client()
    client.send(flipped(client.with_macs(), 20))
    loaded.settle()
    assert (loaded.count("rx_bad_mac1"), loaded.count("rx_under_load")) == (1, 0)
    client.get_cookie()  # the first thing that comes back


def test_without_a_cookie_key_nobody_gets_a_cookie(loaded: Responder) -> None:
    loaded.plane.set_cookie_key(None)
    client = loaded.client()
    client.send(client.with_macs())
    loaded.settle()
    assert (loaded.count("rx_under_load"), loaded.count("tx_cookie_replies")) == (1, 0)
    assert loaded.taken() == []


# ---- the cookie reply ----


def test_a_reply_goes_to_the_index_of_the_sender(loaded: Responder) -> None:
    reply = loaded.client().ask(initiation(0x11223344))
    assert reply[:8] == bytes.fromhex("0300000044332211")


def test_replies_have_nonces_of_their_own_and_the_same_cookie(loaded: Responder) -> None:
    client, nonces, mac2s = loaded.client(), set(), set()
    for _ in range(200):
        client.cookies = CookieGenerator(PUBLIC_KEY)
        reply = client.ask()
        nonces.add(reply[8:32])
        client.cookies.consume_reply_untrusted(reply, 0)
        mac2s.add(client.with_macs()[-16:])
    assert (len(nonces), len(mac2s)) == (200, 1)


def test_a_reply_comes_from_the_address_that_was_asked(loaded: Responder) -> None:
    loaded.client(to="127.0.0.3").get_cookie()  # a connected socket takes nobody else's


def test_a_reply_under_another_identity_is_none(loaded: Responder) -> None:
    loaded.plane.set_cookie_key(cookie_key(b"\x08" * 32))
    client = loaded.client()
    reply = client.ask()
    with pytest.raises(BadMessage, match="authenticate"):
        client.cookies.consume_reply_untrusted(reply, 0)


def test_a_new_identity_is_the_one_that_counts(loaded: Responder) -> None:
    other = b"\x08" * 32
    loaded.plane.set_mac1_key(mac1_key(other))
    loaded.plane.set_cookie_key(cookie_key(other))
    client = loaded.client()
    client.send(client.with_macs())
    loaded.settle()
    assert loaded.count("rx_bad_mac1") == 1
    client.cookies = CookieGenerator(other)
    client.get_cookie()


# ---- mac2 ----


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_with_the_cookie_a_message_gets_through(
    loaded: Responder, family: socket.AddressFamily
) -> None:
    client = loaded.client(family)
    client.get_cookie()
    message = client.with_macs()
    client.send(message)
    assert loaded.taken() == [message]


def test_a_response_needs_a_cookie_too(loaded: Responder) -> None:
    index = loaded.plane.reserve_index(loaded.plane.add_peer())
    client = loaded.client()
    client.get_cookie(response(index))
    message = client.with_macs(response(index))
    client.send(message)
    assert (message[0], loaded.taken()) == (MESSAGE_RESPONSE, [message])


def test_a_cookie_is_worth_nothing_from_another_port(loaded: Responder) -> None:
    client, other = loaded.client(), loaded.client()
    client.get_cookie()
    other.send(client.with_macs())
    assert loaded.taken() == []
    assert loaded.count("rx_under_load") == 2


def test_a_cookie_is_worth_nothing_from_another_address(loaded: Responder) -> None:
    client = loaded.client()
    client.get_cookie()
    port = client.udp.getsockname()[1]
    message = client.with_macs()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.2", port))
        udp.sendto(message, ("127.0.0.1", loaded.port))
        loaded.sent += 1
        assert loaded.taken() == []
    assert loaded.count("rx_under_load") == 2


def test_a_flipped_bit_anywhere_is_noticed(loaded: Responder) -> None:
    client = loaded.client()
    client.get_cookie()
    message = client.with_macs()
    for byte in range(len(message)):
        client.send(flipped(message, byte))
        if byte % 32 == 0:
            loaded.settle()
    assert loaded.taken() == []
    assert loaded.count("rx_under_load") == 1 + 16  # the others have a wrong type or mac1


def test_the_cookie_is_a_mac_of_address_and_port(loaded: Responder) -> None:
    """Two clients of one address differ, and each keeps its own."""
    clients = [loaded.client() for _ in range(3)]
    for client in clients:
        client.get_cookie()
    messages = [client.with_macs() for client in clients]
    assert len({message[-16:] for message in messages}) == 3
    for client, message in zip(clients, messages, strict=True):
        client.send(message)
    assert loaded.taken() == messages


@pytest.mark.parametrize(("age_s", "is_good"), [(115, True), (120, False)])
def test_the_secret_changes_after_120_seconds(loaded: Responder, age_s: int, is_good: bool) -> None:
    client = loaded.client()
    client.get_cookie()
    advance_clock(age_s * NS)
    message = client.with_macs()
    client.send(message)
    assert loaded.taken() == [message] * is_good


def test_after_a_change_of_the_secret_there_is_a_new_cookie(loaded: Responder) -> None:
    client = loaded.client()
    client.get_cookie()
    old = client.with_macs()
    advance_clock(121 * NS)
    client.get_cookie()
    message = client.with_macs()
    client.send(message)
    assert message[-16:] != old[-16:]
    assert loaded.taken() == [message]


def test_two_devices_do_not_share_a_secret(loaded: Responder) -> None:
    client = loaded.client()
    client.get_cookie()
    message = client.with_macs()
    address = client.udp.getsockname()
    client.udp.close()
    with ExitStack() as stack:
        other = Responder(stack)
        other.fill()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.bind(address)
            udp.sendto(message, ("127.0.0.1", other.port))
            other.sent += 1
            assert other.taken() == []


# ---- the rate limiter ----


def burst(loaded: Responder, client: Client, count: int) -> int:
    """Send so many messages with a cookie; return how many get through."""
    message = client.with_macs()
    for _ in range(count):
        client.send(message)
    return len(loaded.taken())


def test_under_load_a_source_with_a_cookie_is_limited(loaded: Responder) -> None:
    client = loaded.client()
    client.get_cookie()
    before_ns = loaded.plane.now_ns()
    through = burst(loaded, client, 40)
    token_ns = NS // lib.WG_HANDSHAKES_PER_S
    earned = (loaded.plane.now_ns() - before_ns) // token_ns + 1
    assert 5 <= through <= 5 + earned
    assert loaded.count("rx_rate_limited") == 40 - through > 0


def test_other_sources_are_served_meanwhile(loaded: Responder) -> None:
    greedy, modest = loaded.client(), loaded.client(at="127.0.0.2")
    for client in (greedy, modest):
        client.get_cookie()
    for _ in range(40):
        greedy.send(greedy.with_macs())
    message = modest.with_macs(initiation(2))
    modest.send(message)
    assert loaded.taken()[-1] == message


def test_without_load_nobody_is_limited(responder: Responder) -> None:
    client = responder.client()
    for number in range(40):
        client.send(client.with_macs(initiation(number)))
    responder.settle()
    assert len(responder.plane.take_events()) == 40
    assert responder.count("rx_rate_limited") == 0
