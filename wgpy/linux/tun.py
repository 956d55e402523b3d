# SPDX-License-Identifier: MIT
"""Opens the TUN device: from then on plain descriptors, one for each queue, with certain abilities.

Frames carry a virtio_net_hdr so that the kernel can hand over and take super-packets; each ability
is asked for and given up on refusal, because old kernels and other drivers lack some.  See
Documentation/networking/tuntap.rst of Linux.
"""

import contextlib
import errno
import fcntl
import os
import struct
from dataclasses import dataclass

from wgpy.ports import Feature

DEFAULT_MTU = 1420  # 1500 less IPv6, UDP and WireGuard headers
QUEUE_LEN = 500  # frames that wait in each queue by default: TUN_READQ_SIZE of Linux's tun.c
NAME_MAX = 15  # IFNAMSIZ less the final zero

# <linux/if_tun.h>
TUNSETIFF = 0x400454CA
TUNGETIFF = 0x800454D2
TUNSETOFFLOAD = 0x400454D0
TUNSETVNETHDRSZ = 0x400454D8
IFF_TUN = 0x0001
IFF_MULTI_QUEUE = 0x0100
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
TUN_F_CSUM = 0x01
TUN_F_TSO4 = 0x02
TUN_F_TSO6 = 0x04
TUN_F_USO4 = 0x20
TUN_F_USO6 = 0x40

INTERFACE_REQUEST = struct.Struct("=16sH22x")  # struct ifreq: name, flags
VNET_HDR_LEN = struct.pack("=i", 10)


@dataclass(frozen=True, slots=True)
class Tun:
    """The open queues of a TUN, one at least; features are those of Feature that concern it."""

    fds: tuple[int, ...]
    features: Feature

    def close(self) -> None:
        """Close the queues, which deletes an interface that was made for them."""
        for fd in self.fds:
            os.close(fd)


def check_name(name: str) -> None:
    """Raise ValueError, saying why, for what the kernel does not take as an interface name."""
    if not name:
        raise ValueError("the interface name is empty")
    if len(os.fsencode(name)) > NAME_MAX:
        raise ValueError(f"the interface name {name!r} is longer than {NAME_MAX} bytes")
    if name in (".", "..") or any(c in "/:%" or c.isspace() or not c.isprintable() for c in name):
        raise ValueError(f"{name!r} is no valid interface name")


def open_tun(name: str, *, queues: int = 1, vnet_hdr: bool = True, offload: bool = True) -> Tun:
    """Make the interface, or take over a persistent TUN that nobody holds.

    It has one queue instead of several if it was made without IFF_MULTI_QUEUE before.  vnet_hdr and
    offload switch off the header and the super-packets.  Raises OSError.
    """
    flags = IFF_TUN | IFF_NO_PI | (IFF_VNET_HDR if vnet_hdr else 0)
    ways = [(1, flags), (queues, flags | IFF_MULTI_QUEUE)]
    first, second = ways if queues == 1 else reversed(ways)
    with contextlib.ExitStack() as stack:
        try:
            fds = _attach(stack, name, *first)
        except OSError as error:
            if error.errno != errno.EINVAL:  # it was made in the other way
                raise
            fds = _attach(stack, name, *second)
        tun = Tun(fds, _set_features(fds[0], vnet_hdr, offload))
        stack.pop_all()
    return tun


def _attach(stack: contextlib.ExitStack, name: str, queues: int, flags: int) -> tuple[int, ...]:
    """Open the queues; what the stack closes goes with it."""
    fds = []
    for _ in range(queues):
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        stack.callback(os.close, fd)
        fcntl.ioctl(fd, TUNSETIFF, INTERFACE_REQUEST.pack(name.encode(), flags))
        fds.append(fd)
    return tuple(fds)


def adopt_tun(fd: int, *, offload: bool = True) -> Tun:
    """Take over an open TUN queue.  Raises OSError when it is none.

    It must be without packet information (IFF_NO_PI), but it does not tell: in what TUNGETIFF says
    that bit is IFF_NOFILTER.  Netlink knows (Link.has_packet_information).
    """
    flags = _interface(fd)[1]
    if not flags & IFF_TUN:
        raise OSError(errno.EINVAL, "not a TUN queue")
    os.set_blocking(fd, False)
    os.set_inheritable(fd, False)
    return Tun((fd,), _set_features(fd, bool(flags & IFF_VNET_HDR), offload))


def interface_name(fd: int) -> str:
    """Tell the present name of a TUN queue's interface.  OSError (EBADFD): it is deleted."""
    return _interface(fd)[0]


def _interface(fd: int) -> tuple[str, int]:
    reply = fcntl.ioctl(fd, TUNGETIFF, bytes(INTERFACE_REQUEST.size))
    name, flags = INTERFACE_REQUEST.unpack(reply)
    return name.rstrip(b"\0").decode(), flags


def _set_features(fd: int, vnet_hdr: bool, offload: bool) -> Feature:
    """Set what all queues of the interface share, through any of them."""
    if not vnet_hdr:
        return Feature(0)
    fcntl.ioctl(fd, TUNSETVNETHDRSZ, VNET_HDR_LEN)
    tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6
    steps = (
        (tcp | TUN_F_USO4 | TUN_F_USO6, Feature.TUN_TSO | Feature.TUN_USO),  # from Linux 6.2
        (tcp, Feature.TUN_TSO),
    )
    for wanted, features in steps if offload else ():
        try:
            fcntl.ioctl(fd, TUNSETOFFLOAD, wanted)
        except OSError:
            continue
        return Feature.VNET_HDR | features
    fcntl.ioctl(fd, TUNSETOFFLOAD, 0)
    return Feature.VNET_HDR
