# SPDX-License-Identifier: MIT
"""A look at the datagrams that pass the router."""

import socket
import struct
from typing import NamedTuple

from interop.network import BUFFER_LEN, SO_RCVBUFFORCE, Host

INITIATION, RESPONSE, COOKIE_REPLY, DATA = 1, 2, 3, 4  # Datagram.kind

ETH_P_ALL = 3  # <linux/if_ether.h>
PACKET_OUTGOING = 4  # <linux/if_packet.h>
SO_TIMESTAMPNS = 35  # <asm-generic/socket.h>


class Datagram(NamedTuple):
    """What the router saw of a UDP datagram."""

    time_ns: int  # Unix
    arrived: bool  # came over the cable that is watched, as opposed to leaving over it
    source: tuple[str, int]
    target: tuple[str, int]
    tos: int  # DSCP and ECN
    hops: int
    payload: bytes

    @property
    def kind(self) -> int:
        return int.from_bytes(self.payload[:4], "little")


class Capture:
    """Watches one of the router's cables from now on."""

    def __init__(self, router: Host, cable: str) -> None:
        def opened() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
            made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_LEN)
            made.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            made.bind((cable, ETH_P_ALL))
            made.setblocking(False)
            return made

        self._socket = router.inside(opened)

    def __enter__(self) -> "Capture":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def datagrams(self) -> list[Datagram]:
        """All since the last call."""
        taken: list[Datagram] = []
        while True:
            try:
                packet, ancillary, _, address = self._socket.recvmsg(1 << 16, 64)
            except BlockingIOError:
                return taken
            seconds, nanoseconds = struct.unpack("=qq", ancillary[0][2][:16])
            arrived = address[2] != PACKET_OUTGOING
            parsed = _parse(packet)
            if parsed is not None:
                taken.append(Datagram(seconds * 10**9 + nanoseconds, arrived, *parsed))


def _parse(
    packet: bytes,
) -> tuple[tuple[str, int], tuple[str, int], int, int, bytes] | None:
    if packet[0] >> 4 == 4 and packet[9] == socket.IPPROTO_UDP:
        length = 4 * (packet[0] & 15)
        addresses = [socket.inet_ntop(socket.AF_INET, packet[at : at + 4]) for at in (12, 16)]
        tos, hops = packet[1], packet[8]
    elif packet[0] >> 4 == 6 and packet[6] == socket.IPPROTO_UDP:
        length = 40
        addresses = [socket.inet_ntop(socket.AF_INET6, packet[at : at + 16]) for at in (8, 24)]
        tos, hops = (int.from_bytes(packet[:2], "big") >> 4) & 255, packet[7]
    else:
        return None
    ports = struct.unpack_from("!HH", packet, length)
    source, target = zip(addresses, ports, strict=True)
    return source, target, tos, hops, packet[length + 8 :]
