# SPDX-License-Identifier: MIT
"""tunqueue.c: a queue of the TUN as long as what is handled in a short time."""

import errno
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from core import advance_clock
from hypothesis import given
from hypothesis import strategies as st

from wgpy.dataplane._core import ffi, lib
from wgpy.linux.tun import QUEUE_LEN

from .faults import FaultyKernel
from .test_fallbacks import Wire

MS = 1_000_000
S = 1000 * MS
START_NS = 1_000_000 * MS
INTERVAL_NS = 100 * MS
REST_NS = S
LEAST = 32
SLOW = 2000  # frames a second: a full queue takes a quarter of one
FAST = 5000  # a full queue takes no more than the interval
BATCH = 20


class Queue:
    """One that was empty just now, by a clock that goes on with what is handled."""

    def __init__(self) -> None:
        self._c = ffi.gc(lib.door_tun_queue_new(), lib.door_tun_queue_free)
        self.now_ns = START_NS
        self.rest(0)

    @property
    def length(self) -> int:
        return int(lib.door_tun_queue_length(self._c))

    def take(self, frames: int, *, emptied: bool, after_ns: int) -> int:
        self.now_ns += after_ns
        lib.wg_tun_queue_take(self._c, frames, emptied, self.now_ns)
        return self.length

    def rest(self, for_ns: int) -> int:
        return self.take(0, emptied=True, after_ns=for_ns)

    def stand(self, per_s: int, for_ns: int) -> set[int]:
        """It is never seen empty; every length that it had meanwhile."""
        batch_ns = BATCH * S // per_s
        lengths = set()
        for _ in range(max(1, for_ns // batch_ns)):
            lengths.add(self.take(BATCH, emptied=False, after_ns=batch_ns))
        return lengths

    def run_at_times(self, frames: int, every_ns: int, for_ns: int) -> set[int]:
        """So many frames are there each time, and no more."""
        return {
            self.take(frames, emptied=True, after_ns=every_ns) for _ in range(for_ns // every_ns)
        }


@pytest.fixture
def queue() -> Queue:
    return Queue()


@pytest.fixture
def short() -> Queue:
    queue = Queue()
    queue.stand(SLOW, INTERVAL_NS + 20 * MS)
    assert queue.length == LEAST
    return queue


@pytest.mark.parametrize(("per_s", "length"), [(100, LEAST), (3300, 33), (4900, 49)])
def test_a_slow_queue_that_stands_is_cut_to_what_is_handled_within_the_target(
    queue: Queue, per_s: int, length: int
) -> None:
    queue.stand(per_s, INTERVAL_NS + 2 * BATCH * S // per_s)
    assert queue.length == length


def test_both_sides_know_the_same_default() -> None:
    assert lib.WG_TUN_QUEUE_LEN == QUEUE_LEN


def test_it_is_not_cut_before_it_stands(queue: Queue) -> None:
    assert queue.stand(SLOW, INTERVAL_NS) == {0}
    assert queue.take(BATCH, emptied=False, after_ns=10 * MS) == LEAST


@pytest.mark.parametrize("per_s", [FAST, 500_000])
def test_a_fast_queue_that_stands_is_left_alone(queue: Queue, per_s: int) -> None:
    assert queue.stand(per_s, 3 * S) == {0}


def test_a_slow_queue_that_is_emptied_is_left_alone(queue: Queue) -> None:
    for _ in range(50):
        assert queue.stand(SLOW, INTERVAL_NS) == {0}
        queue.rest(MS)
    assert queue.length == 0


def test_where_nobody_ran_for_a_while_before_it_does_not_stand(queue: Queue) -> None:
    queue.now_ns += 100 * S
    assert queue.stand(FAST, 3 * INTERVAL_NS) == {0}


def test_it_stays_short_while_the_flood_goes_on(short: Queue) -> None:
    assert short.stand(SLOW, 10 * S) == {LEAST}


def test_it_stays_short_where_a_thread_that_runs_at_times_empties_it(short: Queue) -> None:
    assert short.run_at_times(LEAST, 20 * MS, 10 * S) == {LEAST}


def test_it_is_given_back_when_it_is_no_longer_filled(short: Queue) -> None:
    assert short.run_at_times(LEAST - 1, 20 * MS, REST_NS) == {LEAST}  # it was before
    short.run_at_times(LEAST - 1, 20 * MS, REST_NS)
    assert short.length == 0


def test_it_is_given_back_after_a_rest(short: Queue) -> None:
    short.rest(REST_NS)
    assert short.rest(REST_NS) == 0


def test_it_is_given_back_if_it_is_filled_but_fast(short: Queue) -> None:
    short.stand(FAST, 2 * REST_NS + 20 * MS)
    assert short.length == 0


def test_what_was_given_back_has_to_stand_again(short: Queue) -> None:
    short.rest(REST_NS)
    short.rest(REST_NS)
    assert short.stand(SLOW, INTERVAL_NS) == {0}
    assert short.take(BATCH, emptied=False, after_ns=10 * MS) == LEAST


def test_it_follows_the_speed_but_not_every_change_of_it(short: Queue) -> None:
    short.stand(4900, 2 * REST_NS + 20 * MS)
    assert short.length == LEAST
    queue = Queue()
    queue.stand(4900, INTERVAL_NS + 20 * MS)
    queue.stand(100, 2 * REST_NS)
    assert queue.length == 49  # twice the least is not yet another


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 1, 31, 32, 128]),
            st.booleans(),
            st.sampled_from([0, 1, MS, 50 * MS, 150 * MS, 2 * S, 365 * 86400 * S]),
        ),
        max_size=200,
    )
)
def test_whatever_comes_its_length_stays_within_bounds(
    takes: list[tuple[int, bool, int]],
) -> None:
    queue = Queue()
    changed_ns, before = 0, 0
    for frames, emptied, after_ns in takes:
        length = queue.take(frames, emptied=emptied, after_ns=after_ns)
        assert length == 0 or LEAST <= length < lib.WG_TUN_QUEUE_LEN
        if length != before:
            assert not before or queue.now_ns - changed_ns >= REST_NS
            changed_ns, before = queue.now_ns, length


# ---- with a TUN ----


class SlowWire(Wire):
    """Each read of the TUN takes 10 ms and finds something, as long as it is flooded."""

    def __init__(self, stack: ExitStack, kernel: FaultyKernel) -> None:
        super().__init__(stack)
        self.flooded = True
        self._lent_fd = self.lent_tun.fileno()
        kernel.on_read = self._read
        kernel.on_poll = self._poll

    def _read(self, fd: int) -> int:
        if fd == self._lent_fd and self.flooded:
            advance_clock(10 * MS)
            self.send(0, 1)
        return 0

    def _poll(self, count: int, timeout_ms: int) -> int:
        """A wait that has an end is over at once."""
        if timeout_ms <= 0:
            return 0
        advance_clock(timeout_ms * MS)
        return -errno.EINTR

    def await_queue(self, length: int) -> None:
        while self.plane.tun_queue() != length:
            self._next_events()


@pytest.fixture
def wire(kernel: FaultyKernel) -> Iterator[SlowWire]:
    with ExitStack() as stack:
        yield SlowWire(stack, kernel)


@pytest.mark.threads
def test_control_hears_that_it_stands_and_that_it_does_no_more(wire: SlowWire) -> None:
    wire.start()
    wire.await_queue(LEAST)
    wire.flooded = False
    wire.await_queue(0)


@pytest.mark.threads
def test_without_a_thread_it_is_as_by_default(wire: SlowWire) -> None:
    wire.start()
    wire.await_queue(LEAST)
    wire.plane.stop()
    wire.await_queue(0)
