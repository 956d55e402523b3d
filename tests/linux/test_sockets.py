# SPDX-License-Identifier: MIT
"""The pair of UDP sockets, on loopback."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest

from wgpy.linux.sockets import (
    IP_PKTINFO,
    SO_RCVBUFFORCE,
    SO_SNDBUFFORCE,
    SO_TIMESTAMPNS_NEW,
    open_sockets,
)
from wgpy.ports import Feature


def option(fd: int, level: int, name: int) -> int:
    with socket.socket(fileno=os.dup(fd)) as udp:
        return udp.getsockopt(level, name)


def port_of(fd: int) -> int:
    with socket.socket(fileno=os.dup(fd)) as udp:
        port: int = udp.getsockname()[1]
        return port


class OnlyIPv4(socket.socket):
    """What a host without IPv6 gives."""

    missing = socket.AF_INET6

    def __init__(
        self, family: int = -1, kind: int = -1, proto: int = -1, fileno: int | None = None
    ) -> None:
        if family == self.missing:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        super().__init__(family, kind, proto, fileno)


class OnlyIPv6(OnlyIPv4):
    missing = socket.AF_INET


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that IPv6 cannot have."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as holder:
        holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        holder.bind(("::", 0))
        yield holder.getsockname()[1]


def count_datagrams(fd: int) -> int:
    """How many wait there; they are taken."""
    count = 0
    with socket.socket(fileno=os.dup(fd)) as udp, suppress(BlockingIOError):
        while udp.recv(64, socket.MSG_DONTWAIT):
            count += 1
    return count


def test_both_families_get_the_same_random_port() -> None:
    with closing(open_sockets(0, 0)) as pair:
        assert pair.port != 0
        assert port_of(pair.fds[0][0]) == port_of(pair.fds[0][1]) == pair.port


def test_a_wanted_port_is_given_again_after_close() -> None:
    pair = open_sockets(0, 0)
    port = pair.port
    pair.close()
    with closing(open_sockets(port, 0)) as again:
        assert again.port == port


def test_a_port_in_use_by_either_family_is_refused_and_nothing_stays_bound(taken: int) -> None:
    for _ in range(2):
        with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)) as caught:
            open_sockets(taken, 0)
        assert caught.value.errno == errno.EADDRINUSE
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("", taken))


def test_several_workers_share_the_port_that_nobody_else_gets() -> None:
    with closing(open_sockets(0, 0, workers=3)) as sockets:
        fds = [fd for pair in sockets.fds for fd in pair]
        assert len(set(fds)) == 6
        assert {port_of(fd) for fd in fds} == {sockets.port}
        for workers in (1, 3):
            with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
                open_sockets(sockets.port, 0, workers=workers)
    open_sockets(sockets.port, 0).close()


def test_what_comes_from_one_address_goes_to_one_worker() -> None:
    with ExitStack() as stack:
        sockets = stack.enter_context(closing(open_sockets(0, 0, workers=3)))
        served = []
        for _ in range(24):
            udp = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            udp.connect(("127.0.0.1", sockets.port))
            for _ in range(4):
                udp.send(b"datagram")
            came = [count_datagrams(fd) for fd, _ in sockets.fds]
            assert sorted(came) == [0, 0, 4]
            served.append(came.index(4))
        assert set(served) == {0, 1, 2}


def test_a_random_port_avoids_those_that_one_family_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = iter([True, True])

    class Crowded(socket.socket):
        def bind(self, address: Any) -> None:
            if self.family == socket.AF_INET6 and next(refusals, False):
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
            super().bind(address)

    monkeypatch.setattr("wgpy.linux.sockets.socket.socket", Crowded)
    with closing(open_sockets(0, 0)) as pair:
        assert port_of(pair.fds[0][0]) == port_of(pair.fds[0][1])
    assert next(refusals, None) is None


def test_a_missing_family_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wgpy.linux.sockets.socket.socket", OnlyIPv4)
    with closing(open_sockets(0, 0)) as pair:
        assert pair.fds[0][1] == -1
        assert pair.fds[0][0] >= 0
        assert pair.port != 0
    monkeypatch.setattr("wgpy.linux.sockets.socket.socket", OnlyIPv6)
    with closing(open_sockets(0, 0)) as pair:
        assert pair.fds[0][0] == -1
        assert pair.fds[0][1] >= 0
        assert pair.port != 0


def test_the_data_threads_learn_local_address_and_tos() -> None:
    with closing(open_sockets(0, 0)) as pair:
        assert option(pair.fds[0][0], socket.IPPROTO_IP, IP_PKTINFO) == 1
        assert option(pair.fds[0][0], socket.IPPROTO_IP, socket.IP_RECVTOS) == 1
        assert option(pair.fds[0][1], socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO) == 1
        assert option(pair.fds[0][1], socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS) == 1
        assert option(pair.fds[0][1], socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1


def test_the_data_threads_learn_when_a_datagram_came() -> None:
    with closing(open_sockets(0, 0)) as pair:
        for fd in pair.fds[0]:
            assert option(fd, socket.SOL_SOCKET, SO_TIMESTAMPNS_NEW) == 1


class Old(socket.socket):
    """What Linux gave before 5.1."""

    def setsockopt(self, *arguments: Any) -> None:
        if arguments[:2] == (socket.SOL_SOCKET, SO_TIMESTAMPNS_NEW):
            raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))
        super().setsockopt(*arguments)


def test_a_kernel_that_does_not_tell_when_is_none_the_worse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("wgpy.linux.sockets.socket.socket", Old)
    with closing(open_sockets(0, 0)) as pair:
        assert pair.port != 0


class Humble(socket.socket):
    """A socket of somebody who may not have more than is everybody's right."""

    def setsockopt(self, *arguments: Any) -> None:
        if arguments[1] in (SO_SNDBUFFORCE, SO_RCVBUFFORCE):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        super().setsockopt(*arguments)


@pytest.mark.skipif(os.geteuid() != 0, reason="large buffers need root")
def test_the_send_buffer_is_as_large_as_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(open_sockets(0, 0)) as pair:
        assert {option(fd, socket.SOL_SOCKET, socket.SO_SNDBUF) for fd in pair.fds[0]} == {64 << 20}
    allowed = int(Path("/proc/sys/net/core/wmem_max").read_text())
    monkeypatch.setattr("wgpy.linux.sockets.socket.socket", Humble)
    with closing(open_sockets(0, 0)) as pair:
        for fd in pair.fds[0]:
            assert option(fd, socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * min(allowed, 7 << 20)


def test_offloads_can_be_switched_off() -> None:
    with closing(open_sockets(0, 0)) as pair:
        offered = pair.features
    with closing(open_sockets(0, 0, gso=False)) as pair:
        assert pair.features == offered & ~Feature.UDP_GSO
    with closing(open_sockets(0, 0, gro=False)) as pair:
        assert pair.features == offered & ~Feature.UDP_GRO


def test_coalesced_receives_are_not_trusted_before_linux_5_12(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = os.uname_result(("Linux", "host", "5.11.22-amd64", "", "x86_64"))
    monkeypatch.setattr(os, "uname", lambda: old)
    with closing(open_sockets(0, 0)) as pair:
        assert not pair.features & Feature.UDP_GRO


@pytest.mark.skipif(os.geteuid() != 0, reason="marks need root")
def test_the_mark_is_set_from_the_start_and_later() -> None:
    with closing(open_sockets(0, 0xCA6C)) as pair:
        for fd in (pair.fds[0][0], pair.fds[0][1]):
            assert option(fd, socket.SOL_SOCKET, socket.SO_MARK) == 0xCA6C
        pair.set_fwmark(0)
        for fd in (pair.fds[0][0], pair.fds[0][1]):
            assert option(fd, socket.SOL_SOCKET, socket.SO_MARK) == 0
