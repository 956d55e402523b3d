# SPDX-License-Identifier: MIT
"""allowedips.c against a model: a dictionary of networks, searched by the ipaddress module."""

import ctypes
import errno
import ipaddress
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wgpy.config import AllowedIP
from wgpy.dataplane.plane import Plane

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
PEERS = 3


@pytest.fixture
def plane() -> Iterator[Plane]:
    plane = Plane()
    yield plane
    plane.close()


def refused(code: int) -> AbstractContextManager[object]:
    return pytest.raises(OSError, match=rf"\[Errno {code}\]")


def prefix(text: str, *, remove: bool = False) -> AllowedIP:
    address, cidr = text.split("/")
    return AllowedIP(ipaddress.ip_address(address).packed, int(cidr), remove)


def listed(plane: Plane, slot: int) -> list[str]:
    return [
        f"{ipaddress.ip_address(entry.address)}/{entry.cidr}" for entry in plane.allowed_ips(slot)
    ]


def lookup(plane: Plane, address: str) -> int | None:
    return plane.lookup(ipaddress.ip_address(address).packed)


class Model:
    """Who owns which network; a dictionary keeps the order of insertion."""

    def __init__(self) -> None:
        self.owners: dict[Network, int] = {}

    def change(self, peer: int, entry: AllowedIP) -> None:
        network = ipaddress.ip_network((entry.address, entry.cidr), strict=False)
        if entry.remove:
            if self.owners.get(network) == peer:
                del self.owners[network]
        elif self.owners.get(network) != peer:
            self.owners.pop(network, None)
            self.owners[network] = peer

    def clear(self, peer: int) -> None:
        self.owners = {n: owner for n, owner in self.owners.items() if owner != peer}

    def networks(self, peer: int) -> list[Network]:
        return [network for network, owner in self.owners.items() if owner == peer]

    def lookup(self, packed: bytes) -> int | None:
        address = ipaddress.ip_address(packed)
        matches = [network for network in self.owners if address in network]
        return self.owners[max(matches, key=lambda n: n.prefixlen)] if matches else None


# Few byte values, so that prefixes nest, touch and coincide.
octets = st.sampled_from([0, 1, 127, 128, 255])


def packed_addresses(size: int) -> st.SearchStrategy[bytes]:
    return st.lists(octets, min_size=size, max_size=size).map(bytes)


addresses = packed_addresses(4) | packed_addresses(16)
entries = st.builds(
    lambda address, cidr, remove: AllowedIP(address, cidr % (8 * len(address) + 1), remove),
    addresses,
    st.integers(0, 128),
    st.sampled_from([False, False, True]),
)
peers = st.integers(0, PEERS - 1)
steps = st.lists(
    st.tuples(st.sampled_from(["change", "replace"]), peers, st.lists(entries, max_size=12))
    | st.tuples(st.just("remove peer"), peers, st.just([])),
    max_size=12,
)


@settings(max_examples=200)
@given(steps, st.lists(addresses, max_size=20))
def test_any_changes_leave_what_the_model_has(
    steps: list[tuple[str, int, list[AllowedIP]]], probes: list[bytes]
) -> None:
    plane, model = Plane(), Model()
    slots = [plane.add_peer() for _ in range(PEERS)]
    for step, peer, changes in steps:
        if step != "change":
            model.clear(peer)
        for change in changes:
            model.change(peer, change)
        probes += [change.address for change in changes]
        match step:
            case "change":
                plane.change_allowed_ips(slots[peer], changes)
            case "replace":
                plane.replace_allowed_ips(slots[peer], changes)
            case "remove peer":
                plane.remove_peer(slots[peer])
                slots[peer] = plane.add_peer()
    for peer, slot in enumerate(slots):
        expected = [AllowedIP(n.network_address.packed, n.prefixlen) for n in model.networks(peer)]
        assert plane.allowed_ips(slot) == expected
    for probe in probes:
        owner = model.lookup(probe)
        assert plane.lookup(probe) == (None if owner is None else slots[owner])
    plane.close()


def test_the_longest_prefix_wins(plane: Plane) -> None:
    wide, narrow = plane.add_peer(), plane.add_peer()
    plane.change_allowed_ips(wide, [prefix("0.0.0.0/0"), prefix("::/0")])
    plane.change_allowed_ips(narrow, [prefix("10.1.2.3/32"), prefix("fd00::1/128")])
    assert lookup(plane, "10.1.2.3") == lookup(plane, "fd00::1") == narrow
    assert lookup(plane, "10.1.2.2") == lookup(plane, "fd00::2") == wide


def test_families_do_not_mix(plane: Plane) -> None:
    slot = plane.add_peer()
    plane.change_allowed_ips(slot, [prefix("0.0.0.0/0")])
    assert lookup(plane, "::") is None


def test_host_bits_are_masked(plane: Plane) -> None:
    slot = plane.add_peer()
    plane.change_allowed_ips(slot, [prefix("10.1.2.3/9"), prefix("fd00:ffff::1/17")])
    assert listed(plane, slot) == ["10.0.0.0/9", "fd00:8000::/17"]


def test_a_prefix_moves_silently_from_another_peer(plane: Plane) -> None:
    first, second = plane.add_peer(), plane.add_peer()
    plane.change_allowed_ips(first, [prefix("10.0.0.0/8"), prefix("10.1.0.0/16")])
    plane.change_allowed_ips(second, [prefix("10.0.0.0/8")])
    assert listed(plane, first) == ["10.1.0.0/16"]
    assert listed(plane, second) == ["10.0.0.0/8"]


def test_only_the_owner_of_exactly_this_prefix_can_remove_it(plane: Plane) -> None:
    owner, other = plane.add_peer(), plane.add_peer()
    plane.change_allowed_ips(owner, [prefix("10.0.0.0/8")])
    plane.change_allowed_ips(other, [prefix("10.0.0.0/8", remove=True)])
    plane.change_allowed_ips(owner, [prefix("10.0.0.0/9", remove=True)])
    assert listed(plane, owner) == ["10.0.0.0/8"]
    plane.change_allowed_ips(owner, [prefix("10.0.0.0/8", remove=True)])
    assert listed(plane, owner) == []


def test_entries_apply_in_order(plane: Plane) -> None:
    slot = plane.add_peer()
    one = "10.0.0.1/32"
    plane.change_allowed_ips(slot, [prefix(one), prefix(one, remove=True), prefix("::1/128")])
    assert listed(plane, slot) == ["::1/128"]


@pytest.mark.parametrize(
    "bad",
    [
        AllowedIP(bytes(4), 33),
        AllowedIP(bytes(16), 129),
        AllowedIP(bytes(4), 256),
        AllowedIP(bytes(4), -1),
        AllowedIP(bytes(5), 8),
        AllowedIP(b"", 0),
    ],
)
def test_one_bad_entry_refuses_all(plane: Plane, bad: AllowedIP) -> None:
    slot = plane.add_peer()
    plane.change_allowed_ips(slot, [prefix("10.0.0.0/8")])
    for call in (plane.change_allowed_ips, plane.replace_allowed_ips):
        with refused(errno.EINVAL):
            call(slot, [prefix("10.0.0.0/8", remove=True), prefix("::/0"), bad])
        assert listed(plane, slot) == ["10.0.0.0/8"]
    plane.replace_allowed_ips(slot, [prefix("::/0")])
    assert listed(plane, slot) == ["::/0"]


@pytest.mark.threads
def test_replacing_by_the_same_takes_nothing_away_meanwhile(plane: Plane) -> None:
    """`wg syncconf` replaces the allowed IPs of every peer, mostly by the same, under traffic."""
    slot = plane.add_peer()
    kept = [AllowedIP(bytes([10, 0, i >> 8, i & 255]), 32) for i in range(2000)]
    plane.change_allowed_ips(slot, kept)
    ended = threading.Event()
    owners: set[int | None] = set()

    def look() -> None:
        while not ended.is_set():
            owners.add(plane.lookup(kept[1000].address))

    thread = threading.Thread(target=look)
    thread.start()
    for i in range(200):
        plane.replace_allowed_ips(slot, [*kept, AllowedIP(bytes([11, 0, 0, i]), 32)])
    ended.set()
    thread.join()
    assert owners == {slot}
    assert listed(plane, slot)[-1] == "11.0.0.199/32"
    assert len(listed(plane, slot)) == 2001


def test_an_unknown_peer_is_refused(plane: Plane) -> None:
    with refused(errno.ENOENT):
        plane.allowed_ips(7)
    for call in (plane.change_allowed_ips, plane.replace_allowed_ips):
        with refused(errno.ENOENT):
            call(7, [])


def resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def test_131000_prefixes_on_one_peer_take_bounded_memory(plane: Plane) -> None:
    slot = plane.add_peer()
    many = [AllowedIP((0x0A000000 + i * 0x101).to_bytes(4, "big"), 32) for i in range(131_000)]
    before = resident_bytes()
    plane.change_allowed_ips(slot, many)
    assert resident_bytes() - before < 128 << 20
    assert plane.allowed_ips(slot) == many
    assert plane.lookup(many[77_777].address) == slot
    plane.replace_allowed_ips(slot, [])
    assert plane.allowed_ips(slot) == []
    assert plane.lookup(many[77_777].address) is None


class Mallinfo(ctypes.Structure):
    """struct mallinfo2 (mallinfo(3)); uordblks is the bytes in use in glibc's allocator."""

    _fields_ = (
        ("before", ctypes.c_size_t * 7),
        ("uordblks", ctypes.c_size_t),
        ("after", ctypes.c_size_t * 2),
    )


def allocated_bytes() -> int:
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        pytest.skip("needs mallinfo2 of glibc 2.33")
    mallinfo.restype = Mallinfo
    return int(mallinfo().uordblks)


def test_an_emptied_trie_gives_its_memory_back(plane: Plane) -> None:
    slot, spread = plane.add_peer(), 0x9E3779B1  # odd: all addresses differ, and share few bits
    many = [AllowedIP((i * spread % 2**32).to_bytes(4, "big"), 32) for i in range(20_000)]
    before = allocated_bytes()
    plane.change_allowed_ips(slot, many)
    plane.replace_allowed_ips(slot, [])
    plane.change_allowed_ips(slot, many)
    plane.change_allowed_ips(slot, [entry._replace(remove=True) for entry in many])
    assert allocated_bytes() - before < 64 << 10


def test_10000_peers_each_own_their_prefix(plane: Plane) -> None:
    slots = [plane.add_peer() for _ in range(10_000)]
    for slot in slots:
        plane.change_allowed_ips(slot, [AllowedIP(slot.to_bytes(16, "big"), 128)])
    assert all(plane.lookup(slot.to_bytes(16, "big")) == slot for slot in slots)
    for slot in slots[::2]:
        plane.remove_peer(slot)
    assert all(plane.lookup(slot.to_bytes(16, "big")) is None for slot in slots[::2])
    assert all(plane.lookup(slot.to_bytes(16, "big")) == slot for slot in slots[1::2])
