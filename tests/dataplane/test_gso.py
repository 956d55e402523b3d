# SPDX-License-Identifier: MIT
"""gso.c: frames from the TUN become the packets they stand for."""

import errno
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .packets import (
    ACK,
    CWR,
    DF,
    ECE,
    FIN,
    GSO_ECN,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP,
    GSO_UDP_L4,
    MF,
    NEEDS_CSUM,
    PSH,
    TCP,
    UDP,
    VNET,
    Packet,
    assert_valid,
    split,
    vnet,
)
from .strategies import PAD6, super_packets

PAYLOAD = random.Random(1).randbytes(1000)
TCP4 = Packet(payload=PAYLOAD)
TCP6 = replace(TCP4, version=6)
UDP4 = replace(TCP4, protocol=UDP)
UDP6 = replace(TCP6, protocol=UDP)

every_kind = pytest.mark.parametrize("packet", [TCP4, TCP6, UDP4, UDP6])


def number(packet: bytes, at: int, size: int = 2) -> int:
    return int.from_bytes(packet[at : at + size], "big")


def assert_refused(frame: bytes, features: int = VNET) -> None:
    with pytest.raises(OSError, match="door_gso_split") as refusal:
        split(frame, features)
    assert refusal.value.errno == errno.EINVAL


def split_or_refuse(frame: bytes, features: int) -> list[bytes]:
    """Nothing for a frame that is refused with EINVAL, the only way to refuse."""
    try:
        return split(frame, features)
    except OSError as refusal:
        if refusal.errno != errno.EINVAL:
            raise
        return []


@settings(max_examples=150)
@given(super_packets())
def test_a_super_packet_becomes_the_packets_that_python_makes_of_it(
    case: tuple[Packet, int],
) -> None:
    packet, size = case
    packets = split(packet.frame(size))
    for made in packets:
        assert_valid(made)
    assert packets == [bytes(segment) for segment in packet.segments(size)]


@every_kind
def test_a_segment_smaller_than_its_headers_does_no_harm(packet: Packet) -> None:
    assert split(packet.frame(1)) == [bytes(segment) for segment in packet.segments(1)]


# ---- item 7: trust nothing in the virtio_net_hdr ----


@every_kind
@pytest.mark.parametrize("hdr_len", [0, 1, 14, 2000, 65535])
def test_hdr_len_is_not_looked_at(packet: Packet, hdr_len: int) -> None:
    assert split(packet.frame(300, hdr_len=hdr_len)) == split(packet.frame(300))


@every_kind
@pytest.mark.parametrize(
    "lie",
    [
        {"gso_size": 0},
        {"csum_start": 0},
        {"csum_start": 24},
        {"csum_start": 65535},
        {"csum_offset": 0},
        {"csum_offset": 65535},
        {"gso_type": GSO_UDP},
        {"gso_type": 2},
        {"gso_type": 0x20},
        {"gso_type": GSO_ECN},
        {"gso_type": GSO_UDP_L4 | GSO_ECN},
    ],
    ids=str,
)
def test_a_lying_virtio_header_is_refused(packet: Packet, lie: dict[str, int]) -> None:
    assert_refused(packet.frame(300, **lie))


@pytest.mark.parametrize(
    ("packet", "gso_type"),
    [
        (TCP4, GSO_TCPV6),
        (TCP6, GSO_TCPV4),
        (TCP4, GSO_UDP_L4),
        (TCP6, GSO_UDP_L4),
        (UDP4, GSO_TCPV4),
        (UDP6, GSO_TCPV6),
    ],
)
def test_a_gso_type_of_another_protocol_is_refused(packet: Packet, gso_type: int) -> None:
    assert_refused(packet.frame(300, gso_type=gso_type, csum_offset=packet.csum_offset))
    assert_refused(packet.frame(300, gso_type=gso_type, flags=0))


@pytest.mark.parametrize(("packet", "gso_type"), [(TCP4, GSO_TCPV4), (TCP6, GSO_TCPV6)])
def test_the_ecn_bit_of_a_tcp_type_is_tolerated(packet: Packet, gso_type: int) -> None:
    assert split(packet.frame(300, gso_type=gso_type | GSO_ECN)) == split(packet.frame(300))


@every_kind
def test_a_super_packet_need_not_ask_for_its_checksum(packet: Packet) -> None:
    assert split(packet.frame(300, flags=0)) == split(packet.frame(300))


@every_kind
def test_a_super_packet_without_payload_is_refused(packet: Packet) -> None:
    assert_refused(replace(packet, payload=b"").frame(300))


@every_kind
def test_a_frame_cut_anywhere_is_refused(packet: Packet) -> None:
    frame = packet.frame(300)
    for length in [*range(120), len(frame) - 1]:
        assert_refused(frame[:length])


@pytest.mark.parametrize("fragment", [MF, 1, DF | MF])
def test_a_fragment_is_no_super_packet(fragment: int) -> None:
    assert_refused(replace(TCP4, fragment=fragment).frame(300))


@pytest.mark.parametrize("data_offset", [0, 4, 15])
def test_a_tcp_header_of_wrong_length_is_refused(data_offset: int) -> None:
    frame = bytearray(replace(TCP4, payload=b"123").frame(300))
    frame[10 + 20 + 12] = data_offset << 4
    assert_refused(bytes(frame))


@pytest.mark.parametrize(
    ("extension", "reason"),
    [
        (bytes([TCP, 40]) + PAD6, "longer than the packet may repeat"),
        (bytes([TCP, 255]) + PAD6, "longer than the packet"),
        (bytes([44, 0]) + PAD6 + bytes([TCP, 0]) + b"\0" * 6, "fragment"),
        (
            bytes([43, 0]) + PAD6 + bytes([TCP, 0, 4, 1]) + b"\0" * 4,
            "routing header with way to go",
        ),
    ],
)
def test_extension_headers_that_cannot_be_repeated_are_refused(
    extension: bytes, reason: str
) -> None:
    packet = replace(TCP6, extensions=extension)
    assert_refused(packet.frame(300))
    assert_refused(packet.frame(300, flags=0))


def test_a_used_up_routing_header_is_repeated() -> None:
    extensions = bytes([43, 0]) + PAD6 + bytes([TCP, 0, 4, 0]) + b"\0" * 4
    packet = replace(TCP6, extensions=extensions)
    assert split(packet.frame(300)) == [bytes(segment) for segment in packet.segments(300)]


@settings(max_examples=300)
@given(
    super_packets(),
    st.lists(st.tuples(st.integers(0, 140), st.integers(0, 255)), max_size=4),
    st.integers(0, 4000),
)
def test_a_damaged_frame_is_refused_or_becomes_valid_packets(
    case: tuple[Packet, int], damage: list[tuple[int, int]], length: int
) -> None:
    packet, size = case
    packet = replace(packet, payload=packet.payload[:3000])
    frame = bytearray(packet.frame(size)[:length])
    for at, value in damage:
        if at < len(frame):
            frame[at] = value
    packets = split_or_refuse(bytes(frame), VNET)
    if packets and frame[1] == GSO_NONE:
        assert len(packets) == 1
        assert len(packets[0]) <= len(frame) - 10
        return
    for made in packets:
        assert_valid(made)


@settings(max_examples=300)
@given(st.binary(max_size=200), st.sampled_from([0, VNET]))
def test_garbage_is_refused_or_becomes_one_ip_packet(frame: bytes, features: int) -> None:
    packets = split_or_refuse(frame, features)
    assert len(packets) <= 1
    assert all(packet[0] >> 4 in (4, 6) for packet in packets)


# ---- item 8: finish the checksum ----


@every_kind
def test_a_plain_packet_that_needs_its_checksum_gets_it(packet: Packet) -> None:
    header = vnet(
        flags=NEEDS_CSUM, csum_start=packet.transport_start, csum_offset=packet.csum_offset
    )
    assert split(header + packet.unfinished()) == [bytes(packet)]


@pytest.mark.parametrize("packet", [UDP4, UDP6])
def test_a_udp_checksum_that_computes_to_zero_goes_out_as_ffff(packet: Packet) -> None:
    packet = packet.neutral()
    finished = bytes(packet)
    at = packet.transport_start + 6
    assert finished[at : at + 2] == b"\xff\xff"
    header = vnet(flags=NEEDS_CSUM, csum_start=packet.transport_start, csum_offset=6)
    assert split(header + packet.unfinished()) == [finished]
    assert split(packet.frame(1000)) == [finished]


def test_a_checksum_that_no_udp_packet_carries_may_be_zero() -> None:
    ip_header = bytes(replace(TCP4, payload=b""))[:20]
    header = vnet(flags=NEEDS_CSUM, csum_start=20, csum_offset=16)
    packet = split(header + ip_header + b"\xff\xff" + b"\0" * 18)[0]
    assert number(packet, 36) == 0


@every_kind
@pytest.mark.parametrize(
    ("start", "offset"), [(0, 10), (19, 16), (40, 65535), (65535, 6), (65535, 65535), (-17, 16)]
)
def test_a_checksum_field_outside_the_transport_is_refused(
    packet: Packet, start: int, offset: int
) -> None:
    start = start if start >= 0 else len(bytes(packet)) + start
    header = vnet(flags=NEEDS_CSUM, csum_start=start, csum_offset=offset)
    assert_refused(header + bytes(packet))


@every_kind
def test_a_plain_packet_passes_unchanged(packet: Packet) -> None:
    assert split(bytes(packet), 0) == [bytes(packet)]
    assert split(vnet() + bytes(packet)) == [bytes(packet)]


@every_kind
def test_what_follows_the_ip_packet_is_left_out(packet: Packet) -> None:
    assert split(bytes(packet) + b"trailer", 0) == [bytes(packet)]
    assert split(packet.frame(300) + b"trailer") == split(packet.frame(300))


def test_an_ip_packet_longer_than_its_frame_is_refused() -> None:
    assert_refused(bytes(UDP4)[:-1], 0)
    assert_refused(bytes(UDP6)[:-1], 0)


def test_an_ipv4_header_of_wrong_length_is_refused() -> None:
    packet = bytes(replace(UDP4, payload=b""))
    assert_refused(b"\x44" + packet[1:], 0)
    assert_refused(b"\x4f" + packet[1:], 0)


def test_a_frame_longer_than_an_ip_packet_may_be_is_refused() -> None:
    assert_refused(b"\x60\0\0\0\xff\xff\x3b\x40" + b"\0" * 65567, 0)


# ---- item 9: what differs between the packets ----


def test_the_ipv4_id_increments_and_wraps() -> None:
    packets = split(replace(TCP4, ident=65534).frame(250))
    assert [number(packet, 4) for packet in packets] == [65534, 65535, 0, 1]


def test_fin_and_psh_are_only_on_the_last() -> None:
    packets = split(replace(TCP4, flags=ACK | FIN | PSH).frame(400))
    assert [packet[33] for packet in packets] == [ACK, ACK, ACK | FIN | PSH]


def test_cwr_is_only_on_the_first() -> None:
    packets = split(replace(TCP4, flags=ACK | CWR | ECE).frame(400))
    assert [packet[33] for packet in packets] == [ACK | CWR | ECE, ACK | ECE, ACK | ECE]


def test_the_sequence_number_advances_and_wraps() -> None:
    packets = split(replace(TCP6, seq=2**32 - 400).frame(400))
    assert [number(packet, 44, 4) for packet in packets] == [2**32 - 400, 0, 400]


@every_kind
def test_only_the_last_packet_is_shorter(packet: Packet) -> None:
    payloads = [len(made) - packet.header_length for made in split(packet.frame(400))]
    assert payloads == [400, 400, 200]


def test_too_little_room_is_reported() -> None:
    for room, most in [(1 << 20, 2), (1000, 128)]:
        with pytest.raises(OSError, match="door_gso_split") as refusal:
            split(TCP4.frame(400), room=room, most=most)
        assert refusal.value.errno == errno.ENOSPC
