# SPDX-License-Identifier: MIT
"""Hypothesis strategies: super-packets as the TUN gives and takes them."""

import random
from dataclasses import replace

from hypothesis import strategies as st

from .packets import ACK, DF, PSH, TCP, UDP, Packet

PAD6 = b"\x01\x04\0\0\0\0"  # a PadN option


@st.composite
def mergeable_super_packets(
    draw: st.DrawFn, most: int = 128, largest: int = 9000, most_udp: int = 64
) -> tuple[Packet, int]:
    """A super-packet without anything that forbids merging, and its segment size."""
    version, protocol = draw(st.sampled_from([4, 6])), draw(st.sampled_from([TCP, UDP]))
    size = draw(st.integers(1, largest))
    count = draw(st.integers(1, most if protocol == TCP else min(most, most_udp)))
    short = draw(st.integers(0, size - 1))
    length = min(size * count - short, 65_400)
    return Packet(
        version=version,
        protocol=protocol,
        src=draw(st.integers(0, 2**32 - 1)),
        tos=draw(st.integers(0, 255)),
        ttl=draw(st.integers(1, 255)),
        ident=draw(st.integers(0, 2**16 - 1)),
        fragment=draw(st.sampled_from([0, DF])),
        flow_label=draw(st.integers(0, 2**20 - 1)),
        sport=draw(st.integers(0, 2**16 - 1)),
        seq=draw(st.integers(0, 2**32 - 1)),
        ack=draw(st.integers(0, 2**32 - 1)),
        flags=draw(st.sampled_from([ACK, ACK | PSH])),
        window=draw(st.integers(0, 2**16 - 1)),
        tcp_options=b"\x01\x01\x08\x0a" * draw(st.integers(0, 10)),
        payload=random.Random(length).randbytes(length),
    ), size


@st.composite
def super_packets(draw: st.DrawFn) -> tuple[Packet, int]:
    """Any super-packet, and its segment size."""
    packet, size = draw(mergeable_super_packets(most_udp=128))
    return replace(
        packet,
        flags=draw(st.integers(0, 2**8 - 1)),
        ip_options=b"\x01\x01\x01\x01" * draw(st.integers(0, 10)),
        extensions=(bytes([packet.protocol, 0]) + PAD6) * draw(st.integers(0, 1)),
    ), size
