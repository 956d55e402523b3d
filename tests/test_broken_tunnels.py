# SPDX-License-Identifier: MIT
"""Two devices over loopback: what is broken is told by whom it concerns, until it is mended."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest
from loopback import LOOPBACK, Host, Loop, packet

from wgpy.config import AllowedIP, Endpoint, PeerChange
from wgpy.diagnosis import RECENT_S, Code, diagnose
from wgpy.status import Diagnosis

pytestmark = pytest.mark.threads

PSK = bytes(range(32))
NOBODY = bytes([10, 0, 0, 9])
RETRY_S = 5.5  # an initiation is repeated by then, whatever the jitter


class World:
    """Two hosts that are each other's peers, up."""

    def __init__(self, stack: ExitStack) -> None:
        self.loop = Loop()
        self.a, self.b = Host(stack, self.loop, 1), Host(stack, self.loop, 2)
        for host in (self.a, self.b):
            host.configure(private_key=host.private_key)
            host.device.up()
        self.introduce(self.a, self.b)
        self.introduce(self.b, self.a)

    def introduce(self, host: Host, other: Host) -> None:
        """The other is a peer of the host."""
        endpoint = Endpoint(LOOPBACK[4], other.port)
        allowed = (AllowedIP(other.address, 32),)
        host.configure(PeerChange(other.public_key, endpoint=endpoint, allowed_ips=allowed))

    def diagnoses(self, host: Host) -> dict[str, Diagnosis]:
        status = host.device.status_head("wg0")
        peers = tuple(peer for piece in host.device.peer_statuses() for peer in piece)
        # There is no such thing as an offload in a socket pair.
        status = replace(status, features=("TUN_TSO", "UDP_GSO", "UDP_GRO"), peers=peers)
        return {found.code: found for found in diagnose(status)}

    def wait_for(self, host: Host, code: Code) -> str:
        self.loop.until(lambda: code in self.diagnoses(host))
        assert set(self.diagnoses(host)) == {code}
        return self.diagnoses(host)[code].text

    def wait_for_none(self, host: Host) -> None:
        self.loop.until(lambda: not self.diagnoses(host))

    def talk(self, payload: bytes = b"ping") -> None:
        self.a.send(self.b, payload)
        self.loop.until(lambda: payload in self.b.read())

    def wait_for_attempts(self, number: int) -> None:
        """So many initiations of a went out without an answer."""
        self.loop.until(lambda: self.attempts() == number)

    def attempts(self) -> int | None:
        [[peer]] = self.a.device.peer_statuses()
        return peer.attempts


@pytest.fixture
def world() -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack)


def test_a_tunnel_that_works_has_no_diagnosis(world: World) -> None:
    world.talk()
    assert world.diagnoses(world.a) == world.diagnoses(world.b) == {}


def test_a_preshared_key_that_differs_until_it_does_not(world: World) -> None:
    world.a.configure(PeerChange(world.b.public_key, preshared_key=PSK))
    world.a.send(world.b, b"staged")
    world.wait_for(world.a, Code.PSK_MISMATCH)
    assert world.diagnoses(world.b) == {}
    world.b.configure(PeerChange(world.a.public_key, preshared_key=PSK))
    world.loop.advance(RETRY_S)
    world.wait_for_none(world.a)
    world.talk()


def test_answers_that_do_not_open_until_they_do(world: World) -> None:
    """Seen from the side that answers."""
    world.a.configure(PeerChange(world.b.public_key, preshared_key=PSK))
    world.a.send(world.b, b"staged")
    world.wait_for(world.a, Code.PSK_MISMATCH)
    world.loop.advance(RETRY_S)
    text = world.wait_for(world.b, Code.UNCONFIRMED)
    assert f"127.0.0.1:{world.a.port}" in text
    world.b.configure(PeerChange(world.a.public_key, preshared_key=PSK))
    world.loop.advance(RETRY_S)
    world.wait_for_none(world.b)
    world.talk()


def test_a_stranger_until_he_is_a_peer(world: World) -> None:
    world.b.configure(PeerChange(world.a.public_key, remove=True))
    world.a.send(world.b, b"staged")
    text = world.wait_for(world.b, Code.UNKNOWN_INITIATOR)
    assert f"127.0.0.1:{world.a.port}" in text
    world.introduce(world.b, world.a)
    assert world.diagnoses(world.b) == {}


def test_a_message_for_another_identity_until_its_sender_is_heard(world: World) -> None:
    world.b.configure(private_key=bytes([3]) * 32)
    world.a.send(world.b, b"staged")
    world.wait_for(world.b, Code.WRONG_IDENTITY)
    world.b.configure(private_key=world.b.private_key)
    world.loop.advance(RETRY_S)
    world.wait_for_none(world.b)


def test_a_wrong_source_for_as_long_as_it_is_recent(world: World) -> None:
    world.talk()
    world.a.send(world.b, b"forged", source=NOBODY)
    assert "10.0.0.9" in world.wait_for(world.b, Code.NOT_ALLOWED)
    assert world.diagnoses(world.b)[Code.NOT_ALLOWED].peer == world.a.public_key
    world.loop.advance(RECENT_S + 1)
    world.wait_for_none(world.b)


def test_an_endpoint_that_is_missing_until_the_peer_calls(world: World) -> None:
    world.a.configure(PeerChange(world.b.public_key, remove=True))
    allowed = (AllowedIP(world.b.address, 32),)
    world.a.configure(PeerChange(world.b.public_key, allowed_ips=allowed))
    world.a.send(world.b, b"dropped")
    world.wait_for(world.a, Code.NO_ENDPOINT)
    world.b.send(world.a, b"call")
    world.wait_for_none(world.a)


def test_a_destination_of_nobody(world: World) -> None:
    world.a.configure(PeerChange(world.b.public_key, replace_allowed_ips=True, allowed_ips=()))
    world.a.send(world.b, b"dropped")
    assert "10.0.0.2" in world.wait_for(world.a, Code.NO_PEER_FOR)


GROUPS = {
    "IPv4": packet(bytes([10, 0, 0, 1]), bytes([224, 0, 0, 251]), b"mDNS"),
    "all": packet(bytes([10, 0, 0, 1]), bytes([255] * 4), b"DHCP"),
    "IPv6": b"\x60\0\0\0\0\0\x3b\x01" + bytes(16) + b"\xff\x02" + bytes(13) + b"\x02",
}


@pytest.mark.parametrize("group", GROUPS)
def test_what_each_host_sends_by_itself_hides_no_destination(world: World, group: str) -> None:
    def dropped() -> int:
        return world.a.plane.counters()["tx_no_peer"]

    world.a.tun.send(GROUPS[group])
    world.loop.until(lambda: dropped() == 1)
    assert world.diagnoses(world.a) == {}
    world.a.tun.send(packet(world.a.address, NOBODY, b"whereto"))
    world.loop.until(lambda: dropped() == 2)
    world.a.tun.send(GROUPS[group])
    world.loop.until(lambda: dropped() == 3)
    assert "10.0.0.9" in world.wait_for(world.a, Code.NO_PEER_FOR)


def test_silence_is_told_from_the_second_handshake_on_and_that_it_was_given_up(
    world: World,
) -> None:
    world.b.device.down()
    world.a.send(world.b, b"staged")
    world.wait_for_attempts(1)
    assert world.diagnoses(world.a) == {}
    world.loop.advance(RETRY_S)
    text = world.wait_for(world.a, Code.NO_ANSWER)
    assert re.match(r"no answer to 2 handshakes, the first \d s ago: UDP to or from 127", text)
    for count in range(3, 20):
        world.loop.advance(RETRY_S)
        world.wait_for_attempts(count)
    world.loop.advance(RETRY_S)
    world.loop.until(lambda: "given up" in world.diagnoses(world.a)[Code.NO_ANSWER].text)
    world.b.device.up()
    world.talk()
    assert world.diagnoses(world.a) == {}


def test_an_address_that_cannot_be_sent_to(world: World) -> None:
    """Nobody may send to all without saying so before."""
    everybody = Endpoint(bytes([255] * 4), 9)
    world.a.configure(PeerChange(world.b.public_key, endpoint=everybody))
    world.a.send(world.b, b"staged")
    text = world.wait_for(world.a, Code.UNREACHABLE)
    assert "255.255.255.255:9" in text
    assert "Permission denied" in text


def test_a_port_that_is_taken(world: World) -> None:
    port = world.b.port
    world.a.device.down()
    world.b.device.down()
    world.a.configure(listen_port=port)
    world.b.device.up()
    world.a.device.up()
    assert str(port) in world.wait_for(world.a, Code.PORT_IN_USE)


def test_no_private_key(world: World) -> None:
    world.a.configure(private_key=bytes(32))
    world.a.send(world.b, b"staged")
    world.wait_for(world.a, Code.NO_PRIVATE_KEY)
