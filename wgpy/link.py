"""What happens to our interface - up, down, MTU, deletion - wherever it was moved or renamed.

Rule: a netlink notification is only a hint.  Every hint leads to one fresh read of the whole state,
so none can be missed, overtaken or misread, and a socket buffer that overflows does no harm.

The TUN may move to another namespace while we stay in the one it was made in.  A socket opened over
there would keep that namespace alive for ever, so ours stays at home and listens to all namespaces
that have an id at home (NETLINK_LISTEN_ALL_NSID; the kernel gives one to the namespace that an
interface moves to), and the state is read through that id.  The TUN descriptor always knows the
present name and namespace, so no name or index is kept that could go stale.  See netlink(7),
rtnetlink(7).
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import select
import socket
import struct
from collections.abc import Callable
from typing import NamedTuple

from wgpy.tun import interface_name

# <linux/netlink.h>, <linux/rtnetlink.h>, <linux/if_link.h>, <linux/net_namespace.h>,
# <linux/if_tun.h>
NLMSG_ERROR = 2
NLM_F_REQUEST = 1
NLM_F_ACK = 4
SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
NETLINK_LISTEN_ALL_NSID = 8
RTNLGRP_LINK = 1
RTM_NEWLINK = 16
RTM_GETLINK = 18
RTM_NEWNSID = 88
RTM_GETNSID = 90
IFLA_IFNAME = 3
IFLA_MTU = 4
IFLA_GSO_MAX_SIZE = 41
IFLA_TARGET_NETNSID = 46
NETNSA_NSID = 1
NETNSA_FD = 3
TUNGETDEVNETNS = 0x54E3
IFF_UP = 1

MESSAGE_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
LINK_HEADER = struct.Struct("=BxHiII")  # family, hardware type, index, flags, change mask
NSID_HEADER = bytes(4)  # struct rtgenmsg, padded
ATTRIBUTE_HEADER = struct.Struct("=HH")  # length, type
REPLY_MAX = 65536


class LinkState(NamedTuple):
    """Administrative state and MTU (bytes) of an interface."""

    up: bool
    mtu: int


class LinkDeletedError(Exception):
    """The interface is gone and its TUN descriptor dead."""


class Link:
    """The interface behind a TUN descriptor; the descriptor stays the caller's."""

    def __init__(self, tun_fd: int) -> None:
        """Begins to listen.  Raises OSError."""
        self._tun_fd = tun_fd
        self._home = os.stat("/proc/thread-self/ns/net").st_ino
        with contextlib.ExitStack() as stack:
            self._requests = stack.enter_context(_open_netlink())
            self._hints = stack.enter_context(_open_netlink(RTNLGRP_LINK))
            self._wakes = stack.enter_context(select.epoll())
            self._wakes.register(self._hints, select.EPOLLIN)
            self._stack = stack.pop_all()
        self._deletion_wakes = False
        self._state: LinkState | None = None

    def close(self) -> None:
        """Closes the netlink sockets."""
        self._stack.close()

    @property
    def name(self) -> str:
        """The present name.  Raises LinkDeletedError."""
        try:
            return interface_name(self._tun_fd)
        except OSError as error:
            raise LinkDeletedError from error

    def set_mtu(self, mtu: int) -> None:
        """Sets the MTU (bytes).  Raises OSError."""
        self._change(IFLA_MTU, mtu)

    def set_gso_max_size(self, size: int) -> None:
        """Bounds the super-packets (bytes) that the stack hands over.  Raises OSError."""
        self._change(IFLA_GSO_MAX_SIZE, size)

    def read(self) -> LinkState:
        """The present state.  Raises LinkDeletedError, or OSError when the kernel does not tell."""
        reply = self._request(RTM_GETLINK, self._address())
        flags = LINK_HEADER.unpack_from(reply)[3]
        (mtu,) = struct.unpack("=I", _attributes(reply[LINK_HEADER.size :])[IFLA_MTU])
        return LinkState(bool(flags & IFF_UP), mtu)

    def watch(
        self,
        loop: asyncio.AbstractEventLoop,
        on_up: Callable[[], None],
        on_down: Callable[[], None],
        on_mtu: Callable[[int], None],
        on_deleted: Callable[[], None],
    ) -> None:
        """Reports the state now (on_mtu, then on_up if it is up), and every change until unwatch.

        on_deleted is the last report.
        """

        def look() -> None:
            self._take_hints()
            before = self._state or LinkState(False, 0)
            try:
                state = self.read()
            except LinkDeletedError:
                self.unwatch(loop)
                on_deleted()
                return
            except OSError:
                return  # moved or renamed under our hands: the hint for that is on its way
            self._state = state
            self._let_deletion_wake(not state.up)
            if state.mtu != before.mtu:
                on_mtu(state.mtu)
            if state.up != before.up:
                (on_up if state.up else on_down)()

        loop.add_reader(self._wakes, look)
        look()

    def unwatch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ends the reports."""
        loop.remove_reader(self._wakes)
        self._state = None

    def _take_hints(self) -> None:
        self._wakes.poll(0)  # an edge stays reported until it is taken
        while True:
            try:
                self._hints.recv(REPLY_MAX, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # hints were lost; we look anyway
                    raise

    def _let_deletion_wake(self, wanted: bool) -> None:
        """Watches the TUN itself, because a dying namespace deletes its interfaces without a hint.

        An edge-triggered poll also wakes for every packet, so it is set only while the interface is
        down; while it is up the data threads notice.
        """
        if wanted and not self._deletion_wakes:
            self._wakes.register(self._tun_fd, select.EPOLLIN | select.EPOLLET)
        elif self._deletion_wakes and not wanted:
            self._wakes.unregister(self._tun_fd)
        self._deletion_wakes = wanted

    def _change(self, attribute: int, value: int) -> None:
        body = self._address() + _attribute(attribute, struct.pack("=I", value))
        self._request(RTM_NEWLINK, body, NLM_F_ACK)

    def _address(self) -> bytes:
        """The header and attributes that name our interface in a request."""
        name = _attribute(IFLA_IFNAME, self.name.encode() + b"\0")
        return LINK_HEADER.pack(0, 0, 0, 0, 0) + name + self._namespace()

    def _namespace(self) -> bytes:
        """The attribute that names the interface's namespace in a request; empty for our own."""
        try:
            namespace = fcntl.ioctl(self._tun_fd, TUNGETDEVNETNS)
        except OSError:
            return b""  # before Linux 5.8, or just deleted
        try:
            if os.fstat(namespace).st_ino == self._home:
                return b""
            target = _attribute(NETNSA_FD, struct.pack("=I", namespace))
            any_id = _attribute(NETNSA_NSID, struct.pack("=i", -1))
            with contextlib.suppress(FileExistsError):
                self._request(RTM_NEWNSID, NSID_HEADER + target + any_id, NLM_F_ACK)
            reply = self._request(RTM_GETNSID, NSID_HEADER + target)
        finally:
            os.close(namespace)
        return _attribute(IFLA_TARGET_NETNSID, _attributes(reply[len(NSID_HEADER) :])[NETNSA_NSID])

    def _request(self, kind: int, body: bytes, flags: int = 0) -> bytes:
        """The body of the kernel's one reply, which is there as soon as send returns."""
        length = MESSAGE_HEADER.size + len(body)
        self._requests.send(MESSAGE_HEADER.pack(length, kind, NLM_F_REQUEST | flags, 0, 0) + body)
        reply = self._requests.recv(REPLY_MAX, socket.MSG_DONTWAIT)
        length, kind, *_ = MESSAGE_HEADER.unpack_from(reply)
        body = reply[MESSAGE_HEADER.size : length]
        if kind == NLMSG_ERROR:
            (code,) = struct.unpack_from("=i", body)
            if code:
                raise OSError(-code, os.strerror(-code))
        return body


def _open_netlink(group: int | None = None) -> socket.socket:
    """A route netlink socket; with a group, for hints from all namespaces with an id here."""
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    try:
        netlink.bind((0, 0))
        if group is not None:
            netlink.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
            netlink.setsockopt(SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, 1)
    except OSError:
        netlink.close()
        raise
    return netlink


def _attribute(kind: int, value: bytes) -> bytes:
    length = ATTRIBUTE_HEADER.size + len(value)
    return ATTRIBUTE_HEADER.pack(length, kind) + value + bytes(-length % 4)


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= ATTRIBUTE_HEADER.size:
        length, kind = ATTRIBUTE_HEADER.unpack_from(data)
        found[kind] = data[ATTRIBUTE_HEADER.size : length]
        data = data[max(ATTRIBUTE_HEADER.size, length + -length % 4) :]
    return found
