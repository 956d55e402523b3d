# SPDX-License-Identifier: MIT
"""The C data plane as Python calls it: typed calls, and its threads.

Nobody else has ffi and lib, but for convert.py.
"""

import os
from array import array
from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any, Final

from wgpy.config import AllowedIP, Endpoint, PackedAllowedIPs
from wgpy.dataplane.convert import (
    IP_VERSION,
    ShownPeers,
    allowed_ips_from_c,
    allowed_ips_to_c,
    checked,
    device_facts_from_c,
    endpoint_to_c,
    event_from_c,
    ffi,
    key_to_c,
    lib,
    peer_facts_from_c,
    session_to_c,
    stats_from_c,
)
from wgpy.dataplane.threads import DataThreads
from wgpy.dataplane.types import (
    DeviceFacts,
    MessageEvent,
    PeerFacts,
    PeerStats,
    PendingEvent,
    PlaneIO,
    Session,
)

# Implementation constants; api.h is their home.
MAX_PEERS: Final[int] = lib.WG_MAX_PEERS
MAX_WORKERS: Final[int] = lib.WG_MAX_WORKERS
MAX_LANES: Final[int] = lib.WG_MAX_LANES
MAX_THREADS: Final[int] = lib.WG_MAX_THREADS
DEFAULT_WORKERS_MAX: Final = 4  # more than 25 Gbit/s takes; each costs memory and AEAD contexts
DEFAULT_LANES_MAX: Final = 4  # more than five would wait for each other: docs/speed.md
FEW_ALLOWED_IPS: Final = 16  # most peers have no more
ALLOWED_IPS_PER_TEXT: Final = 1024  # about 32 KiB
_ALLOWED_IP_LINE_MIN: Final = len("allowed_ip=::\n")

_text = ffi.new("char[]", ALLOWED_IPS_PER_TEXT * lib.WG_ALLOWEDIP_LINE_MAX)  # again and again


def aead_backends() -> tuple[str, ...]:
    """Name the AEAD backends that were built in and work here, fastest first."""
    return tuple(ffi.string(lib.wg_aead_backends()).decode().split(","))


def default_workers() -> int:
    """Return how many workers an interface of the system has unless somebody says otherwise."""
    return min(DEFAULT_WORKERS_MAX, _half_of_cores())


def default_lanes(workers: int) -> int:
    """Return how many lanes each of so many workers has unless somebody says otherwise."""
    threads = max(workers, min(MAX_THREADS, len(os.sched_getaffinity(0))))
    return min(DEFAULT_LANES_MAX, _half_of_cores(), threads // workers)


def _half_of_cores() -> int:
    return max(1, len(os.sched_getaffinity(0)) // 2)


def parse_allowed_ips_untrusted(lines: bytes) -> tuple[PackedAllowedIPs, int]:
    """Read `allowed_ip` lines of the configuration protocol; -> prefixes, bytes that they took.

    Stops before the first line that is another, or is no good.
    """
    most = len(lines) // _ALLOWED_IP_LINE_MIN
    entries = ffi.new("wg_allowedip[]", most)
    used = ffi.new("size_t *")
    count = lib.wg_allowedips_parse(lines, len(lines), entries, most, used)
    return allowed_ips_from_c(entries, count), used[0]


def format_allowed_ips(prefixes: PackedAllowedIPs) -> str:
    """Write `allowed_ip` lines of the configuration protocol, of ALLOWED_IPS_PER_TEXT at most."""
    length = lib.wg_allowedips_format(allowed_ips_to_c(prefixes), len(prefixes), _text)
    text: bytes = ffi.unpack(_text, length)
    return text.decode("ascii")


class Plane:
    """The C device.  All methods are for the control thread; OSError carries C's errno.

    A slot that holds no peer gives ENOENT.  After close() nothing may be called but close().
    """

    event_fd: int  # readable when take_events has something, or a data thread ended by itself

    def __init__(self, aead: str | None = None, workers: int = 1, lanes: int = 1) -> None:
        """Create a device without peers, for 1 to MAX_WORKERS workers.

        Each has `lanes` data threads per direction, 1 to MAX_LANES, and all MAX_THREADS at most.

        `aead` names one of aead_backends(); None is the fastest.  OSError with ENOENT: no such one;
        with EINVAL: other numbers of workers or lanes.
        """
        self._workers = workers
        self._lanes = lanes
        self._eventfds: list[int] = []
        self._device: Any = None
        self._threads = DataThreads(self._wake)
        self._stats = ffi.new("wg_peer_stats *")  # for stats() to read into, again and again
        self._facts = ffi.new("wg_peer_facts *")  # for facts(), likewise
        self._few_allowed_ips = ffi.new("wg_allowedip[]", FEW_ALLOWED_IPS)  # likewise
        try:
            for _ in range(2 + workers):
                self._eventfds.append(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
            events, wake_receive, *wake_send = self._eventfds
            device = ffi.new("wg_device **")
            name = ffi.NULL if aead is None else aead.encode()
            wakes = events, wake_receive, wake_send
            checked(lib.wg_device_create(device, workers, lanes, *wakes, name))
            self._device = device[0]
        except BaseException:
            self.close()
            raise
        self.event_fd = self._eventfds[0]

    def close(self) -> None:
        """Stop the data threads, wipe and free everything.  More than once is fine."""
        self.stop()
        if self._device is not None:
            lib.wg_device_destroy(self._device)
            self._device = None
        while self._eventfds:
            os.close(self._eventfds.pop())

    @property
    def workers(self) -> int:
        """How many queues of the TUN there are, and pairs of sockets."""
        return self._workers

    @property
    def aead(self) -> str:
        """The name of the AEAD backend in use."""
        name: bytes = ffi.string(lib.wg_device_aead(self._device))
        return name.decode()

    def now_ns(self) -> int:
        """Read the clock of all times here, CLOCK_BOOTTIME."""
        return int(lib.wg_clock_now_ns())

    def set_mtu(self, mtu: int) -> None:
        """Set the tunnel's MTU, to which padding is clamped (5.4.6)."""
        lib.wg_device_set_mtu(self._device, mtu)

    def tun_queue(self) -> int:
        """Return how many frames each queue of the TUN should hold, 0: as many as by default.

        event_fd is readable after each change.
        """
        return int(lib.wg_device_tun_queue(self._device))

    def set_mac1_key(self, key: bytes | None) -> None:
        """Set BLAKE2s(LABEL_MAC1 || our public key) (5.4.4); None refuses what carries a mac1."""
        c_key = ffi.NULL if key is None else key_to_c(key)
        checked(lib.wg_device_set_mac1_key(self._device, c_key))

    def set_cookie_key(self, key: bytes | None) -> None:
        """Set BLAKE2s(LABEL_COOKIE || our public key) (5.4.7); with None no cookie is given."""
        c_key = ffi.NULL if key is None else key_to_c(key)
        checked(lib.wg_device_set_cookie_key(self._device, c_key))

    def counters(self) -> dict[str, int]:
        """Return all of wg_counters in api.h, by field name."""
        counters = ffi.new("wg_counters *")
        lib.wg_device_counters(self._device, counters)
        return {name: getattr(counters, name) for name, _ in ffi.typeof("wg_counters").fields}

    def device_facts(self) -> DeviceFacts:
        """Read what was dropped and refused where no peer is known."""
        c = ffi.new("wg_device_facts *")
        lib.wg_device_facts_read(self._device, self.now_ns(), c)
        return device_facts_from_c(c)

    # ---- data threads ----

    def start(self, io: PlaneIO) -> None:
        """Lend the descriptors of `io` to new data threads until stop().

        OSError with EBUSY: they run already.  ValueError: another number of workers.
        """
        if len(io.workers) != self._workers:
            raise ValueError(f"descriptors of {len(io.workers)} workers for {self._workers}")
        workers = [(worker.tun_fd, worker.udp4_fd, worker.udp6_fd) for worker in io.workers]
        c_io = ffi.new("wg_io *", (workers, io.features))
        checked(lib.wg_device_start(self._device, c_io))
        self._threads.failure = None
        try:
            for worker, lane in product(range(self._workers), range(self._lanes)):
                number = worker * self._lanes + lane
                send = partial(lib.wg_send_run, self._device, worker, lane)
                self._threads.start(f"wgpy-send-{number}", send)
                receive = partial(lib.wg_receive_run, self._device, worker, lane)
                self._threads.start(f"wgpy-receive-{number}", receive)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the data threads and give the descriptors back.  More than once is fine."""
        if self._device is not None:
            lib.wg_device_stop(self._device)
        self._threads.join()

    def _wake(self) -> None:
        os.eventfd_write(self.event_fd, 1)

    @property
    def failure(self) -> OSError | None:
        """Why a data thread ended by itself since start() (EBADFD: the TUN device is gone)."""
        return self._threads.failure

    # ---- peers ----

    def add_peer(self) -> int:
        """Make a peer and return its slot.  OSError with ENOSPC: there are MAX_PEERS."""
        slot = ffi.new("uint32_t *")
        checked(lib.wg_peer_add(self._device, slot))
        return int(slot[0])

    def remove_peer(self, slot: int) -> None:
        """Forget the peer, its sessions, prefixes, indexes, staged packets and waiting events."""
        checked(lib.wg_peer_remove(self._device, slot))

    def set_endpoint(self, slot: int, endpoint: Endpoint) -> None:
        """Set where the peer is; the sticky source is taken from `endpoint` too."""
        checked(lib.wg_peer_set_endpoint(self._device, slot, endpoint_to_c(endpoint)))

    def clear_source(self, slot: int) -> None:
        """Forget the sticky source: the kernel chooses the next one."""
        checked(lib.wg_peer_clear_source(self._device, slot))

    def allow_source(self, slot: int, path: Endpoint, allowed: bool) -> None:
        """Send from the sticky source again, or no more, for as long as `path` is the peer's.

        A path is the address of the peer, the source and its interface.
        """
        checked(lib.wg_peer_allow_source(self._device, slot, endpoint_to_c(path), allowed))

    def set_looped(self, slot: int, endpoint: Endpoint, looped: bool) -> None:
        """Send nothing to the peer, or something again, for as long as `endpoint` is the peer's.

        Looped is an endpoint if what is sent there comes back to go to the peer.
        """
        checked(lib.wg_peer_set_looped(self._device, slot, endpoint_to_c(endpoint), looped))

    def set_handshake_gate(self, slot: int, gate_ns: int) -> None:
        """Ask for no handshake before gate_ns."""
        checked(lib.wg_peer_set_handshake_gate(self._device, slot, gate_ns))

    def set_wake(self, slot: int, wake_ns: int | None) -> None:
        """Say when control will look at the peer's timers next by itself; None: never.

        Raises no event for what has happened before: read stats() afterwards.
        """
        c_wake = lib.WG_NEVER if wake_ns is None else wake_ns
        checked(lib.wg_peer_set_wake(self._device, slot, c_wake))

    def rearm_keepalive(self, slot: int, since_ns: int) -> None:
        """Set rx_unanswered_since_ns: payload came again after what the last keepalive answered."""
        checked(lib.wg_peer_rearm_keepalive(self._device, slot, since_ns))

    def stats(self, slot: int) -> PeerStats:
        """Read counters, stamps and endpoint."""
        checked(lib.wg_peer_stats_read(self._device, slot, self._stats))
        return stats_from_c(self._stats)

    def show(self, slots: Sequence[int]) -> ShownPeers:
        """Read what `wg show` shows of these peers, at one moment; in their order."""
        c_slots = ffi.from_buffer("uint32_t[]", array("I", slots))
        shown = ffi.new("wg_peer_shown[]", len(slots))
        count, room = len(slots), -1
        while count > room:  # most have one prefix, so once or twice
            room = count
            entries = ffi.new("wg_allowedip[]", room)
            arguments = self._device, c_slots, len(slots), shown, entries, room
            count = checked(lib.wg_peers_show(*arguments))
        return ShownPeers(shown, allowed_ips_from_c(entries, count))

    def facts(self, slot: int) -> PeerFacts:
        """Read what is only to be shown."""
        c = self._facts
        checked(lib.wg_peer_facts_read(self._device, slot, self.now_ns(), c))
        return peer_facts_from_c(c)

    def watch_endpoint(self, slot: int) -> None:
        """Tell of the next move again; of its first a peer tells by itself."""
        checked(lib.wg_peer_watch_endpoint(self._device, slot))

    def kick(self, slot: int, *, keepalive: bool) -> None:
        """Let the send thread send what is staged, or with `keepalive` at least an empty packet."""
        kinds = lib.WG_KICK_KEEPALIVE if keepalive else lib.WG_KICK_STAGED
        checked(lib.wg_peer_kick(self._device, slot, kinds))

    def drop_staged(self, slot: int) -> None:
        """Drop the packets that wait for a session."""
        checked(lib.wg_peer_drop_staged(self._device, slot))

    def peer_received(self, slot: int, source: Endpoint, length: int, now_ns: int) -> None:
        """Roam, count and stamp for a handshake message that proved to be the peer's."""
        c_source = endpoint_to_c(source)
        checked(lib.wg_peer_received(self._device, slot, c_source, length, now_ns))

    # ---- allowed IPs ----

    def change_allowed_ips(self, slot: int, entries: Sequence[AllowedIP]) -> None:
        """Apply all entries in order, or none (OSError with EINVAL or ENOMEM).

        Host bits are masked.  A prefix of another peer moves here.
        """
        c_entries = allowed_ips_to_c(entries)
        checked(lib.wg_allowedips_change(self._device, slot, c_entries, len(entries)))

    def replace_allowed_ips(self, slot: int, entries: Sequence[AllowedIP]) -> None:
        """Apply all entries, or none, and take away what the peer had before.

        A prefix that it had and gets again belongs to it throughout: no packet is lost.
        """
        c_entries = allowed_ips_to_c(entries)
        checked(lib.wg_allowedips_replace(self._device, slot, c_entries, len(entries)))

    def allowed_ips(self, slot: int) -> PackedAllowedIPs:
        """List the peer's prefixes in order of insertion."""
        entries = self._few_allowed_ips
        count = checked(lib.wg_allowedips_list(self._device, slot, entries, FEW_ALLOWED_IPS))
        if count > FEW_ALLOWED_IPS:
            entries = ffi.new("wg_allowedip[]", count)
            checked(lib.wg_allowedips_list(self._device, slot, entries, count))
        return allowed_ips_from_c(entries, count)

    def lookup(self, address: bytes) -> int | None:
        """Find the slot that packets to `address` (4 or 16 bytes) belong to."""
        slot = lib.wg_allowedips_lookup(self._device, IP_VERSION[len(address)], address)
        return None if slot == lib.WG_NO_SLOT else int(slot)

    # ---- sessions ----

    def reserve_index(self, slot: int) -> int:
        """Reserve a random index that no handshake or session of this device uses."""
        index = ffi.new("uint32_t *")
        checked(lib.wg_index_reserve(self._device, slot, index))
        return int(index[0])

    def release_index(self, index: int) -> None:
        """Give back a handshake's index.  OSError: ENOENT not in use, EBUSY a session has it."""
        checked(lib.wg_index_release(self._device, index))

    def install_keypair(self, slot: int, session: Session) -> None:
        """Hand a session over.  OSError with EINVAL: local_index is not reserved for this peer."""
        with session_to_c(session) as c:
            checked(lib.wg_keypair_install(self._device, slot, c))

    def confirm_keypair(self, slot: int) -> None:
        """Make next current if the peer has used it; else nothing changes."""
        checked(lib.wg_keypair_confirm(self._device, slot))

    def expire_keypairs(self, slot: int) -> None:
        """Send nothing more with current and next; they still receive."""
        checked(lib.wg_keypairs_expire(self._device, slot))

    def drop_keypairs(self, slot: int) -> None:
        """Wipe all sessions of the peer."""
        checked(lib.wg_keypairs_drop(self._device, slot))

    # ---- the two inboxes ----

    def take_events(self, limit: int = 64) -> list[PendingEvent | MessageEvent]:
        """Take up to `limit` events: keys and timers, messages, wishes for a handshake.

        The wishes are at most a quarter of the limit, so that nothing else waits long for them;
        they are events by themselves.  event_fd is readable afterwards if something is left.
        """
        events = ffi.new("wg_event[]", limit)
        count = lib.wg_events_take(self._device, events, limit)
        return [event_from_c(events[i]) for i in range(count)]

    def send_message(self, slot: int, data: bytes, tos: int, now_ns: int) -> None:
        """Send a handshake message to the peer's endpoint.

        OSError with EDESTADDRREQ: it has none; with ELOOP: it is looped.
        """
        checked(lib.wg_message_send(self._device, slot, data, len(data), tos, now_ns))
