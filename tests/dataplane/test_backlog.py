# SPDX-License-Identifier: MIT
"""backlog.c: a receive buffer as deep as what is handled in a short time."""

import errno
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

import pytest
from core import advance_clock
from core_numbers import INITIATION_LEN
from hypothesis import given
from hypothesis import strategies as st

from wgpy.dataplane._core import ffi, lib
from wgpy.linux.sockets import SO_TIMESTAMPNS_NEW

from .ends import WAIT_S
from .faults import FaultyKernel
from .test_fallbacks import Wire, flow

MS = 1_000_000
DEEP = 7 << 20
LEAST = 128 << 10
TARGET_NS = 5 * MS
INTERVAL_NS = 100 * MS
START_NS = 1_000_000 * MS
NEVER: Final[int] = lib.WG_NEVER
YEAR_NS = 365 * 86400 * 1000 * MS


class Backlog:
    """One that has taken something young, by a clock that goes on with what is done."""

    def __init__(self, bytes_: int = DEEP) -> None:
        self._c = ffi.gc(lib.door_backlog_new(bytes_), lib.door_backlog_free)
        self.now_ns = START_NS
        self.take(0)

    @property
    def bytes(self) -> int:
        return int(lib.door_backlog_bytes(self._c))

    def take(self, youngest_ns: int, *, oldest_ns: int | None = None, after_ns: int = 0) -> int:
        self.now_ns += after_ns
        oldest_ns = youngest_ns if oldest_ns is None else oldest_ns
        return int(lib.wg_backlog_take(self._c, oldest_ns, youngest_ns, self.now_ns))

    def takes(self, age_ns: int, for_ns: int, every_ns: int = MS) -> list[int]:
        return [self.take(age_ns, after_ns=every_ns) for _ in range(for_ns // every_ns)]

    def emptied(self) -> None:
        lib.wg_backlog_emptied(self._c)

    def stand(self, age_ns: int = 50 * MS) -> None:
        """Until it is cut."""
        before = self.bytes
        self.takes(age_ns, INTERVAL_NS + MS)
        assert self.bytes < before


@pytest.fixture
def backlog() -> Backlog:
    return Backlog()


def test_a_queue_that_stands_is_cut_to_what_is_handled_within_the_target(backlog: Backlog) -> None:
    limits = backlog.takes(50 * MS, INTERVAL_NS)
    assert (set(limits), backlog.bytes) == ({NEVER}, DEEP)
    assert backlog.take(50 * MS, after_ns=MS) == INTERVAL_NS
    assert backlog.bytes == DEEP * 5 // 50


def test_what_waits_as_it_is_cut_is_dropped_if_it_waits_long_and_nothing_that_comes_later(
    backlog: Backlog,
) -> None:
    backlog.stand()
    assert backlog.take(50 * MS, after_ns=MS) == INTERVAL_NS
    assert backlog.take(45 * MS, after_ns=40 * MS) == INTERVAL_NS
    assert backlog.take(15 * MS, after_ns=MS) == NEVER
    assert backlog.take(50 * MS, after_ns=MS) == NEVER


def test_something_young_ends_the_dropping(backlog: Backlog) -> None:
    backlog.stand()
    assert backlog.take(TARGET_NS - 1, oldest_ns=50 * MS) == NEVER
    assert backlog.take(50 * MS) == NEVER


def test_an_empty_socket_ends_the_dropping(backlog: Backlog) -> None:
    backlog.stand()
    backlog.emptied()
    assert backlog.take(50 * MS) == NEVER


def test_what_came_before_the_cut_does_not_cut_it_again(backlog: Backlog) -> None:
    backlog.stand()
    before = backlog.bytes
    for age_ns in range(50 * MS, 1000 * MS, 10 * MS):
        backlog.take(age_ns, after_ns=9 * MS)
    assert backlog.bytes == before


@pytest.mark.parametrize("age_ns", [TARGET_NS, 50 * MS, 1000 * MS])
def test_a_burst_shorter_than_the_interval_loses_nothing(backlog: Backlog, age_ns: int) -> None:
    for _ in range(20):
        assert set(backlog.takes(age_ns, INTERVAL_NS)) == {NEVER}
        backlog.take(0)
    assert backlog.bytes == DEEP


def test_a_queue_that_is_emptied_does_not_stand(backlog: Backlog) -> None:
    """A daemon held to a part of a core takes what waited while it was held."""
    for _ in range(100):
        backlog.emptied()
        assert set(backlog.takes(20 * MS, 10 * MS)) == {NEVER}
        backlog.now_ns += 20 * MS
    assert backlog.bytes == DEEP


def test_a_queue_below_the_target_does_not_stand(backlog: Backlog) -> None:
    assert set(backlog.takes(TARGET_NS - 1, 20 * INTERVAL_NS)) == {NEVER}
    assert backlog.bytes == DEEP


@pytest.mark.parametrize("age_ns", [190 * 1000 * MS, YEAR_NS])
def test_what_waited_while_nobody_ran_is_taken_if_that_goes_fast(
    backlog: Backlog, age_ns: int
) -> None:
    backlog.now_ns += age_ns
    assert set(backlog.takes(age_ns, INTERVAL_NS)) == {NEVER}
    backlog.emptied()
    assert backlog.bytes == DEEP


@pytest.mark.parametrize("age_ns", [190 * 1000 * MS, YEAR_NS])
def test_what_waited_while_nobody_ran_is_dropped_if_that_goes_slowly(
    backlog: Backlog, age_ns: int
) -> None:
    backlog.now_ns += age_ns
    backlog.stand(age_ns)
    assert backlog.bytes == DEEP * 5 // 100  # the age tells no speed
    assert backlog.take(age_ns) == INTERVAL_NS
    backlog.emptied()
    assert backlog.take(0) == NEVER


def test_a_clock_set_forward_does_no_harm(backlog: Backlog) -> None:
    """What waits at that moment looks old, for as long as it takes to be taken."""
    backlog.takes(0, INTERVAL_NS)
    assert set(backlog.takes(YEAR_NS, 50 * MS)) == {NEVER}
    assert set(backlog.takes(MS, INTERVAL_NS)) == {NEVER}
    assert backlog.bytes == DEEP


def test_a_clock_set_while_a_queue_stands_cuts_it_by_the_time_that_it_stood(
    backlog: Backlog,
) -> None:
    backlog.takes(20 * MS, 90 * MS)
    backlog.takes(YEAR_NS, 11 * MS)
    assert backlog.bytes == DEEP * 5 // 100


def test_without_ages_nothing_is_cut_or_dropped(backlog: Backlog) -> None:
    assert set(backlog.takes(0, 10 * INTERVAL_NS)) == {NEVER}
    assert backlog.bytes == DEEP


def test_it_is_given_back_fast_when_all_is_young(backlog: Backlog) -> None:
    backlog.stand()
    backlog.emptied()
    backlog.takes(0, 5 * INTERVAL_NS)
    assert backlog.bytes == DEEP


def test_it_is_given_back_in_small_steps_while_some_is_old(backlog: Backlog) -> None:
    backlog.stand()
    backlog.emptied()
    before = backlog.bytes
    for _ in range(10):
        backlog.take(0, oldest_ns=TARGET_NS, after_ns=10 * MS)
    assert backlog.bytes == before + before // 8


def test_it_is_given_back_where_all_that_is_taken_waited_but_none_is_left(backlog: Backlog) -> None:
    """As when a cgroup lets the daemon run for a moment every 100 ms."""
    backlog.stand()
    for _ in range(60):
        backlog.emptied()
        backlog.take(90 * MS, after_ns=INTERVAL_NS)
    assert backlog.bytes == DEEP


def test_it_is_given_back_at_once_after_a_rest(backlog: Backlog) -> None:
    backlog.stand()
    backlog.emptied()
    backlog.take(0, after_ns=INTERVAL_NS)
    assert backlog.bytes == DEEP


def test_old_packets_after_a_pause_are_no_rest(backlog: Backlog) -> None:
    backlog.stand()
    backlog.emptied()
    before = backlog.bytes
    backlog.take(200 * MS, after_ns=INTERVAL_NS - MS)
    assert backlog.bytes == before


def test_a_buffer_that_nearly_fits_is_cut_in_steps(backlog: Backlog) -> None:
    backlog.stand()
    backlog.emptied()
    before = backlog.bytes
    backlog.stand()
    assert before * 0.74 < backlog.bytes < before * 0.76


def test_however_slow_there_is_room_for_two_long_trains(backlog: Backlog) -> None:
    for _ in range(20):
        backlog.takes(500 * MS, INTERVAL_NS + MS)
        backlog.emptied()
    assert backlog.bytes == LEAST


def test_a_buffer_that_was_small_from_the_beginning_stays_as_it_is() -> None:
    backlog = Backlog(100_000)
    backlog.takes(50 * MS, 3 * INTERVAL_NS)
    backlog.emptied()
    backlog.takes(0, 3 * INTERVAL_NS)
    assert backlog.bytes == 100_000


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, MS, 4 * MS, 6 * MS, 80 * MS, 300 * MS, YEAR_NS]),
            st.sampled_from([0, MS, 50 * MS, 150 * MS]),
            st.booleans(),
        ),
        max_size=100,
    )
)
def test_whatever_comes_it_stays_within_bounds_and_drops_nothing_young(
    takes: list[tuple[int, int, bool]],
) -> None:
    backlog = Backlog()
    for age_ns, pause_ns, emptied in takes:
        if emptied:
            backlog.emptied()
        limit = backlog.take(age_ns, after_ns=pause_ns)
        assert limit in (INTERVAL_NS, NEVER)
        assert LEAST <= backlog.bytes <= DEEP


@pytest.mark.parametrize("surplus", [2, 10])
def test_a_flood_is_held_near_the_target(surplus: int) -> None:
    """A queue of equal packets, of which so many times as many come as are handled."""
    backlog, per_ms = Backlog(), 20_000  # bytes handled
    waiting: list[int] = []  # when each came, by the kilobyte
    ages = []
    for ms in range(2000):
        for _ in range(per_ms * surplus // 1000):
            if len(waiting) * 1000 < backlog.bytes:
                waiting.append(ms)
        handled = 0
        while waiting and handled < per_ms // 1000:
            age_ns = (ms - waiting.pop(0)) * MS
            backlog.now_ns = START_NS + ms * MS
            if age_ns < backlog.take(age_ns):
                handled += 1
                ages.append(age_ns)
        if not waiting:
            backlog.emptied()
    late = sorted(ages[len(ages) // 2 :])
    assert late[len(late) * 99 // 100] <= 3 * TARGET_NS
    assert len(ages) * 1000 > 0.95 * 2000 * per_ms  # nothing of the speed is lost


# ---- with a socket ----

SLOTS = 8  # messages of one recvmmsg
SMALL_BUFFER = 208 << 10  # what anybody may ask for
PACKETS = 64


class SlowWire(Wire):
    """Each receive takes 60 ms; what waits in the socket before `start` came a second ago."""

    def __init__(self, stack: ExitStack, kernel: FaultyKernel) -> None:
        super().__init__(stack)
        self.lent_udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        self.emptied = threading.Event()
        self._receives_left = (PACKETS + 1) // SLOTS + 1
        kernel.on_receive = self._receive
        kernel.on_wall_clock = lambda: 0 if self.emptied.is_set() else 1000 * MS

    def _receive(self) -> int:
        advance_clock(60 * MS)
        if not self._receives_left:
            self.emptied.set()
        self._receives_left -= 1
        return 0

    @property
    def depth(self) -> int:
        return self.lent_udp.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2

    def send_and_wait(self) -> None:
        """Sends PACKETS and a handshake message among them, and waits until they are taken."""
        packets = flow(1, PACKETS)
        self.receive(packets[: PACKETS // 2])
        initiation = b"\x01\0\0\0".ljust(INITIATION_LEN, b"\0")
        self.peers[0].sendto(initiation, self.lent_udp.getsockname())
        self.receive(packets[PACKETS // 2 :])
        self.start()
        assert self.emptied.wait(WAIT_S)


@pytest.fixture
def wire(kernel: FaultyKernel) -> Iterator[SlowWire]:
    with ExitStack() as stack:
        yield SlowWire(stack, kernel)


@pytest.mark.threads
def test_a_socket_that_stands_is_drained_but_of_handshakes(wire: SlowWire) -> None:
    try:
        wire.lent_udp.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS_NEW, 1)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise
        pytest.skip("the kernel, or who emulates it, does not know SO_TIMESTAMPNS_NEW")
    wire.send_and_wait()
    assert wire.depth == LEAST
    wire.frames(2)  # of the first two receives
    wire.assert_goes_on()
    assert wire.count("rx_overdue") == PACKETS - 2 * SLOTS
    assert wire.count("rx_bad_mac1") == 1
    assert wire.depth == SMALL_BUFFER


@pytest.mark.threads
def test_a_socket_without_times_of_arrival_loses_nothing(wire: SlowWire) -> None:
    wire.send_and_wait()
    assert wire.depth == SMALL_BUFFER
    assert wire.count("rx_packets") == PACKETS
    assert wire.count("rx_overdue") == 0
