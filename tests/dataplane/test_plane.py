# SPDX-License-Identifier: MIT
"""plane.py: the life cycle of the device and its threads, and what crosses the border to C."""

import errno
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack

import core_numbers as numbers
import pytest

from wgpy.config import KEY_LEN, AllowedIP, Endpoint, PackedAllowedIPs
from wgpy.dataplane._core import lib
from wgpy.dataplane.plane import Plane, aead_backends
from wgpy.dataplane.types import PeerShown, PlaneIO, Session, WorkerIO
from wgpy.linux.tun import VNET_HDR_LEN
from wgpy.ports import Feature
from wgpy.protocol import constants, messages

from .ends import NO_FEATURES, WAIT_S

NO_SLOT = 12345
NO_IO = PlaneIO((WorkerIO(-1, -1, -1),), NO_FEATURES)
V4 = Endpoint(bytes([192, 0, 2, 1]), 51820)
V6 = Endpoint(bytes.fromhex("20010db8" + 24 * "0"), 1, scope_id=3)
SESSION = Session(bytes(32), bytes(32), 1, 2, 0, True)


def data_threads() -> int:
    """How many run."""
    return sum(thread.name.startswith("wgpy-") for thread in threading.enumerate())


def refused(code: int) -> AbstractContextManager[object]:
    return pytest.raises(OSError, match=rf"\[Errno {code}\]")


def open_fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.fixture
def plane() -> Iterator[Plane]:
    plane = Plane()
    yield plane
    plane.close()


@pytest.fixture
def tun() -> Iterator[socket.socket]:
    """An idle TUN; name it before plane, which borrows it and so must be closed first."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    with ours, theirs:
        yield ours


# ---- life cycle ----


def test_each_backend_can_be_chosen_and_the_first_is_the_default(plane: Plane) -> None:
    for name in aead_backends():
        chosen = Plane(name)
        assert chosen.aead == name
        chosen.close()
    assert plane.aead == aead_backends()[0]


def test_an_unknown_backend_is_refused_and_leaves_no_descriptor_open() -> None:
    before = open_fds()
    with refused(errno.ENOENT):
        Plane("rot13")
    assert open_fds() == before


def test_close_frees_the_descriptors_and_may_be_called_twice() -> None:
    before = open_fds()
    plane = Plane()
    plane.close()
    plane.close()
    assert open_fds() == before


def test_a_closed_plane_refuses_calls() -> None:
    plane = Plane()
    plane.close()
    with pytest.raises(TypeError):
        plane.add_peer()


@pytest.mark.threads
def test_start_and_stop_can_be_repeated(tun: socket.socket, plane: Plane) -> None:
    for _ in range(20):
        plane.start(PlaneIO((WorkerIO(tun.fileno(), -1, -1),), NO_FEATURES))
        assert data_threads() == 2
        plane.stop()
        plane.stop()
        assert data_threads() == 0
    assert plane.failure is None


@pytest.mark.threads
def test_all_lanes_start_and_stop(tun: socket.socket) -> None:
    plane = Plane(lanes=4)
    for _ in range(20):
        plane.start(PlaneIO((WorkerIO(tun.fileno(), -1, -1),), NO_FEATURES))
        assert data_threads() == 8
        plane.stop()
        assert data_threads() == 0
    assert plane.failure is None
    plane.close()


@pytest.mark.threads
def test_a_second_start_is_refused_and_the_first_goes_on(tun: socket.socket, plane: Plane) -> None:
    plane.start(PlaneIO((WorkerIO(tun.fileno(), -1, -1),), NO_FEATURES))
    with refused(errno.EBUSY):
        plane.start(NO_IO)
    assert data_threads() == 2


@pytest.mark.threads
def test_close_stops_the_threads(tun: socket.socket) -> None:
    plane = Plane()
    plane.start(PlaneIO((WorkerIO(tun.fileno(), -1, -1),), NO_FEATURES))
    plane.close()
    assert data_threads() == 0


@pytest.mark.threads
def test_a_thread_that_ends_by_itself_wakes_control_and_says_why(
    tun: socket.socket, plane: Plane
) -> None:
    plane.start(NO_IO)
    assert select.select([plane.event_fd], [], [], WAIT_S)[0]
    assert plane.failure is not None
    assert plane.failure.errno == errno.EBADF
    plane.stop()
    plane.start(PlaneIO((WorkerIO(tun.fileno(), -1, -1),), NO_FEATURES))
    assert plane.failure is None


@pytest.mark.threads
def test_a_kick_from_before_the_start_is_not_lost(tun: socket.socket, plane: Plane) -> None:
    with ExitStack() as stack:
        ours, theirs = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        for end in (stack.enter_context(ours), stack.enter_context(theirs)):
            end.bind(("127.0.0.1", 0))
        ours.setblocking(False)
        theirs.settimeout(WAIT_S)
        slot = plane.add_peer()
        plane.set_endpoint(slot, Endpoint(bytes([127, 0, 0, 1]), theirs.getsockname()[1]))
        index = plane.reserve_index(slot)
        session = Session(bytes(32), bytes(32), index, 7, plane.now_ns(), True)
        plane.install_keypair(slot, session)
        plane.kick(slot, keepalive=True)
        plane.start(PlaneIO((WorkerIO(tun.fileno(), ours.fileno(), -1),), NO_FEATURES))
        assert len(theirs.recv(65535)) == 32
        plane.stop()
        assert plane.stats(slot).tx_bytes == 32


# ---- clock and counters ----


def test_the_clock_is_boot_time(plane: Plane) -> None:
    before_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert before_ns <= plane.now_ns() <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def test_counters_start_at_zero_and_have_their_names(plane: Plane) -> None:
    counters = plane.counters()
    assert next(iter(counters)) == "tx_no_peer"
    assert "rx_events_dropped" in counters
    assert set(counters.values()) == {0}


# ---- peers ----


def test_slots_are_unique_and_used_again(plane: Plane) -> None:
    slots = [plane.add_peer() for _ in range(100)]
    assert len(set(slots)) == 100
    plane.remove_peer(slots[40])
    assert plane.add_peer() == slots[40]


def test_a_new_peer_in_an_old_slot_knows_nothing_of_the_old_one(plane: Plane) -> None:
    slot = plane.add_peer()
    fresh = plane.stats(slot)
    plane.peer_received(slot, V4, 92, plane.now_ns())
    plane.remove_peer(slot)
    assert plane.add_peer() == slot
    assert plane.stats(slot) == fresh


def test_what_came_before_another_moves_a_peer_no_more(plane: Plane) -> None:
    """Lanes work side by side, so of two batches the later may be the first to tell."""
    slot, now_ns = plane.add_peer(), plane.now_ns()
    plane.peer_received(slot, V4, 92, now_ns)
    plane.peer_received(slot, V6, 92, now_ns - 1)
    assert plane.stats(slot).endpoint == V4
    plane.peer_received(slot, V6, 92, now_ns)
    assert plane.stats(slot).endpoint == V6


@pytest.mark.parametrize(
    "call",
    [
        lambda plane: plane.remove_peer(NO_SLOT),
        lambda plane: plane.set_endpoint(NO_SLOT, V4),
        lambda plane: plane.clear_source(NO_SLOT),
        lambda plane: plane.set_handshake_gate(NO_SLOT, 0),
        lambda plane: plane.set_wake(NO_SLOT, None),
        lambda plane: plane.rearm_keepalive(NO_SLOT, 0),
        lambda plane: plane.stats(NO_SLOT),
        lambda plane: plane.kick(NO_SLOT, keepalive=True),
        lambda plane: plane.drop_staged(NO_SLOT),
        lambda plane: plane.peer_received(NO_SLOT, V4, 92, 1),
        lambda plane: plane.reserve_index(NO_SLOT),
        lambda plane: plane.install_keypair(NO_SLOT, SESSION),
        lambda plane: plane.confirm_keypair(NO_SLOT),
        lambda plane: plane.expire_keypairs(NO_SLOT),
        lambda plane: plane.drop_keypairs(NO_SLOT),
    ],
)
def test_an_empty_slot_is_refused(plane: Plane, call: Callable[[Plane], object]) -> None:
    with refused(errno.ENOENT):
        call(plane)


def test_an_authenticated_handshake_message_roams_counts_and_stamps(plane: Plane) -> None:
    slot = plane.add_peer()
    plane.peer_received(slot, V4, 92, 1000)
    plane.peer_received(slot, V6, 148, 2000)
    stats = plane.stats(slot)
    assert (stats.endpoint, stats.rx_bytes, stats.rx_any_ns) == (V6, 240, 2000)
    assert (stats.rx_data_ns, stats.rx_unanswered_since_ns) == (0, 0)


def test_rearming_the_keepalive_sets_its_stamp(plane: Plane) -> None:
    slot = plane.add_peer()
    plane.rearm_keepalive(slot, 4711)
    assert plane.stats(slot).rx_unanswered_since_ns == 4711


# ---- endpoints ----

SOURCED = Endpoint(V6.address, 9, 3, source=bytes(15) + b"\1", source_ifindex=4)


@pytest.mark.parametrize("endpoint", [V4, V6, SOURCED])
def test_an_endpoint_survives_the_way_to_c_and_back(plane: Plane, endpoint: Endpoint) -> None:
    slot = plane.add_peer()
    assert plane.stats(slot).endpoint is None
    plane.set_endpoint(slot, endpoint)
    back = plane.stats(slot).endpoint
    assert back == endpoint
    assert back is not None
    assert (back.source, back.source_ifindex) == (endpoint.source, endpoint.source_ifindex)


def test_clearing_the_source_keeps_the_endpoint(plane: Plane) -> None:
    slot = plane.add_peer()
    plane.set_endpoint(slot, SOURCED)
    plane.clear_source(slot)
    back = plane.stats(slot).endpoint
    assert back == SOURCED
    assert back is not None
    assert (back.source, back.source_ifindex) == (b"", 0)


@pytest.mark.parametrize(
    "bad", [Endpoint(b"abc", 1), Endpoint(b"", 1), Endpoint(bytes(4), 1, source=bytes(16))]
)
def test_an_endpoint_of_a_wrong_length_is_refused(plane: Plane, bad: Endpoint) -> None:
    slot = plane.add_peer()
    with pytest.raises(ValueError, match="4 or 16 bytes"):
        plane.set_endpoint(slot, bad)


# ---- keys ----


def test_keys_of_a_wrong_length_are_refused(plane: Plane) -> None:
    slot = plane.add_peer()
    index = plane.reserve_index(slot)
    with pytest.raises(ValueError, match="32 bytes"):
        plane.set_mac1_key(bytes(31))
    with pytest.raises(ValueError, match="32 bytes"):
        plane.set_cookie_key(bytes(33))
    with pytest.raises(ValueError, match="32 bytes"):
        plane.install_keypair(slot, Session(bytes(32), bytes(33), index, 1, 0, True))
    plane.release_index(index)


def test_no_key_shows_in_a_repr() -> None:
    session = Session(b"s" * 32, b"r" * 32, 1, 2, 3, True)
    assert "sss" not in repr(session)
    assert "rrr" not in repr(session)


def test_control_and_core_have_the_same_numbers() -> None:
    assert constants.REJECT_AFTER_TIME_S == lib.WG_REJECT_AFTER_TIME_S
    assert constants.REKEY_TIMEOUT_S == lib.WG_REKEY_TIMEOUT_S
    assert constants.KEEPALIVE_TIMEOUT_S == lib.WG_KEEPALIVE_TIMEOUT_S
    assert struct.unpack("=i", VNET_HDR_LEN) == (lib.WG_VNET_HDR_LEN,)
    assert (KEY_LEN, messages.MAC_LEN) == (lib.WG_KEY_LEN, lib.WG_MAC_LEN)
    assert messages.INITIATION_LEN == lib.WG_INITIATION_LEN
    assert messages.RESPONSE_LEN == lib.WG_RESPONSE_LEN
    assert messages.COOKIE_REPLY_LEN == lib.WG_COOKIE_REPLY_LEN
    for message_type in messages.MessageType:
        assert message_type == getattr(lib, f"WG_MESSAGE_{message_type.name}")
    for feature in Feature:
        assert feature == getattr(lib, f"WG_FEATURE_{feature.name}")


def test_the_core_has_the_numbers_of_the_specification() -> None:
    assert numbers.REJECT_AFTER_MESSAGES == 2**64 - 2**13 - 1
    assert numbers.REKEY_AFTER_MESSAGES == 2**60
    assert (numbers.REKEY_AFTER_TIME_S, numbers.REJECT_AFTER_TIME_S) == (120, 180)
    assert (numbers.KEEPALIVE_TIMEOUT_S, numbers.REKEY_TIMEOUT_S) == (10, 5)


# ---- messages ----


def test_a_message_for_a_peer_without_an_endpoint_is_refused(plane: Plane) -> None:
    slot = plane.add_peer()
    with refused(errno.EDESTADDRREQ):
        plane.send_message(slot, bytes(148), 0, plane.now_ns())


# ---- very many peers at one moment ----


def test_peers_are_shown_in_the_order_asked_with_their_own_prefixes(plane: Plane) -> None:
    slots = [plane.add_peer() for _ in range(5)]
    for slot in slots:
        prefixes = [AllowedIP(bytes([10, slot, n, 0]), 24) for n in range(slot)]
        plane.change_allowed_ips(slot, [*prefixes, AllowedIP(bytes(15) + bytes([slot]), 128)])
        plane.set_endpoint(slot, Endpoint(bytes([192, 0, 2, slot]), 1000 + slot))
    plane.set_endpoint(slots[0], Endpoint(bytes(range(16)), 7, scope_id=3))
    shown = list(plane.show(slots[::-1]))
    assert [one.allowed_ips for one in shown] == [plane.allowed_ips(slot) for slot in slots[::-1]]
    assert [one.endpoint for one in shown] == [plane.stats(slot).endpoint for slot in slots[::-1]]


def test_a_peer_without_endpoint_prefixes_and_traffic_is_shown_as_that(plane: Plane) -> None:
    shown = plane.show([plane.add_peer()])
    assert len(shown) == 1
    assert list(shown) == [PeerShown(0, 0, None, PackedAllowedIPs(b""))]
    assert list(plane.show([])) == []


def test_a_peer_that_is_gone_is_not_shown(plane: Plane) -> None:
    slot = plane.add_peer()
    plane.remove_peer(slot)
    with pytest.raises(OSError, match="No such file"):
        plane.show([slot])
