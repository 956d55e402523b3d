# SPDX-License-Identifier: MIT
"""Work in pieces: all of it is done, in order, and others have their turns in between."""

import pytest
from fake_hosts import World, host_that_is_down
from fakes import FakeLoop
from hypothesis import given
from hypothesis import strategies as st

from wgpy.changes import ALLOWED_IPS_PER_PIECE, PEERS_PER_PIECE, Spread, chunks, in_pieces
from wgpy.config import AllowedIP, DeviceChange, PeerChange
from wgpy.device import PEERS_PER_TURN

MANY = 3 * PEERS_PER_PIECE


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def prefixes(count: int) -> tuple[AllowedIP, ...]:
    return tuple(AllowedIP(bytes([10, *n.to_bytes(3, "big")]), 32) for n in range(count))


def peers(count: int) -> tuple[PeerChange, ...]:
    return tuple(PeerChange(key(number), allowed_ips=prefixes(1)) for number in range(1, count + 1))


@given(st.lists(st.integers()), st.integers(1, 10))
def test_chunks_are_all_there_is_in_order(items: list[int], size: int) -> None:
    pieces = list(chunks(items, size))
    assert [item for piece in pieces for item in piece] == items
    assert all(len(piece) == size for piece in pieces[:-1])


def test_sections_come_in_pieces_of_a_bounded_size() -> None:
    sections = peers(MANY)
    pieces = list(in_pieces(sections, lambda public_key: False))
    assert tuple(section for piece in pieces for section in piece) == sections
    assert max(map(len, pieces)) <= PEERS_PER_PIECE


def test_a_section_of_many_prefixes_is_cut_and_goes_on_with_the_same_peer() -> None:
    many = prefixes(3 * ALLOWED_IPS_PER_PIECE + 1)
    whole = PeerChange(key(1), replace_allowed_ips=True, persistent_keepalive_s=9, allowed_ips=many)
    first, *others = [part for piece in in_pieces([whole], lambda key: False) for part in piece]
    assert first.persistent_keepalive_s == 9
    assert {part.public_key for part in others} == {key(1)}
    assert all(part.update_only and not part.replace_allowed_ips for part in others)
    assert tuple(prefix for part in (first, *others) for prefix in part.allowed_ips) == many


def test_prefixes_that_replace_those_of_a_peer_stay_together() -> None:
    many = prefixes(3 * ALLOWED_IPS_PER_PIECE)
    whole = PeerChange(key(1), replace_allowed_ips=True, allowed_ips=many)
    assert list(in_pieces([whole], lambda key: True)) == [[whole]]


def test_spread_work_is_done_a_piece_at_a_turn() -> None:
    loop = FakeLoop()
    done: list[int] = []
    Spread(loop, lambda: loop.now_ns).begin(map(done.append, range(3)))
    assert done == [0]
    loop.run()
    assert done == [0, 1, 2]
    assert loop.deadlines() == []


def test_spread_work_that_is_stopped_is_not_done() -> None:
    loop = FakeLoop()
    done: list[int] = []
    spread = Spread(loop, lambda: loop.now_ns)
    spread.begin(map(done.append, range(3)))
    spread.stop()
    loop.run()
    assert done == [0]


# ---- a device ----


@pytest.mark.parametrize("replaced", [False, True])
def test_a_change_in_pieces_comes_to_what_it_is(replaced: bool) -> None:
    host = host_that_is_down()
    host.configure(*peers(2 * PEERS_PER_TURN))
    change = DeviceChange(peers=peers(MANY)[::-1], replace_peers=replaced)
    pieces = sum(1 for _ in host.device.changing(change))
    keys = [peer.public_key for peer in host.snapshot.peers]
    assert pieces >= MANY / PEERS_PER_PIECE
    assert set(keys) == {section.public_key for section in change.peers} | (
        set() if replaced else {section.public_key for section in peers(2 * PEERS_PER_TURN)}
    )


def test_peers_may_be_removed_and_added_between_the_pieces_of_a_change() -> None:
    host = host_that_is_down()
    host.configure(*peers(2 * PEERS_PER_TURN))
    removed, added = peers(2 * PEERS_PER_TURN)[-1], PeerChange(key(50_000))
    changing = host.device.changing(DeviceChange(peers=peers(MANY), replace_peers=True))
    next(changing)
    host.configure(PeerChange(removed.public_key, remove=True), added)
    for _ in changing:
        pass
    keys = {peer.public_key for peer in host.snapshot.peers}
    assert keys == {added.public_key, *(section.public_key for section in peers(MANY))}


def test_a_link_that_goes_up_starts_its_peers_in_turns() -> None:
    host = host_that_is_down()
    host.configure(*peers(2 * PEERS_PER_TURN + 1))
    host.device.up()
    running = [peer.running for peer in host.device._peers.values()]
    assert running.count(True) == PEERS_PER_TURN
    host.loop.run()
    assert all(peer.running for peer in host.device._peers.values())


def test_a_link_that_goes_down_at_once_starts_no_more_peers() -> None:
    host = host_that_is_down()
    host.configure(*peers(2 * PEERS_PER_TURN + 1))
    host.device.up()
    host.device.down()
    host.loop.run()
    assert not any(peer.running for peer in host.device._peers.values())


def test_a_peer_whose_turn_is_not_yet_answers() -> None:
    world = World()
    world.a.device.down()
    others = peers(2 * PEERS_PER_TURN)
    world.b.device.down()
    world.b.configure(PeerChange(world.a.public_key, remove=True), *others)
    world.b.peer(world.a, endpoint=world.a.endpoint)
    world.b.device.up()
    world.a.device.up()
    slot = world.b.device._peers[world.a.public_key].slot
    assert not world.b.device._peers[world.a.public_key].running
    world.b.send(b"ping", slot)
    world.b.device.on_events()
    assert world.b.device._peers[world.a.public_key].running
    world.loop.run()
    assert world.a.plane.payloads == [(0, b"ping")]


def test_a_snapshot_stays_as_it_was() -> None:
    host = host_that_is_down()
    host.configure(*peers(5))
    before = host.snapshot
    host.configure(PeerChange(key(1), remove=True), PeerChange(key(2), persistent_keepalive_s=9))
    assert [peer.public_key for peer in before.peers] == [key(number) for number in range(1, 6)]
    assert before.peers[1].persistent_keepalive_s == 0
    assert before.peers[4].allowed_ips == prefixes(1)  # which all asked for, and the last got
    assert host.snapshot.peers[0].persistent_keepalive_s == 9
    assert before.peers != host.snapshot.peers
