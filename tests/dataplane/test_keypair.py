# SPDX-License-Identifier: MIT
"""keypair.c: the replay window, the index table and the rotation of keypairs."""

import errno
import select
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack

import pytest
from core_numbers import (
    MESSAGE_TRANSPORT,
    REJECT_AFTER_MESSAGES,
    REJECT_AFTER_TIME_S,
    SESSION_CURRENT,
    SESSION_NEXT,
    SESSION_PREVIOUS,
)
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from wgpy.config import Endpoint
from wgpy.dataplane._core import ffi, lib
from wgpy.dataplane.plane import Plane
from wgpy.dataplane.types import PendingEvent, Session

from .ends import WAIT_S, start

WINDOW = lib.WG_REPLAY_WINDOW
NS = 10**9


def refused(code: int) -> AbstractContextManager[object]:
    return pytest.raises(OSError, match=rf"\[Errno {code}\]")


# ---- replay ----


class Replay:
    def __init__(self) -> None:
        self.replay = ffi.gc(lib.door_replay_new(), lib.door_replay_free)

    def accepts(self, counter: int) -> bool:
        return bool(lib.wg_replay_accept(self.replay, counter))


class ReplayModel:
    """Every counter once, none too far behind the newest, none past the limit (RFC 6479)."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.newest = 0

    def accepts(self, counter: int) -> bool:
        if counter in self.seen or counter >= REJECT_AFTER_MESSAGES:
            return False
        if counter < self.newest - WINDOW:
            return False
        self.seen.add(counter)
        self.newest = max(self.newest, counter)
        return True


near = st.integers(0, 300) | st.integers(0, 3 * WINDOW)
around_the_window = st.integers(WINDOW - 130, WINDOW + 130)
late = st.integers(REJECT_AFTER_MESSAGES - 2 * WINDOW, 2**64 - 1)


@given(st.lists(near | around_the_window, max_size=120), st.lists(late, max_size=40))
def test_the_window_accepts_what_a_set_would(early: list[int], late: list[int]) -> None:
    replay, model = Replay(), ReplayModel()
    for counter in early + late + early:
        assert replay.accepts(counter) == model.accepts(counter)


@given(st.integers(0, 5 * WINDOW), st.lists(around_the_window, max_size=60))
def test_the_far_edge_of_the_window_is_exact(newest: int, behind: list[int]) -> None:
    replay, model = Replay(), ReplayModel()
    for counter in [newest, *(max(newest - by, 0) for by in behind)]:
        assert replay.accepts(counter) == model.accepts(counter)


def test_a_counter_is_accepted_once() -> None:
    replay = Replay()
    assert [replay.accepts(0), replay.accepts(0)] == [True, False]


def test_8128_counters_behind_the_newest_are_usable() -> None:
    replay = Replay()
    assert replay.accepts(20_000)
    assert replay.accepts(20_000 - 8128)
    assert not replay.accepts(20_000 - 8129)


def test_no_counter_from_reject_after_messages_on_is_accepted() -> None:
    replay = Replay()
    assert not replay.accepts(REJECT_AFTER_MESSAGES)
    assert not replay.accepts(2**64 - 1)
    assert replay.accepts(REJECT_AFTER_MESSAGES - 1)


# ---- one peer, its sessions and their traffic ----


class Peer:
    """A peer of a running plane; the test is its other end, on a socket."""

    def __init__(self, stack: ExitStack) -> None:
        self.plane = Plane()
        stack.callback(self.plane.close)
        self.slot = self.plane.add_peer()
        self.tun, self.udp = start(self.plane, stack)
        address = Endpoint(bytes([127, 0, 0, 1]), self.udp.getsockname()[1])
        self.plane.set_endpoint(self.slot, address)

    def install(self, remote_index: int, *, initiator: bool, age_ns: int = 0) -> int:
        """Give it a session whose both keys are the remote index; returns the local index."""
        local_index = self.plane.reserve_index(self.slot)
        key = remote_index.to_bytes(32, "big")
        created_ns = self.plane.now_ns() - age_ns
        session = Session(key, key, local_index, remote_index, created_ns, initiator)
        self.plane.install_keypair(self.slot, session)
        return local_index

    def initiate(self, remote_index: int) -> int:
        return self.install(remote_index, initiator=True)

    def respond(self, remote_index: int) -> int:
        return self.install(remote_index, initiator=False)

    def use(self, local_index: int, remote_index: int) -> None:
        """Let the other end use a next session, and wait until control hears of it."""
        key = ChaCha20Poly1305(remote_index.to_bytes(32, "big"))
        header = MESSAGE_TRANSPORT.to_bytes(4, "little") + local_index.to_bytes(4, "little")
        self.udp.send(header + bytes(8) + key.encrypt(bytes(12), b"", b""))
        assert self.events() == [PendingEvent(self.slot, False, True, False)]

    def events(self) -> list[object]:
        readable, _, _ = select.select([self.plane.event_fd], [], [], WAIT_S)
        assert readable
        return list(self.plane.take_events())

    @property
    def sessions(self) -> int:
        return self.plane.stats(self.slot).sessions

    def alive(self, *local_indexes: int) -> list[bool]:
        """Which of the sessions are still held: their indexes cannot be released."""

        def held(index: int) -> bool:
            with pytest.raises(OSError, match="Errno") as error:
                self.plane.release_index(index)
            return error.value.errno == errno.EBUSY

        return [held(index) for index in local_indexes]

    def sends_with(self) -> int:
        """The remote index of the session that a keepalive goes out on."""
        self.plane.kick(self.slot, keepalive=True)
        return int.from_bytes(self.udp.recv(65535)[4:8], "little")

    def asks_for_a_handshake(self) -> bool:
        """Whether a keepalive finds no session to go out on."""
        self.plane.kick(self.slot, keepalive=True)
        return self.events() == [PendingEvent(self.slot, True, False, False)]


@pytest.fixture
def peer() -> Iterator[Peer]:
    with ExitStack() as stack:
        yield Peer(stack)


# ---- indexes ----


@pytest.fixture
def plane() -> Iterator[Plane]:
    plane = Plane()
    yield plane
    plane.close()


def test_indexes_are_unique_while_the_table_grows(plane: Plane) -> None:
    slots = [plane.add_peer() for _ in range(50)]
    indexes = [plane.reserve_index(slot) for slot in slots for _ in range(100)]
    assert len(set(indexes)) == 5000
    for index in indexes:
        plane.release_index(index)


def test_a_released_index_is_gone(plane: Plane) -> None:
    index = plane.reserve_index(plane.add_peer())
    plane.release_index(index)
    with refused(errno.ENOENT):
        plane.release_index(index)


def test_a_removed_peer_gives_its_indexes_back(plane: Plane) -> None:
    slot = plane.add_peer()
    index = plane.reserve_index(slot)
    plane.remove_peer(slot)
    with refused(errno.ENOENT):
        plane.release_index(index)


def test_a_session_needs_an_index_reserved_for_its_peer(plane: Plane) -> None:
    mine, other = plane.add_peer(), plane.add_peer()
    index = plane.reserve_index(other)
    for bad in (index, index ^ 1):
        with refused(errno.EINVAL):
            plane.install_keypair(mine, Session(bytes(32), bytes(32), bad, 1, 0, True))


def test_an_index_serves_one_session(plane: Plane) -> None:
    slot = plane.add_peer()
    session = Session(bytes(32), bytes(32), plane.reserve_index(slot), 1, 0, True)
    plane.install_keypair(slot, session)
    with refused(errno.EINVAL):
        plane.install_keypair(slot, session)


# ---- rotation ----


@pytest.mark.threads
def test_the_initiators_keypair_becomes_current_and_current_previous(peer: Peer) -> None:
    a, b, c = (peer.initiate(remote) for remote in (1, 2, 3))
    assert peer.sessions == SESSION_CURRENT | SESSION_PREVIOUS
    assert peer.alive(a, b, c) == [False, True, True]
    assert peer.sends_with() == 3


@pytest.mark.threads
def test_the_initiators_keypair_makes_next_previous_and_drops_current(peer: Peer) -> None:
    current, following = peer.initiate(1), peer.respond(2)
    newest = peer.initiate(3)
    assert peer.sessions == SESSION_CURRENT | SESSION_PREVIOUS
    assert peer.alive(current, following, newest) == [False, True, True]
    assert peer.sends_with() == 3


@pytest.mark.threads
def test_the_responders_keypair_waits_in_next_and_drops_previous(peer: Peer) -> None:
    previous, current = peer.initiate(1), peer.initiate(2)
    following = peer.respond(3)
    assert peer.sessions == SESSION_CURRENT | SESSION_NEXT
    assert peer.alive(previous, current, following) == [False, True, True]
    assert peer.sends_with() == 2


@pytest.mark.threads
def test_the_responders_keypair_replaces_an_unused_next(peer: Peer) -> None:
    old, new = peer.respond(1), peer.respond(2)
    assert peer.sessions == SESSION_NEXT
    assert peer.alive(old, new) == [False, True]


@pytest.mark.threads
def test_a_next_that_nobody_has_used_is_not_sent_with(peer: Peer) -> None:
    peer.respond(1)
    assert peer.asks_for_a_handshake()


@pytest.mark.threads
def test_a_used_next_is_sent_with_before_control_confirms_it(peer: Peer) -> None:
    peer.initiate(1)
    peer.use(peer.respond(2), 2)
    assert peer.sessions == SESSION_CURRENT | SESSION_NEXT
    assert peer.sends_with() == 2


@pytest.mark.threads
def test_confirm_makes_a_used_next_current_and_current_previous(peer: Peer) -> None:
    oldest, old = peer.initiate(1), peer.initiate(2)
    new = peer.respond(3)
    peer.use(new, 3)
    peer.plane.confirm_keypair(peer.slot)
    assert peer.sessions == SESSION_CURRENT | SESSION_PREVIOUS
    assert peer.alive(oldest, old, new) == [False, True, True]
    assert peer.sends_with() == 3


@pytest.mark.threads
def test_confirm_without_use_changes_nothing(peer: Peer) -> None:
    peer.initiate(1)
    peer.respond(2)
    peer.plane.confirm_keypair(peer.slot)
    assert peer.sessions == SESSION_CURRENT | SESSION_NEXT
    assert peer.sends_with() == 1


@pytest.mark.threads
def test_a_used_next_survives_another_response_before_control_confirms_it(peer: Peer) -> None:
    used = peer.respond(1)
    peer.use(used, 1)
    unused = peer.respond(2)
    assert peer.sessions == SESSION_CURRENT | SESSION_NEXT
    assert peer.alive(used, unused) == [True, True]
    assert peer.sends_with() == 1


@pytest.mark.threads
def test_expired_keypairs_are_held_but_not_sent_with(peer: Peer) -> None:
    index = peer.initiate(1)
    peer.plane.expire_keypairs(peer.slot)
    assert peer.alive(index) == [True]
    assert peer.asks_for_a_handshake()


@pytest.mark.threads
def test_dropped_keypairs_are_gone_with_their_indexes(peer: Peer) -> None:
    indexes = [peer.initiate(1), peer.initiate(2), peer.respond(3)]
    peer.plane.drop_keypairs(peer.slot)
    assert peer.sessions == 0
    assert peer.alive(*indexes) == [False, False, False]
    assert peer.asks_for_a_handshake()


@pytest.mark.threads
def test_a_keypair_is_not_sent_with_from_reject_after_time_on(peer: Peer) -> None:
    peer.install(1, initiator=False, age_ns=0)
    peer.install(2, initiator=True, age_ns=REJECT_AFTER_TIME_S * NS)
    assert peer.asks_for_a_handshake()


@pytest.mark.threads
def test_a_keypair_is_sent_with_until_reject_after_time(peer: Peer) -> None:
    peer.install(1, initiator=True, age_ns=(REJECT_AFTER_TIME_S - WAIT_S) * NS)
    assert peer.sends_with() == 1


@pytest.mark.threads
def test_a_keypair_from_just_ahead_of_the_threads_clock_is_new(peer: Peer) -> None:
    peer.install(1, initiator=True, age_ns=-WAIT_S * NS)
    assert peer.sends_with() == 1
    assert peer.plane.take_events() == []
