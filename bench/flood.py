# SPDX-License-Identifier: MIT
"""Sends UDP as fast as one core can, many datagrams per system call, and waits for no answer.

python -m bench.flood ADDRESS SECONDS

With UDP_SEGMENT the kernel hands a TUN that offers USO whole super-packets; otherwise it splits.
"""

import errno
import socket
import sys
import time

UDP_SEGMENT = 103  # <linux/udp.h>
PORT = 9  # discard
PAYLOAD = 1372  # bytes per datagram: an inner packet of 1400
SEGMENTS = 47  # per send: the most that fits a UDP datagram of 65507 bytes
SENDS_PER_LOOK = 64  # between two looks at the clock


def main(address: str, seconds: float) -> None:
    """Send to the address for so long."""
    deadline = time.monotonic() + seconds
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect((address, PORT))
        data = bytes(PAYLOAD * SEGMENTS)
        sender.setsockopt(socket.SOL_UDP, UDP_SEGMENT, PAYLOAD)
        while time.monotonic() < deadline:
            for _ in range(SENDS_PER_LOOK):
                try:
                    sender.send(data)
                except OSError as error:
                    if error.errno == errno.EIO:  # an interface without checksum offload
                        sender.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 0)
                        data = bytes(PAYLOAD)
                    elif error.errno not in (errno.ENOBUFS, errno.ECONNREFUSED):
                        raise


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
