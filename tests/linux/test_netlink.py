# SPDX-License-Identifier: MIT
"""Requests of route netlink: what the kernel answers, and what else may come over the socket."""

import errno
import socket
import struct
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from wgpy.config import Endpoint
from wgpy.linux.netlink import KERNEL, MESSAGE, NLMSG_ERROR, LinkState, Netlink, Refused

LOOPBACK = "lo"
MISSING = "no-such-link"
LINK_HEADER = struct.pack("=BxHiII", 0, 0, 7, 1, 0)  # index 7, up


@pytest.fixture
def kernel() -> Iterator[Netlink]:
    with closing(Netlink()) as netlink:
        yield netlink


class FakeSocket(socket.socket):
    """Answers each request with what it was given: a body, or the whole of a message."""

    def __init__(self, *answers: tuple[bytes | int, Any]) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._answers = list(answers)
        self._asked = b""

    def sendto(self, data: Any, *_: Any) -> int:
        self._asked = bytes(data)
        return len(data)

    def recvfrom(self, *_: Any) -> tuple[bytes, Any]:
        body, sender = self._answers.pop(0)
        _, kind, _, sequence, _ = MESSAGE.unpack_from(self._asked)
        if isinstance(body, int):  # one of another request
            return MESSAGE.pack(
                MESSAGE.size + 4, NLMSG_ERROR, 0, sequence + body, 0
            ) + b"\xff" * 4, sender
        return MESSAGE.pack(MESSAGE.size + len(body), kind, 0, sequence, 0) + body, sender


def state(*answers: tuple[bytes | int, Any]) -> LinkState:
    with closing(Netlink(FakeSocket(*answers))) as netlink:
        return netlink.link(LOOPBACK)


def test_an_interface_is_told_as_the_host_has_it(kernel: Netlink) -> None:
    link = kernel.link(LOOPBACK)
    with open(f"/sys/class/net/{LOOPBACK}/mtu") as file:
        assert link.mtu == int(file.read())
    assert link.index == socket.if_nametoindex(LOOPBACK)
    assert not link.has_packet_information


def test_an_interface_that_is_not_there_is_refused(kernel: Netlink) -> None:
    with pytest.raises(Refused) as caught:
        kernel.link(MISSING)
    assert caught.value.errno == errno.ENODEV


def test_a_refusal_leaves_the_next_answer_its_own(kernel: Netlink) -> None:
    with pytest.raises(Refused):
        kernel.link(MISSING)
    assert kernel.link(LOOPBACK).index == socket.if_nametoindex(LOOPBACK)


def test_what_is_sent_from_an_address_of_nobody_has_no_way_out(kernel: Netlink) -> None:
    there = Endpoint(socket.inet_aton("127.0.0.1"), 9)
    assert kernel.way_out(there, 51820, 0) == socket.if_nametoindex(LOOPBACK)
    with pytest.raises(Refused):
        kernel.way_out(there, 51820, 0, socket.inet_aton("192.0.2.77"))


def test_answers_to_others_and_of_others_are_passed_over() -> None:
    link = state((-1, KERNEL), (LINK_HEADER, (4711, 0)), (LINK_HEADER, KERNEL))
    assert (link.index, link.up, link.mtu) == (7, True, 0)


def test_a_refusal_carries_its_errno() -> None:
    with pytest.raises(Refused) as caught:
        state((0, KERNEL))
    assert caught.value.errno == 1


@pytest.mark.parametrize(
    "cut_off",
    [b"\x08\x00\x04", b"\x00\x00\x04\x00", b"\x03\x00\x04\x00", b"\xff\x00\x04\x00" + bytes(8)],
)
def test_attributes_that_do_not_fit_are_left_out(cut_off: bytes) -> None:
    queue_len = struct.pack("=HHI", 8, 13, 500)
    assert state((LINK_HEADER + queue_len + cut_off, KERNEL)).queue_len == 500
