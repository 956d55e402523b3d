# SPDX-License-Identifier: MIT
"""icmp.c: what the host hears about packets that have nowhere to go, read from the plane's TUN."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_address
from struct import pack

import pytest
from core import advance_clock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wgpy.config import AllowedIP
from wgpy.dataplane.plane import Plane
from wgpy.dataplane.types import PlaneIO, WorkerIO
from wgpy.ports import Feature

from .ends import NO_FEATURES, WAIT_S
from .packets import (
    GSO_UDP_L4,
    MF,
    NEEDS_CSUM,
    UDP,
    Packet,
    checksum,
    ones_sum,
    vnet,
)

pytestmark = pytest.mark.threads

NS = 10**9
HERE4, HERE6 = 0x0A000001, int(ip_address("fd77::1"))
V4 = Packet(4, UDP, src=HERE4, dst=int(ip_address("192.0.2.9")), payload=b"to nobody")
V6 = Packet(6, UDP, src=HERE6, dst=int(ip_address("2001:db8::9")), payload=b"to nobody")
ICMPV4, ICMPV6 = 1, 58


class Host:
    """A plane without peers; the test is the host behind its TUN."""

    def __init__(self, stack: ExitStack, features: Feature = NO_FEATURES) -> None:
        self.plane = Plane()
        stack.callback(self.plane.close)
        self.tun, tun = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self.tun, tun):
            stack.enter_context(end)
        tun.setblocking(False)
        self.tun.settimeout(WAIT_S)
        self.plane.start(PlaneIO((WorkerIO(tun.fileno(), -1, -1),), features))
        stack.callback(self.plane.stop)
        self.witnesses = 0

    def answers(self, *frames: bytes) -> list[bytes]:
        """Send frames, and return all errors about them: those before one about a last frame."""
        for frame in frames:
            self.tun.send(frame)
        self.witnesses += 1
        witness = bytes(replace(V4, dst=int(ip_address("198.18.0.0")) + self.witnesses))
        self.tun.send(witness)
        answers = []
        while not (answer := self.tun.recv(65535)).endswith(witness):
            answers.append(answer)
        advance_clock(10 * NS)  # rates do not count from one call to the next
        return answers


@pytest.fixture
def host() -> Iterator[Host]:
    with ExitStack() as stack:
        yield Host(stack)


def test_a_packet_for_nobody_comes_back_as_host_unreachable(host: Host) -> None:
    packet = bytes(V4)
    [error] = host.answers(packet)
    assert error[28:] == packet
    assert error[20:22] == bytes([3, 1])
    assert error[24:28] == bytes(4)
    assert (error[0], error[9]) == (0x45, ICMPV4)
    assert (error[12:16], error[16:20]) == (packet[16:20], packet[12:16])
    assert int.from_bytes(error[2:4], "big") == len(error)
    assert ones_sum(error[:20]) == ones_sum(error[20:]) == 0xFFFF


def test_a_packet_for_nobody_comes_back_as_address_unreachable(host: Host) -> None:
    packet = bytes(V6)
    [error] = host.answers(packet)
    assert error[48:] == packet
    assert error[40:42] == bytes([1, 3])
    assert error[44:48] == bytes(4)
    assert (error[0] >> 4, error[6]) == (6, ICMPV6)
    assert (error[8:24], error[24:40]) == (packet[24:40], packet[8:24])
    assert int.from_bytes(error[4:6], "big") == len(error) - 40
    pseudo = error[8:40] + pack("!II", len(error) - 40, ICMPV6)
    assert ones_sum(pseudo + error[40:]) == 0xFFFF


def test_so_does_a_packet_for_a_peer_without_an_endpoint(host: Host) -> None:
    slot = host.plane.add_peer()
    host.plane.change_allowed_ips(slot, [AllowedIP(bytes([192, 0, 2, 0]), 24)])
    [error] = host.answers(bytes(V4))
    assert error[28:] == bytes(V4)
    assert host.plane.counters()["tx_no_endpoint"] == 1
    assert host.plane.stats(slot).staged == 0


def test_errors_are_counted(host: Host) -> None:
    host.answers(bytes(V4), bytes(V6))
    host.plane.stop()  # the last one is counted after it was written
    assert host.plane.counters()["tx_unreachables"] == 3  # with the last frame


@pytest.mark.parametrize(("packet", "limit"), [(V4, 576), (V6, 1280)])
def test_as_much_of_a_packet_comes_back_as_fits_everywhere(
    host: Host, packet: Packet, limit: int
) -> None:
    long = bytes(replace(packet, payload=bytes(1300)))
    [error] = host.answers(long)
    assert len(error) == limit
    assert long.startswith(error[28 if packet.version == 4 else 48 :])


def test_with_vnet_headers_the_error_has_one() -> None:
    with ExitStack() as stack:
        host = Host(stack, Feature.VNET_HDR)
        host.tun.send(vnet() + bytes(V4))
        error = host.tun.recv(65535)
        assert error[:10] == bytes(10)
        assert error[38:] == bytes(V4)


def test_a_super_packet_is_answered_once_about_its_first_packet() -> None:
    whole = replace(V4, payload=bytes(range(200)) * 5)
    first = replace(whole, payload=whole.payload[:100])
    with ExitStack() as stack:
        host = Host(stack, Feature.VNET_HDR | Feature.TUN_TSO | Feature.TUN_USO)
        header = vnet(
            GSO_UDP_L4, flags=NEEDS_CSUM, hdr_len=28, gso_size=100, csum_start=20, csum_offset=6
        )
        host.tun.send(header + bytes(whole))
        last = bytes(replace(V4, dst=V4.dst + 1))
        host.tun.send(vnet() + last)
        assert host.tun.recv(65535)[38:] == bytes(first)
        assert host.tun.recv(65535)[38:] == last


# ---- what must not be answered ----


def icmp4(kind: int) -> bytes:
    body = bytes([kind, 0, 0, 0]) + bytes(4)
    return _ip4(ICMPV4, body)


def _ip4(protocol: int, body: bytes, fragment: int = 0, options: bytes = b"") -> bytes:
    ihl = 5 + len(options) // 4
    length = 4 * ihl + len(body)
    addresses = V4.src.to_bytes(4, "big") + V4.dst.to_bytes(4, "big")
    fields = (0x40 | ihl, 0, length, 0, fragment, 64, protocol)
    header = pack("!BBHHHBB", *fields)
    total = checksum(header + bytes(2) + addresses + options)
    return header + pack("!H", total) + addresses + options + body


def _ip6(protocol: int, body: bytes) -> bytes:
    addresses = V6.src.to_bytes(16, "big") + V6.dst.to_bytes(16, "big")
    return pack("!IHBB", 6 << 28, len(body), protocol, 64) + addresses + body


def icmp6(kind: int) -> bytes:
    return _ip6(ICMPV6, bytes([kind, 0, 0, 0]) + bytes(4))


@pytest.mark.parametrize("kind", [0, 8, 13, 14])
def test_an_icmp_query_is_answered(host: Host, kind: int) -> None:
    assert len(host.answers(icmp4(kind))) == 1


@pytest.mark.parametrize("kind", [3, 4, 5, 11, 12, 200])
def test_an_icmp_error_is_not_answered(host: Host, kind: int) -> None:
    assert host.answers(icmp4(kind)) == []


@pytest.mark.parametrize("kind", [128, 129])
def test_an_icmpv6_query_is_answered(host: Host, kind: int) -> None:
    assert len(host.answers(icmp6(kind))) == 1


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 100, 127, 137])
def test_an_icmpv6_error_or_redirect_is_not_answered(host: Host, kind: int) -> None:
    assert host.answers(icmp6(kind)) == []


def test_an_icmpv6_error_behind_other_headers_is_not_answered(host: Host) -> None:
    options = bytes([ICMPV6, 0, 1, 4, 0, 0, 0, 0])
    error, query = bytes([1, 0, 0, 0]) + bytes(4), bytes([128, 0, 0, 0]) + bytes(4)
    assert host.answers(_ip6(60, options + error)) == []
    assert len(host.answers(_ip6(60, options + query))) == 1


def test_packets_to_many_or_from_no_host_are_not_answered(host: Host) -> None:
    to_many = ["224.0.0.251", "255.255.255.255", "ff02::1", "ff05::2"]
    from_none = ["0.0.0.0", "224.0.0.1", "255.255.255.255", "127.0.0.1", "::", "ff02::1", "::1"]
    of = {4: V4, 6: V6}
    targets, sources = ([ip_address(text) for text in texts] for texts in (to_many, from_none))
    packets = [replace(of[address.version], dst=int(address)) for address in targets]
    packets += [replace(of[address.version], src=int(address)) for address in sources]
    assert host.answers(*map(bytes, packets)) == []


def test_of_a_fragmented_packet_only_the_first_is_answered(host: Host) -> None:
    assert len(host.answers(_ip4(UDP, bytes(64), fragment=MF))) == 1
    assert host.answers(_ip4(UDP, bytes(64), fragment=MF | 8)) == []
    assert host.answers(_ip4(UDP, bytes(64), fragment=9)) == []


def fragment6(offset: int, protocol: int = UDP) -> bytes:
    return _ip6(44, bytes([protocol, 0]) + pack("!HI", offset << 3 | 1, 7) + bytes(64))


def test_of_a_fragmented_ipv6_packet_only_the_first_is_answered(host: Host) -> None:
    assert len(host.answers(fragment6(0))) == 1
    assert host.answers(fragment6(1)) == []
    assert host.answers(fragment6(8191)) == []


@pytest.mark.parametrize(
    "packet",
    [
        _ip4(ICMPV4, b""),
        _ip6(ICMPV6, b""),
        _ip6(60, b""),
        _ip6(44, bytes(7)),
        _ip6(60, bytes([60, 200, 0, 0, 0, 0, 0, 0])),
        _ip6(0, bytes([0] + [0] * 7) * 20),
    ],
)
def test_headers_that_are_cut_off_or_without_end_are_not_answered(
    host: Host, packet: bytes
) -> None:
    assert host.answers(packet) == []


def test_ip_options_come_back_too(host: Host) -> None:
    packet = _ip4(ICMPV4, bytes([8, 0, 0, 0]) + bytes(4), options=bytes([1] * 40))
    [error] = host.answers(packet)
    assert error[28:] == packet


@given(
    st.sampled_from([bytes(V4), bytes(V6), fragment6(0), icmp6(128), icmp4(8)]),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=6),
)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_host_sends_errors_are_well_formed(
    host: Host, packet: bytes, changes: list[tuple[int, int]]
) -> None:
    mangled = bytearray(packet)
    for at, value in changes:
        mangled[at % len(mangled)] = value
    for error in host.answers(bytes(mangled)):
        quoted = error[28:] if error[0] >> 4 == 4 else error[48:]
        assert bytes(mangled).startswith(quoted)
        assert len(error) <= (576 if error[0] >> 4 == 4 else 1280)


# ---- rates ----


def test_one_address_gets_six_errors_at_once_and_one_more_a_second(host: Host) -> None:
    assert len(host.answers(*[bytes(V4)] * 20)) == 6
    host.tun.send(bytes(V4))  # 10 s later the bucket is full again
    assert host.tun.recv(65535).endswith(bytes(V4))


def test_a_flood_to_one_address_hides_no_other(host: Host) -> None:
    other = bytes(replace(V4, dst=V4.dst + 1))
    answers = host.answers(*[bytes(V4)] * 20, other)
    assert answers[-1].endswith(other)


def test_the_addresses_of_all_errors_together_have_a_rate(host: Host) -> None:
    before_ns = host.plane.now_ns()
    for number in range(400):
        host.tun.send(bytes(replace(V4, dst=V4.dst + number)))
    while host.plane.counters()["tx_no_peer"] < 400:
        assert host.plane.now_ns() - before_ns < WAIT_S * NS
    earned = (host.plane.now_ns() - before_ns) // 1_000_000 + 1
    assert 50 <= host.plane.counters()["tx_unreachables"] <= 50 + earned
