# SPDX-License-Identifier: MIT
"""What happens to our interface - up, down, MTU, deletion - wherever it was moved or renamed.

Rule: a netlink notification is only a hint, which leads to a fresh read of the whole state.  Hints
also come of other interfaces, as of each container that starts: if there are many, a read is for
all of an interval.

The TUN may move to another namespace while we stay in the one it was made in.  A socket opened over
there would keep that namespace alive for ever, so ours stays at home and listens to all namespaces
that have an id at home (NETLINK_LISTEN_ALL_NSID; the kernel gives one to the namespace that an
interface moves to), and the state is read through that id.  The TUN descriptor always knows the
present name and namespace, so no name or index is kept that could go stale.  See netlink(7),
rtnetlink(7).

To listen over there takes CAP_NET_BROADCAST, which containers do not have.  Without it the state is
looked at every LOOK_INTERVAL_S while the interface is somewhere else; that it leaves is heard here.

An interface may also be born somewhere else, in a namespace of ours where somebody opened netlink
sockets for us.  Those are at home there, and so is all that is said here of home; but there is no
UDP socket of ours there, so routes that go by it are none of ours.
"""

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from typing import Final, NoReturn

from wgpy.errors import LinkDeletedError
from wgpy.linux.hints import RTNLGRP_LINK, Hints, Pace, readable
from wgpy.linux.netlink import LinkState, Netlink
from wgpy.linux.tun import interface_name
from wgpy.linux.txqueue import TxQueue

TUNGETDEVNETNS = 0x54E3  # <linux/if_tun.h>
SIOCGSKNS = 0x894C  # <linux/sockios.h>: the namespace of a socket; /proc need not be there
LOOK_INTERVAL_S = 1.0  # as often as wireguard-go looks
READ_INTERVAL_S: Final = 0.1  # between reads, while hints do not end; what else is there waits so
READ_BURST: Final = 8  # reads at once after a time of calm: what one command causes, or wg-quick

_log = logging.getLogger(__name__)


class Link:
    """The interface behind a TUN descriptor; the descriptor stays the caller's."""

    queue: TxQueue
    netlink: Netlink  # of the interface's home

    def __init__(
        self, tun_fd: int, netlinks: tuple[socket.socket, socket.socket] | None = None
    ) -> None:
        """Begin to listen.  Raises OSError.

        `netlinks` are open sockets of the interface's home if we do not live there, one for
        notifications and one for requests; they are taken over.
        """
        self._tun_fd = tun_fd
        listening, requests = netlinks or (None, None)
        with contextlib.ExitStack() as stack:
            self._is_foreign = requests is not None
            self.netlink = stack.enter_context(contextlib.closing(Netlink(requests)))
            hints = Hints(RTNLGRP_LINK, all_namespaces=True, netlink=listening)
            self._hints = stack.enter_context(contextlib.closing(hints))
            self._home = _namespace_of(hints)
            self._wakes = stack.enter_context(select.epoll())
            self._wakes.register(hints, select.EPOLLIN)
            self._stack = stack.pop_all()
        self._deletion_wakes = False
        self.queue = TxQueue(self._state, lambda length: self.set(queue_len=length))

    def close(self) -> None:
        """Listen no more."""
        self._stack.close()

    @property
    def name(self) -> str:
        """The present name.  Raises LinkDeletedError."""
        try:
            return interface_name(self._tun_fd)
        except OSError as error:
            raise LinkDeletedError from error

    @property
    def index(self) -> int:
        """Its index where we live, 0 if it is somewhere else or gone."""
        if self._is_foreign:
            return 0
        try:
            with self._namespace() as elsewhere:
                return 0 if elsewhere is not None else socket.if_nametoindex(self.name)
        except (OSError, LinkDeletedError):
            return 0

    def set(self, *, mtu: int | None = None, queue_len: int | None = None) -> None:
        """Set MTU (bytes) or length of its queue (frames), while it is at home.

        Raises OSError, LinkDeletedError.
        """
        if self._namespace_id() is not None:
            raise OSError(errno.ENODEV, "it is in another namespace")  # where netlink only looks
        self.netlink.set_link(self.name, mtu=mtu, queue_len=queue_len)

    def has_packet_information(self) -> bool:
        """Tell whether each frame of the TUN has a header before it (tun_pi of if_tun.h).

        Linux before 4.17 does not know.  Raises OSError, LinkDeletedError.
        """
        return self._state().has_packet_information

    async def watch(
        self,
        on_up: Callable[[], None],
        on_down: Callable[[], None],
        on_mtu: Callable[[int], None],
    ) -> NoReturn:
        """Report the state now (on_mtu, then on_up if it is up), and then every change.

        Ends with LinkDeletedError.
        """
        if not self._hints.everywhere:
            text = "not permitted to listen in all namespaces: in others it looks every %g s"
            _log.info(text, LOOK_INTERVAL_S)
        up, mtu = False, 0
        pace = Pace(READ_INTERVAL_S, READ_BURST)
        while True:
            is_here = False
            try:
                namespace_id = self._namespace_id()
                state = self.netlink.link(self.name, namespace_id)
            except OSError:
                pass  # moved or renamed under our hands: the hint for that is on its way
            else:
                is_here = namespace_id is None
                self._let_deletion_wake(not state.up)
                if state.mtu != mtu:
                    on_mtu(state.mtu)
                if state.up != up:
                    (on_up if state.up else on_down)()
                up, mtu = state.up, state.mtu
            has_hints = is_here or self._hints.everywhere
            await readable(self._wakes.fileno(), None if has_hints else LOOK_INTERVAL_S)
            await asyncio.sleep(pace.wait_s(time.monotonic()))
            self._wakes.poll(0)  # an edge stays reported until it is taken
            self._hints.take()

    def _state(self) -> LinkState:
        return self.netlink.link(self.name, self._namespace_id())

    def _let_deletion_wake(self, wanted: bool) -> None:
        """Watch the TUN itself, because a dying namespace deletes its interfaces without a hint.

        An edge-triggered poll also wakes for every packet, so it is set only while the interface is
        down; while it is up the data threads notice.
        """
        if wanted and not self._deletion_wakes:
            self._wakes.register(self._tun_fd, select.EPOLLIN | select.EPOLLET)
        elif self._deletion_wakes and not wanted:
            self._wakes.unregister(self._tun_fd)
        self._deletion_wakes = wanted

    def _namespace_id(self) -> int | None:
        """Return the id at home of the namespace that the interface is in, None if that is ours."""
        with self._namespace() as elsewhere:
            return None if elsewhere is None else self.netlink.namespace_id(elsewhere)

    @contextlib.contextmanager
    def _namespace(self) -> Iterator[int | None]:
        """Open a descriptor of the namespace that the interface is in, None if it is ours."""
        if self._home is None:
            yield None
            return
        try:
            namespace = fcntl.ioctl(self._tun_fd, TUNGETDEVNETNS)
        except OSError:
            yield None  # before Linux 5.8, just deleted, or not permitted
            return
        try:
            yield None if os.fstat(namespace).st_ino == self._home else namespace
        finally:
            os.close(namespace)


def _namespace_of(netlink: Hints) -> int | None:
    """Tell the namespace of a socket from others; None where one may not know."""
    try:
        namespace = fcntl.ioctl(netlink.fileno(), SIOCGSKNS)
    except OSError:
        return None
    try:
        return os.fstat(namespace).st_ino
    finally:
        os.close(namespace)
