# SPDX-License-Identifier: MIT
"""Builds, splits and checks IP packets in plain Python, and calls the C stages on them.

Nothing here shares arithmetic with the C code: the checksum is a remainder of one big integer.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from wgpy.dataplane._core import ffi, lib

TCP, UDP = 6, 17
FIN, SYN, PSH, ACK, URG, ECE, CWR = 0x01, 0x02, 0x08, 0x10, 0x20, 0x40, 0x80
DF, MF = 0x4000, 0x2000
NEEDS_CSUM = 1
GSO_NONE, GSO_TCPV4, GSO_UDP, GSO_TCPV6, GSO_UDP_L4, GSO_ECN = 0, 1, 3, 4, 5, 0x80

VNET = lib.WG_FEATURE_VNET_HDR
EVERY_OFFLOAD = VNET | lib.WG_FEATURE_TUN_TSO | lib.WG_FEATURE_TUN_USO


def ones_sum(data: bytes) -> int:
    """The one's complement sum of big-endian 16-bit words (RFC 1071), folded.

    2^16 is 1 modulo 65535, so the sum is the remainder; 0 only if every word is.
    """
    number = int.from_bytes(data + b"\0" * (len(data) % 2), "big")
    return number % 65535 or (65535 if number else 0)


def checksum(data: bytes) -> int:
    return 65535 - ones_sum(data)


def vnet(
    gso_type: int = GSO_NONE,
    *,
    flags: int = 0,
    hdr_len: int = 0,
    gso_size: int = 0,
    csum_start: int = 0,
    csum_offset: int = 0,
) -> bytes:
    """A struct virtio_net_hdr."""
    return struct.pack("=BBHHHH", flags, gso_type, hdr_len, gso_size, csum_start, csum_offset)


@dataclass(frozen=True, slots=True)
class Packet:
    """A TCP or UDP packet, or a super-packet; bytes(packet) has right lengths and checksums."""

    version: int = 4
    protocol: int = TCP
    src: int = 0x0A000001
    dst: int = 0x0A000002
    tos: int = 0
    ttl: int = 64
    ident: int = 0
    fragment: int = DF
    ip_options: bytes = b""
    flow_label: int = 0
    extensions: bytes = b""  # IPv6, whole; the first is destination options (60)
    sport: int = 1000
    dport: int = 2000
    seq: int = 0
    ack: int = 0
    flags: int = ACK
    window: int = 500
    urgent: int = 0
    tcp_options: bytes = b""
    payload: bytes = b""

    @property
    def transport_start(self) -> int:
        if self.version == 4:
            return 20 + len(self.ip_options)
        return 40 + len(self.extensions)

    @property
    def header_length(self) -> int:
        transport = 20 + len(self.tcp_options) if self.protocol == TCP else 8
        return self.transport_start + transport

    @property
    def csum_offset(self) -> int:
        return 16 if self.protocol == TCP else 6

    def addresses(self) -> bytes:
        size = 4 if self.version == 4 else 16
        return self.src.to_bytes(size, "big") + self.dst.to_bytes(size, "big")

    def ip_header(self, transport_length: int) -> bytes:
        length = self.transport_start + transport_length
        if self.version == 6:
            first = 6 << 28 | self.tos << 20 | self.flow_label
            next_header = 60 if self.extensions else self.protocol
            fixed = struct.pack("!IHBB", first, length - 40, next_header, self.ttl)
            return fixed + self.addresses() + self.extensions
        header = struct.pack(
            "!BBHHHBBH",
            0x45 + len(self.ip_options) // 4,
            self.tos,
            length,
            self.ident,
            self.fragment,
            self.ttl,
            self.protocol,
            0,
        )
        header += self.addresses() + self.ip_options
        return header[:10] + checksum(header).to_bytes(2, "big") + header[12:]

    def pseudo_header(self, transport_length: int) -> bytes:
        return self.addresses() + struct.pack("!II", transport_length, self.protocol)

    def transport(self) -> bytes:
        """The TCP or UDP header with a zero checksum, and the payload."""
        if self.protocol == UDP:
            header = struct.pack("!HHHH", self.sport, self.dport, 8 + len(self.payload), 0)
            return header + self.payload
        header = struct.pack(
            "!HHIIHHHH",
            self.sport,
            self.dport,
            self.seq,
            self.ack,
            (5 + len(self.tcp_options) // 4) << 12 | self.flags,
            self.window,
            0,
            self.urgent,
        )
        return header + self.tcp_options + self.payload

    def with_checksum(self, value: int) -> bytes:
        transport = bytearray(self.transport())
        struct.pack_into("!H", transport, self.csum_offset, value)
        return self.ip_header(len(transport)) + transport

    def __bytes__(self) -> bytes:
        transport = self.transport()
        value = checksum(self.pseudo_header(len(transport)) + transport)
        return self.with_checksum(value or (65535 if self.protocol == UDP else 0))

    def neutral(self) -> "Packet":
        """With the last two bytes of payload such that the checksum computes to 0."""
        payload = self.payload[:-2]
        transport = replace(self, payload=payload + b"\0\0").transport()
        filler = checksum(self.pseudo_header(len(transport)) + transport)
        return replace(self, payload=payload + filler.to_bytes(2, "big"))

    def unfinished(self) -> bytes:
        """With the pseudo-header's sum in the checksum field, as NEEDS_CSUM means it."""
        return self.with_checksum(ones_sum(self.pseudo_header(len(self.transport()))))

    def frame(self, gso_size: int, /, **changes: int) -> bytes:
        """A super-packet as the kernel gives and wants it."""
        kind = GSO_UDP_L4
        if self.protocol == TCP:
            kind = GSO_TCPV4 if self.version == 4 else GSO_TCPV6
        fields = {
            "gso_type": kind,
            "flags": NEEDS_CSUM,
            "hdr_len": self.header_length,
            "gso_size": gso_size,
            "csum_start": self.transport_start,
            "csum_offset": self.csum_offset,
        }
        return vnet(**fields | changes) + self.unfinished()

    def segments(self, size: int) -> "list[Packet]":
        """The packets that a super-packet stands for."""
        starts = range(0, len(self.payload), size)
        return [
            replace(
                self,
                ident=(self.ident + i) % 2**16,
                seq=(self.seq + start) % 2**32,
                flags=self.flags
                & ~(CWR if start != starts[0] else 0)
                & ~(FIN | PSH if start != starts[-1] else 0),
                payload=self.payload[start : start + size],
            )
            for i, start in enumerate(starts)
        ]


def assert_valid(packet: bytes) -> None:
    """Every length and checksum of a TCP or UDP packet is right, and UDP has one."""
    if packet[0] >> 4 == 4:
        start, protocol, addresses = (packet[0] & 15) * 4, packet[9], packet[12:20]
        assert ones_sum(packet[:start]) == 65535
        assert int.from_bytes(packet[2:4], "big") == len(packet)
    else:
        start, protocol, addresses = 40, packet[6], packet[8:40]
        assert int.from_bytes(packet[4:6], "big") == len(packet) - 40
        while protocol in (0, 43, 60):
            protocol, start = packet[start], start + 8 + packet[start + 1] * 8
    transport = packet[start:]
    assert protocol in (TCP, UDP)
    assert ones_sum(addresses + struct.pack("!II", len(transport), protocol) + transport) == 65535
    if protocol == UDP:
        assert int.from_bytes(transport[4:6], "big") == len(transport)
        assert transport[6:8] != b"\0\0"


def owned(data: bytes) -> Any:
    """A copy in memory of its very size, so that a sanitizer sees a step too far."""
    buffer = ffi.new("uint8_t[]", len(data))
    ffi.memmove(buffer, data, len(data))
    return buffer


def cut(data: Any, lengths: Sequence[int]) -> list[bytes]:
    whole, pieces, at = bytes(ffi.buffer(data, sum(lengths))), [], 0
    for length in lengths:
        pieces.append(whole[at : at + length])
        at += length
    return pieces


def split(
    frame: bytes, features: int = EVERY_OFFLOAD, *, room: int = 1 << 20, most: int = 1 << 16
) -> list[bytes]:
    """door_gso_split; raises OSError."""
    out, lengths = ffi.new("uint8_t[]", room), ffi.new("uint32_t[]", most)
    count = lib.door_gso_split(owned(frame), len(frame), features, out, room, lengths, most)
    if count < 0:
        raise OSError(-count, "door_gso_split")
    return cut(out, lengths[0:count])


def coalesce(
    packets: Sequence[bytes],
    features: int = EVERY_OFFLOAD,
    *,
    apart: bool = False,
    room: int = 1 << 21,
    most: int = 1 << 12,
) -> list[bytes]:
    """door_gro_coalesce; raises OSError."""
    out, lengths = ffi.new("uint8_t[]", room), ffi.new("uint32_t[]", most)
    data, sizes = owned(b"".join(packets)), [len(packet) for packet in packets]
    count = lib.door_gro_coalesce(
        data, sizes, len(sizes), features, out, room, lengths, most, apart
    )
    if count < 0:
        raise OSError(-count, "door_gro_coalesce")
    return cut(out, lengths[0:count])


def singles(packets: Sequence[bytes], features: int = EVERY_OFFLOAD) -> list[bytes]:
    """What goes out when every coalesced frame is refused; raises OSError."""
    return coalesce(packets, features, apart=True)
