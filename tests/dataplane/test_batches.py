# SPDX-License-Identifier: MIT
"""How large batches get: datagrams of one send, packets of one receive."""

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from .faults import FaultyKernel
from .test_fallbacks import Wire, flow

pytestmark = pytest.mark.threads

UDP_SEGMENT, UDP_GRO = 103, 104  # <linux/udp.h>
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33  # <asm-generic/socket.h>
BUFFER_LEN = 4 << 20
PAYLOAD = 1372  # a packet of 1400 bytes, a message of 1440
MESSAGE = 1440
SEGMENTS_MAX = 128  # UDP_MAX_SEGMENTS since Linux 6.9
SLOTS = 8  # messages of one recvmmsg
FRAME_MAX = 64  # packets in one frame of UDP


@pytest.fixture
def wire(kernel: FaultyKernel) -> Iterator[Wire]:
    with ExitStack() as stack:
        yield Wire(stack)


def test_a_send_is_filled_from_the_next_frame(wire: Wire) -> None:
    """A frame of 65,535 bytes holds 47 segments, and one send takes 45 of their messages."""
    wire.peers[0].setsockopt(socket.SOL_UDP, UDP_GRO, 1)
    wire.peers[0].setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_LEN)
    wire.tun.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, BUFFER_LEN)
    for _ in range(3):
        wire.send(0, 47, PAYLOAD)
    wire.start()
    trains = [len(wire.peers[0].recv(65535)) / MESSAGE for _ in range(4)]
    assert trains == [45, 45, 45, 6]


def test_a_receive_of_the_longest_trains_loses_none(wire: Wire) -> None:
    wire.lent_udp.setsockopt(socket.SOL_UDP, UDP_GRO, 1)
    wire.lent_udp.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_LEN)
    for number in range(SLOTS):
        messages = [wire.seal(packet) for packet in flow(number, SEGMENTS_MAX, payload=1)]
        segment = (socket.SOL_UDP, UDP_SEGMENT, struct.pack("=H", len(messages[0])))
        wire.peers[0].sendmsg([b"".join(messages)], [segment], 0, wire.lent_udp.getsockname())
    wire.start()
    wire.frames(SLOTS * SEGMENTS_MAX // FRAME_MAX)
    wire.assert_goes_on()
    assert wire.count("rx_tun_errors") == 0
