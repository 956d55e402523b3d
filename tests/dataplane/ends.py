# SPDX-License-Identifier: MIT
"""The other ends of what a running plane borrows."""

import socket
from contextlib import ExitStack
from socket import AddressFamily

from wgpy.dataplane.plane import Plane
from wgpy.dataplane.types import PlaneIO, WorkerIO
from wgpy.ports import Feature

NO_FEATURES = Feature(0)
WAIT_S = 10  # what a test waits for comes at once, or the test has failed


def start(
    plane: Plane,
    stack: ExitStack,
    features: Feature = NO_FEATURES,
    family: AddressFamily = socket.AF_INET,
) -> tuple[socket.socket, socket.socket]:
    """Start the plane until the stack unwinds; -> the other ends of its TUN and its UDP socket."""
    tun, lent_tun = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    lent_udp, udp = (socket.socket(family, socket.SOCK_DGRAM) for _ in range(2))
    for used in (tun, lent_tun, lent_udp, udp):
        stack.enter_context(used)
    for lent in (lent_tun, lent_udp):
        lent.setblocking(False)
    for end in (lent_udp, udp):
        end.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
    udp.connect(lent_udp.getsockname())
    for end in (tun, udp):
        end.settimeout(WAIT_S)
    udp_fds = (lent_udp.fileno(), -1) if family == socket.AF_INET else (-1, lent_udp.fileno())
    plane.start(PlaneIO((WorkerIO(lent_tun.fileno(), *udp_fds),), features))
    stack.callback(plane.stop)
    return tun, udp
