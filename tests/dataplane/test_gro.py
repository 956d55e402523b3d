# SPDX-License-Identifier: MIT
"""gro.c: packets become frames for the TUN, and splitting those gives the packets back."""

import errno
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wgpy.dataplane._core import lib

from .packets import (
    ACK,
    CWR,
    DF,
    ECE,
    EVERY_OFFLOAD,
    FIN,
    MF,
    PSH,
    SYN,
    TCP,
    UDP,
    URG,
    VNET,
    Packet,
    assert_valid,
    checksum,
    coalesce,
    singles,
    split,
    vnet,
)
from .strategies import mergeable_super_packets

PLAIN = vnet()
PAYLOAD = random.Random(2).randbytes(3000)
TCP4 = Packet(payload=PAYLOAD)
TCP6 = replace(TCP4, version=6)
UDP4 = replace(TCP4, protocol=UDP)
UDP6 = replace(TCP6, protocol=UDP)
NO_PAYLOAD = replace(TCP4, payload=b"")

every_kind = pytest.mark.parametrize("packet", [TCP4, TCP6, UDP4, UDP6])


def raw(packets: Iterable[Packet]) -> list[bytes]:
    return [bytes(packet) for packet in packets]


def alone(packets: Iterable[bytes]) -> list[bytes]:
    """The frames of packets that leave by themselves, untouched."""
    return [PLAIN + packet for packet in packets]


def reseal(packet: bytearray) -> bytes:
    """Gives a damaged 20-byte IPv4 header a right checksum."""
    packet[10:12] = b"\0\0"
    total = sum(int.from_bytes(packet[i : i + 2], "big") for i in range(0, 20, 2)) % 65535
    packet[10:12] = (65535 - total).to_bytes(2, "big")
    return bytes(packet)


def split_all(frames: Sequence[bytes]) -> list[bytes]:
    """What the frames stand for; the packets of plain ones as they are."""
    parts = ([frame[10:]] if frame[:10] == PLAIN else split(frame) for frame in frames)
    return list(chain.from_iterable(parts))


def flow_of(packet: bytes) -> bytes:
    """Version, protocol, addresses and ports, where packets without options have them."""
    version = packet[0] >> 4
    flow = packet[9:10] + packet[12:24] if version == 4 else packet[6:7] + packet[8:44]
    return bytes([version]) + flow


def by_flow(packets: Iterable[bytes]) -> dict[bytes, list[bytes]]:
    flows = defaultdict(list)
    for packet in packets:
        flows[flow_of(packet)].append(without_free_id(packet))
    return flows


def without_free_id(packet: bytes) -> bytes:
    """With DF the IPv4 id is anybody's (RFC 6864), and with it the header checksum."""
    if packet[0] == 0x45 and packet[6] & 0x40:
        return packet[:4] + b"??" + packet[6:10] + b"??" + packet[12:]
    return packet


@settings(max_examples=150)
@given(mergeable_super_packets())
def test_to_split_and_coalesce_gives_the_super_packet_back(case: tuple[Packet, int]) -> None:
    packet, size = case
    frame = packet.frame(size) if len(packet.payload) > size else PLAIN + bytes(packet)
    packets = split(packet.frame(size))
    for made in packets:
        assert_valid(made)
    assert coalesce(packets) == [frame]


@settings(max_examples=100)
@given(
    st.lists(mergeable_super_packets(most=12, largest=1500), min_size=1, max_size=8), st.randoms()
)
def test_to_coalesce_and_split_gives_the_packets_of_every_flow_back(
    cases: list[tuple[Packet, int]], shuffle: random.Random
) -> None:
    flows = [(replace(packet, dport=i), size) for i, (packet, size) in enumerate(cases)]
    queues = [raw(packet.segments(size)) for packet, size in flows]
    packets = []
    while queues := [queue for queue in queues if queue]:
        packets.append(shuffle.choice(queues).pop(0))
    frames = coalesce(packets)
    again = split_all(frames)
    for made in again:
        assert_valid(made)
    assert by_flow(again) == by_flow(packets)
    assert sorted(again) == sorted(packets)
    assert singles(packets) == alone(again)


@settings(max_examples=150)
@given(
    st.lists(mergeable_super_packets(most=6, largest=300), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 23), st.integers(0, 70), st.integers(0, 255)), max_size=6),
)
def test_damaged_packets_pass_untouched_and_in_order(
    cases: list[tuple[Packet, int]], damage: list[tuple[int, int, int]]
) -> None:
    flows = [raw(packet.segments(size)) for packet, size in cases]
    packets = [bytearray(p) for row in zip_longest(*flows) for p in row if p is not None]
    for which, at, value in damage:
        packet = packets[which % len(packets)]
        packet[at % len(packet)] = value
    damaged = [bytes(packet) for packet in packets]
    assert by_flow(split_all(coalesce(damaged))) == by_flow(damaged)
    assert sorted(singles(damaged)) == sorted(alone(damaged))


@settings(max_examples=200)
@given(st.lists(st.binary(min_size=1, max_size=80), max_size=20), st.integers(0, 31))
def test_garbage_passes_untouched(packets: list[bytes], features: int) -> None:
    header = PLAIN if features & VNET else b""
    assert coalesce(packets, features) == [header + packet for packet in packets]


# ---- item 10: what may be joined ----


@every_kind
def test_two_packets_of_a_flow_become_one_frame(packet: Packet) -> None:
    assert coalesce(raw(packet.segments(1500))) == [packet.frame(1500)]


@every_kind
@pytest.mark.parametrize(
    "difference",
    [
        {"src": 7},
        {"dst": 7},
        {"sport": 7},
        {"dport": 7},
        {"tos": 4},
        {"tos": 3},
        {"ttl": 63},
    ],
    ids=str,
)
def test_packets_of_different_flows_or_kinds_are_not_joined(
    packet: Packet, difference: dict[str, Any]
) -> None:
    first, second = packet.segments(1500)
    packets = raw([first, replace(second, **difference)])
    assert coalesce(packets) == alone(packets)


@pytest.mark.parametrize("packet", [TCP4, TCP6])
@pytest.mark.parametrize(
    "difference",
    [
        {"ack": 1},
        {"window": 501},
        {"urgent": 1},
        {"seq": 1499},
        {"seq": 1501},
        {"seq": 0},
        {"flags": ACK | SYN},
        {"flags": ACK | FIN},
        {"flags": ACK | URG},
        {"flags": ACK | ECE},
        {"flags": ACK | CWR},
        {"flags": ACK | 0x100},
        {"flags": PSH},
        {"tcp_options": b"\x01\x01\x01\x01"},
    ],
    ids=str,
)
def test_tcp_packets_that_differ_are_not_joined(packet: Packet, difference: dict[str, Any]) -> None:
    first, second = packet.segments(1500)
    packets = raw([first, replace(second, **difference)])
    assert coalesce(packets) == alone(packets)


def test_tcp_options_must_be_the_same() -> None:
    first, second = replace(TCP4, tcp_options=b"\x08\x0a\0\0").segments(1500)
    packets = raw([first, replace(second, tcp_options=b"\x08\x0a\0\1")])
    assert coalesce(packets) == alone(packets)


@pytest.mark.parametrize("packet", [TCP6, UDP6])
def test_flow_labels_must_be_the_same(packet: Packet) -> None:
    first, second = packet.segments(1500)
    packets = raw([first, replace(second, flow_label=1)])
    assert coalesce(packets) == alone(packets)


@pytest.mark.parametrize("packet", [TCP4, UDP4])
@pytest.mark.parametrize("fragment", [0, MF, DF | MF, 1, DF | 0x8000])
def test_df_must_be_the_same_and_fragments_are_not_joined(packet: Packet, fragment: int) -> None:
    first, second = packet.segments(1500)
    for packets in (
        raw([first, replace(second, fragment=fragment)]),
        raw(replace(p, fragment=fragment) for p in (first, second)) if fragment else [],
    ):
        assert coalesce(packets) == alone(packets)


@every_kind
def test_packets_with_options_or_extension_headers_are_not_joined(packet: Packet) -> None:
    padded = replace(
        packet,
        ip_options=b"\x01\x01\x01\x01" if packet.version == 4 else b"",
        extensions=bytes([packet.protocol, 0, 1, 4, 0, 0, 0, 0]) if packet.version == 6 else b"",
    )
    packets = raw(padded.segments(1500))
    assert coalesce(packets) == alone(packets)


@pytest.mark.parametrize("packet", [TCP4, UDP4])
def test_the_ids_of_packets_that_may_be_fragmented_must_increment(packet: Packet) -> None:
    fragile = replace(packet, fragment=0)
    for step in (0, 2, 65535):
        first, second = fragile.segments(1500)
        packets = raw([first, replace(second, ident=step)])
        assert coalesce(packets) == alone(packets)


@pytest.mark.parametrize("packet", [TCP4, UDP4])
def test_with_df_the_ids_may_be_constant(packet: Packet) -> None:
    packets = raw(replace(segment, ident=9) for segment in packet.segments(1000))
    assert coalesce(packets) == [replace(packet, ident=9).frame(1000)]
    assert singles(packets) == alone(packets)


@pytest.mark.parametrize("ids", [(5, 5, 6), (5, 6, 6), (5, 6, 5)])
def test_with_df_the_ids_may_not_change_their_ways(ids: tuple[int, int, int]) -> None:
    packets = raw(
        replace(segment, ident=ident)
        for segment, ident in zip(TCP4.segments(1000), ids, strict=True)
    )
    frames = coalesce(packets)
    assert len(frames) == 2
    assert frames[1] == PLAIN + packets[2]


@pytest.mark.parametrize("packet", [TCP4, TCP6])
def test_psh_ends_a_run(packet: Packet) -> None:
    first, second, third = packet.segments(1000)
    frames = coalesce(raw([first, replace(second, flags=ACK | PSH), third]))
    both = replace(packet, flags=ACK | PSH, payload=PAYLOAD[:2000])
    assert frames == [both.frame(1000), PLAIN + bytes(third)]


@pytest.mark.parametrize("packet", [TCP4, TCP6])
def test_a_packet_with_psh_begins_no_run(packet: Packet) -> None:
    first, second = packet.segments(1500)
    packets = raw([replace(first, flags=ACK | PSH), second])
    assert coalesce(packets) == alone(packets)


@every_kind
def test_only_the_last_may_be_smaller(packet: Packet) -> None:
    first, second, third = packet.segments(1000)
    short = replace(second, payload=second.payload[:999])
    after = replace(third, seq=1999)
    frames = coalesce(raw([first, short, after]))
    assert frames == [replace(packet, payload=PAYLOAD[:1999]).frame(1000), PLAIN + bytes(after)]


@every_kind
def test_the_next_may_not_be_larger(packet: Packet) -> None:
    small = replace(packet, payload=PAYLOAD[:1000])
    large = replace(packet, payload=PAYLOAD[1000:2001], seq=1000, ident=1)
    assert coalesce(raw([small, large])) == alone(raw([small, large]))


@every_kind
def test_a_wrong_transport_checksum_is_passed_on_alone(packet: Packet) -> None:
    for wrong in range(3):
        packets = raw(packet.segments(1000))
        packets[wrong] = packets[wrong][:-1] + bytes([packets[wrong][-1] ^ 1])
        frames = coalesce(packets)
        assert PLAIN + packets[wrong] in frames
        assert split_all(frames) == packets


@pytest.mark.parametrize("packet", [TCP4, UDP4])
def test_a_wrong_ip_header_checksum_is_passed_on_alone(packet: Packet) -> None:
    for wrong in range(2):
        packets = raw(packet.segments(1500))
        packets[wrong] = packets[wrong][:10] + b"\x12\x34" + packets[wrong][12:]
        assert coalesce(packets) == alone(packets)


@pytest.mark.parametrize("packet", [UDP4, UDP6])
def test_udp_without_a_checksum_is_not_joined(packet: Packet) -> None:
    """Even if 0 is what the checksum would be."""
    packets = [segment.neutral().with_checksum(0) for segment in packet.segments(1500)]
    assert coalesce(packets) == alone(packets)


@pytest.mark.parametrize("packet", [UDP4, UDP6])
def test_udp_with_a_length_of_its_own_is_not_joined(packet: Packet) -> None:
    packets = []
    for segment in packet.segments(1500):
        transport = bytearray(segment.transport())
        transport[4:6] = b"\0\x20"
        value = checksum(segment.pseudo_header(len(transport)) + transport)
        transport[6:8] = value.to_bytes(2, "big")
        packets.append(segment.ip_header(len(transport)) + transport)
    assert coalesce(packets) == alone(packets)


@pytest.mark.parametrize("packet", [UDP4, UDP6])
def test_empty_datagrams_are_not_joined(packet: Packet) -> None:
    packets = raw([replace(packet, payload=b"")] * 2)
    assert coalesce(packets) == alone(packets)


@every_kind
def test_a_packet_shorter_than_its_headers_say_is_not_joined(packet: Packet) -> None:
    packets = [p[: packet.header_length - 1] for p in raw(packet.segments(1500))]
    assert coalesce(packets) == alone(packets)


def test_a_packet_whose_length_is_not_the_ip_headers_is_not_joined() -> None:
    first, second = raw(TCP4.segments(1500))
    packets = [first, reseal(bytearray(second[:2] + b"\0\x30" + second[4:]))]
    assert coalesce(packets) == alone(packets)


def test_a_pure_ack_is_not_overtaken() -> None:
    first, second = TCP4.segments(1500)
    packets = raw([first, replace(NO_PAYLOAD, seq=1500), second])
    assert coalesce(packets) == alone(packets)


@every_kind
def test_a_packet_that_starts_a_new_run_is_not_overtaken(packet: Packet) -> None:
    first, second = packet.segments(1500)
    packets = raw([first, replace(first, ttl=3), second])
    assert coalesce(packets) == alone(packets)


@every_kind
def test_a_packet_whose_flow_cannot_be_told_is_not_overtaken(packet: Packet) -> None:
    first, second = raw(packet.segments(1500))
    fragment = bytes(replace(UDP4, fragment=MF, payload=b"1"))
    hop_by_hop = (
        bytes.fromhex("60000000 0008 0040") + b"\0" * 32 + bytes.fromhex("3b00010400000000")
    )
    for between in (fragment, hop_by_hop):
        packets = [first, between, second]
        assert coalesce(packets) == alone(packets)


@every_kind
def test_a_packet_of_another_protocol_does_not_end_a_run(packet: Packet) -> None:
    first, second = raw(packet.segments(1500))
    ping = bytes.fromhex("60000000 0008 3a40") + b"\0" * 40
    assert coalesce([first, ping, second]) == [packet.frame(1500), PLAIN + ping]


def test_a_frame_is_never_longer_than_an_ip_packet() -> None:
    for base, version in ((TCP4, 4), (TCP6, 6), (UDP4, 4), (UDP6, 6)):
        packet = replace(base, payload=PAYLOAD[:1000] * 70, version=version)
        packets = raw(packet.segments(1024))
        frames = coalesce(packets)
        assert [len(frame) <= 10 + 65535 for frame in frames] == [True, True]
        assert split_all(frames) == packets


@pytest.mark.parametrize(("packet", "most"), [(TCP4, 128), (TCP6, 128), (UDP4, 64), (UDP6, 64)])
def test_a_frame_stands_for_a_limited_number_of_packets(packet: Packet, most: int) -> None:
    packets = raw(packet.segments(10))
    frames = coalesce(packets)
    assert [len(split(frame)) for frame in frames[:-1]] == [most] * (300 // most)
    assert split_all(frames) == packets


@every_kind
@pytest.mark.parametrize("field", ["src", "dst", "sport", "dport"])
def test_interleaved_flows_each_become_a_frame(packet: Packet, field: str) -> None:
    values: list[dict[str, Any]] = [{field: 9000 + i} for i in range(60)]
    flows = [replace(packet, **value) for value in values]
    rows = zip(*(flow.segments(1000) for flow in flows), strict=True)
    assert coalesce(raw(chain.from_iterable(rows))) == [flow.frame(1000) for flow in flows]


@pytest.mark.parametrize("count", [200, 1000])
def test_flows_that_collide_keep_their_order(count: int) -> None:
    flows = [replace(UDP6, src=port, payload=PAYLOAD[: 30 + port % 7]) for port in range(count)]
    rows = zip_longest(*(flow.segments(15) for flow in flows))
    packets = raw(packet for row in rows for packet in row if packet)
    frames = coalesce(packets)
    assert count <= len(frames) < len(packets)
    assert by_flow(split_all(frames)) == by_flow(packets)


def test_more_packets_than_a_batch_holds_are_no_loss() -> None:
    packets = raw(replace(TCP4, payload=PAYLOAD).segments(1)[:2500])
    assert split_all(coalesce(packets)) == packets


def test_too_little_room_is_reported() -> None:
    packets = raw(TCP4.segments(1500))
    for room, most in [(3000, 1), (1 << 20, 0)]:
        with pytest.raises(OSError, match="door_gro_coalesce") as refusal:
            coalesce(packets, room=room, most=most)
        assert refusal.value.errno == errno.ENOSPC


# ---- item 11: a coalesced frame that the TUN refused ----


@settings(max_examples=100)
@given(mergeable_super_packets(most=20, largest=1500))
def test_a_refused_frame_is_taken_apart_into_what_came_in(case: tuple[Packet, int]) -> None:
    packet, size = case
    packets = raw(packet.segments(size))
    assert singles(packets) == alone(packets)


# ---- item 12: off-switches ----


@every_kind
def test_without_a_virtio_header_nothing_is_joined(packet: Packet) -> None:
    packets = raw(packet.segments(1000))
    assert coalesce(packets, EVERY_OFFLOAD & ~VNET) == packets
    assert singles(packets, EVERY_OFFLOAD & ~VNET) == packets


@every_kind
def test_without_the_tuns_consent_nothing_is_joined(packet: Packet) -> None:
    packets = raw(packet.segments(1000))
    own = lib.WG_FEATURE_TUN_TSO if packet.protocol == TCP else lib.WG_FEATURE_TUN_USO
    assert coalesce(packets, EVERY_OFFLOAD & ~own) == alone(packets)
    assert coalesce(packets, VNET | own) == [packet.frame(1000)]
