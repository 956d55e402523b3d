# SPDX-License-Identifier: MIT
"""Sends bursts of datagrams, which somebody else works off.

python -m bench.bursts ADDRESS PORT COUNT [KEY]

For each line that it reads it makes one and says "ready", or sends it and says "sent", and is idle
in between.  Without a KEY these are COUNT packets of
zeros.  With one they are sealed, as those of the peer whose private key is the first line that it
reads, for the responder whose public key is KEY, both in base64; each is sent once, as the replay
window of a daemon is real.
"""

import itertools
import socket
import struct
import sys
import time
from base64 import b64decode
from collections.abc import Iterator

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from bench.flood import PAYLOAD, PORT, UDP_SEGMENT
from bench.newcomer import PATIENCE_S, Newcomer
from wgpy.protocol.noise import StaticKey, TransportKeys

SEND_MAX = 65507  # bytes of a UDP datagram
TRANSPORT = 4  # type of data messages (5.4.6)
UDP_PROTOCOL, TTL, DONT_FRAGMENT = 17, 64, 0x4000
SOURCE, DESTINATION = bytes([10, 9, 9, 1]), bytes([10, 9, 9, 2])  # of bench.cores


def inner_packet(source: bytes, destination: bytes) -> bytes:
    """Make a UDP packet of 1400 bytes, padded as a message's payload is."""
    udp = struct.pack("!HHHH", PORT, PORT, 8 + PAYLOAD, 0) + bytes(PAYLOAD)
    pseudo = source + destination + struct.pack("!HH", UDP_PROTOCOL, len(udp))
    udp = udp[:6] + struct.pack("!H", _checksum(pseudo + udp)) + udp[8:]
    length = 20 + len(udp)
    ip = struct.pack("!BBHHHBB", 0x45, 0, length, 0, DONT_FRAGMENT, TTL, UDP_PROTOCOL)
    checksum = _checksum(ip + bytes(2) + source + destination)
    packet = ip + struct.pack("!H", checksum) + source + destination + udp
    return packet + bytes(-len(packet) % 16)


def _checksum(data: bytes) -> int:
    words: tuple[int, ...] = struct.unpack(f"!{len(data) // 2}H", data)
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def sealed(keys: TransportKeys, packet: bytes) -> Iterator[bytes]:
    """Give message after message, each with the next counter."""
    header = struct.pack("<II", TRANSPORT, keys.remote_index)
    seal = ChaCha20Poly1305(keys.send_key).encrypt
    for counter in itertools.count():
        nonce = counter.to_bytes(8, "little")
        yield header + nonce + seal(bytes(4) + nonce, packet, None)


def datagrams(udp: socket.socket, key: str | None) -> Iterator[bytes]:
    """Give all that is to be sent.  SystemExit: there is no handshake."""
    if key is None:
        return itertools.repeat(bytes(PAYLOAD))
    local = StaticKey(b64decode(sys.stdin.readline()))
    keys = Newcomer(udp, local, b64decode(key)).attempt(time.monotonic() + PATIENCE_S)
    if keys is None:
        raise SystemExit("no handshake")
    return sealed(keys, inner_packet(SOURCE, DESTINATION))


def main(address: str, port: str, count: str, key: str | None = None) -> None:
    """Serve bursts until the end of standard input."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.connect((address, int(port)))
        source = datagrams(udp, key)
        first = next(source)
        source = itertools.chain([first], source)
        udp.setsockopt(socket.SOL_UDP, UDP_SEGMENT, len(first))
        at_once = SEND_MAX // len(first)
        while sys.stdin.readline():
            sends = [
                b"".join(itertools.islice(source, at_once)) for _ in range(int(count) // at_once)
            ]
            print("ready", flush=True)
            sys.stdin.readline()
            for data in sends:
                udp.send(data)
            print("sent", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
