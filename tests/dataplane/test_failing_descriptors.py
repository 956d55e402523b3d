# SPDX-License-Identifier: MIT
"""Descriptors that fail: only one that is gone ends a data thread, and none takes a core."""

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import repeat

import pytest

from .ends import WAIT_S
from .faults import FaultyKernel
from .test_fallbacks import Wire, flow

pytestmark = pytest.mark.threads

IN_A_ROW = 128  # failures until a pause; events.h
PAUSE_MS = 10
UNREADABLE = [
    *(errno.EIO, errno.EINVAL, errno.ENOMEM, errno.EFAULT, errno.EMSGSIZE),
    *(errno.ENOSPC, errno.ENOBUFS, errno.ENETDOWN),
]


@pytest.fixture(params=[1, 3], ids=["one lane", "three lanes"])
def wire(request: pytest.FixtureRequest, kernel: FaultyKernel) -> Iterator[Wire]:
    with ExitStack() as stack:
        yield Wire(stack, lanes=request.param)


class Tun:
    """Answers reads of the TUN, and no others."""

    def __init__(self, kernel: FaultyKernel, wire: Wire, answers: Iterator[int]) -> None:
        self.reads = 0
        self._fd = wire.lent_tun.fileno()
        self._answers = answers
        kernel.on_read = self._answer

    def _answer(self, fd: int) -> int:
        if fd != self._fd:
            return 0
        self.reads += 1
        return next(self._answers, 0)


class Pauses:
    """Notes what was done between the pauses of a thread: polls of one eventfd that end soon."""

    def __init__(self, kernel: FaultyKernel, descriptors: int, done: Callable[[], int]) -> None:
        self.between: list[int] = []
        self.enough = threading.Event()
        self._descriptors = descriptors
        self._done = done
        self._before = 0
        kernel.on_poll = self._answer

    def _answer(self, count: int, timeout_ms: int) -> int:
        if (count, timeout_ms) == (self._descriptors, PAUSE_MS):
            done = self._done()
            self.between.append(done - self._before)
            self._before = done
            if len(self.between) == 5:
                self.enough.set()
        return 0


@pytest.mark.parametrize("error", UNREADABLE, ids=errno.errorcode.get)
def test_a_frame_that_cannot_be_read_costs_no_other(
    kernel: FaultyKernel, wire: Wire, error: int
) -> None:
    Tun(kernel, wire, iter([-error, 0, -error, -error, 0]))
    first, second = wire.send(0, 1), wire.send(0, 1)
    wire.start()
    wire.assert_all_came(0, first + second)
    assert wire.plane.failure is None
    assert wire.count("tx_tun_errors") == 3


def test_many_frames_in_a_row_that_cannot_be_read_cost_no_other(
    kernel: FaultyKernel, wire: Wire
) -> None:
    failures = 3 * IN_A_ROW + 1
    Tun(kernel, wire, repeat(-errno.EINVAL, failures))
    packets = wire.send(0, 10)
    wire.start()
    wire.assert_all_came(0, packets)
    assert wire.count("tx_tun_errors") == failures


def test_a_tun_that_does_nothing_but_fail_takes_no_core_and_control_is_heard(
    kernel: FaultyKernel, wire: Wire
) -> None:
    tun = Tun(kernel, wire, repeat(-errno.EIO))
    pauses = Pauses(kernel, descriptors=2, done=lambda: tun.reads)
    wire.start()
    assert pauses.enough.wait(WAIT_S)
    wire.plane.kick(0, keepalive=True)
    assert len(wire.peers[0].recv(65535)) == 32
    assert wire.plane.failure is None
    wire.plane.stop()
    assert max(pauses.between) <= IN_A_ROW


def test_a_socket_that_does_nothing_but_fail_takes_no_core_and_the_other_way_goes_on(
    kernel: FaultyKernel, wire: Wire
) -> None:
    tries: list[None] = []

    def answer() -> int:
        tries.append(None)
        return -errno.ENOMEM

    kernel.on_receive = answer
    pauses = Pauses(kernel, descriptors=1, done=lambda: len(tries))
    wire.receive(flow(1, 1))
    wire.start()
    assert pauses.enough.wait(WAIT_S)
    wire.assert_all_came(0, wire.send(0, 10))
    kernel.on_receive = lambda: 0
    assert len(wire.frames(1)) == 1
    wire.assert_goes_on()
    assert max(pauses.between) <= IN_A_ROW
    assert wire.count("rx_socket_errors") >= 5 * IN_A_ROW


@pytest.mark.parametrize("error", [errno.EBADFD, errno.EBADF], ids=errno.errorcode.get)
def test_a_tun_that_is_gone_ends_the_thread_that_reads_it(
    kernel: FaultyKernel, wire: Wire, error: int
) -> None:
    Tun(kernel, wire, repeat(-error))
    wire.start()
    assert wire.failure() == error
    assert wire.count("tx_tun_errors") == 0


@pytest.mark.parametrize(
    "error", [errno.ENOMEM, errno.EINTR, errno.EFAULT], ids=errno.errorcode.get
)
def test_when_waiting_fails_traffic_goes_on_both_ways(
    kernel: FaultyKernel, wire: Wire, error: int
) -> None:
    kernel.on_poll = lambda count, timeout_ms: -error
    wire.start()
    wire.assert_all_came(0, wire.send(0, 10))
    wire.assert_goes_on()
    wire.plane.kick(1, keepalive=True)
    assert len(wire.peers[1].recv(65535)) == 32
    assert wire.plane.failure is None
