"""The only module that touches ffi and lib: typed calls into the C data plane, and its threads."""

import errno
import os
import signal
import struct
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from socket import AF_INET, AF_INET6
from typing import Any, Final

from wgpy.config import KEY_LEN, AllowedIP, Endpoint
from wgpy.ports import Feature

try:
    from wgpy.dataplane._core import ffi, lib
except ModuleNotFoundError as error:
    raise ImportError(
        f"{Path(__file__).parents[2]} is a checkout of wgpy in which nothing is built for this "
        f"Python ({sys.version.split()[0]}): either `pip install -e` it, or let Python look "
        "elsewhere for the wgpy that is installed (another working directory, or `python -P`)"
    ) from error

# Implementation constants; api.h is their home.
MAX_PEERS: Final[int] = lib.WG_MAX_PEERS
MAX_WORKERS: Final[int] = lib.WG_MAX_WORKERS
FEW_ALLOWED_IPS: Final = 16  # most peers have no more

_ADDRESS_FAMILY: Final = {4: AF_INET, 16: AF_INET6}
_ADDRESS_LEN: Final = {AF_INET: 4, AF_INET6: 16}
_IP_VERSION: Final = {4: 4, 16: 6}  # address length -> wg_allowedip.family
_ALLOWED_IP: Final = struct.Struct("16sBBBx")  # wg_allowedip


@dataclass(frozen=True, slots=True)
class WorkerIO:
    """Descriptors of one worker, -1 for a missing one."""

    tun_fd: int
    udp4_fd: int
    udp6_fd: int


@dataclass(frozen=True, slots=True)
class PlaneIO:
    """What is lent to the data threads; features are Feature bits."""

    workers: tuple[WorkerIO, ...]
    features: Feature


@dataclass(frozen=True, slots=True)
class Session:
    """One session to install; keys are raw, receive direction first as the peer's sending key."""

    send_key: bytes = field(repr=False)
    receive_key: bytes = field(repr=False)
    local_index: int
    remote_index: int
    created_ns: int
    initiator: bool


@dataclass(slots=True)  # not frozen: that makes each take five times as long to make
class PeerStats:
    """Traffic counters (bytes) and stamps (ns, 0 = never) of a peer; see wg_peer_stats in api.h."""

    tx_bytes: int
    rx_bytes: int
    tx_any_ns: int
    rx_any_ns: int
    tx_data_ns: int
    rx_data_ns: int
    tx_unanswered_since_ns: int
    rx_unanswered_since_ns: int
    tx_congested: int
    staged: int
    sessions: int
    endpoint: Endpoint | None


@dataclass(frozen=True, slots=True)
class PendingEvent:
    """Bits of enum wg_pending for the peer in slot."""

    slot: int
    want_handshake: bool
    key_confirmed: bool
    timer_armed: bool
    loop_seen: bool = False


@dataclass(frozen=True, slots=True)
class MessageEvent:
    """A handshake message that C found right so far.

    Size and type; mac1, and mac2 under load, but for a cookie reply; index, but for an initiation,
    which has no slot.
    """

    slot: int | None
    data: bytes
    source: Endpoint


def aead_backends() -> tuple[str, ...]:
    """Name the AEAD backends that were built in and work here, fastest first."""
    return tuple(ffi.string(lib.wg_aead_backends()).decode().split(","))


def _checked(result: int) -> int:
    """Pass a C result on; raise OSError for -errno."""
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


def _endpoint_to_c(endpoint: Endpoint) -> Any:
    """Make a new wg_endpoint.  ValueError: an address that is neither 4 nor 16 bytes."""
    size = len(endpoint.address)
    if size not in _ADDRESS_FAMILY or len(endpoint.source) not in (0, size):
        raise ValueError("an endpoint's address and source have 4 or 16 bytes")
    out = ffi.new("wg_endpoint *")
    out.family = _ADDRESS_FAMILY[size]
    out.port = endpoint.port
    out.scope_id = endpoint.scope_id
    ffi.memmove(out.addr, endpoint.address, size)
    ffi.memmove(out.source, endpoint.source, len(endpoint.source))
    out.source_ifindex = endpoint.source_ifindex
    return out


def _endpoint_from_c(c: Any) -> Endpoint | None:
    if not c.family:
        return None
    size = _ADDRESS_LEN[c.family]
    source = bytes(ffi.buffer(c.source, size))
    return Endpoint(
        address=bytes(ffi.buffer(c.addr, size)),
        port=c.port,
        scope_id=c.scope_id,
        source=source if any(source) else b"",
        source_ifindex=c.source_ifindex,
    )


def _event_from_c(c: Any) -> PendingEvent | MessageEvent:
    if c.kind == lib.WG_EVENT_PENDING:
        return PendingEvent(
            slot=c.slot,
            want_handshake=bool(c.pending & lib.WG_WANT_HANDSHAKE),
            key_confirmed=bool(c.pending & lib.WG_KEY_CONFIRMED),
            timer_armed=bool(c.pending & lib.WG_TIMER_ARMED),
            loop_seen=bool(c.pending & lib.WG_LOOP_SEEN),
        )
    source = _endpoint_from_c(c.source)
    assert source is not None, "every datagram has a source"
    return MessageEvent(
        slot=None if c.slot == lib.WG_NO_SLOT else c.slot,
        data=bytes(ffi.buffer(c.data, c.length)),
        source=source,
    )


def _pack_allowed_ips(entries: Iterable[AllowedIP]) -> bytes:
    pack = _ALLOWED_IP.pack
    try:
        return b"".join(
            [
                pack(address, _IP_VERSION[len(address)], cidr, remove)
                for address, cidr, remove in entries
            ]
        )
    except (KeyError, struct.error):
        raise OSError(errno.EINVAL, "not an address of 4 or 16 bytes with a prefix") from None


def _require_key(key: bytes) -> bytes:
    if len(key) != KEY_LEN:
        raise ValueError(f"a key has {KEY_LEN} bytes")
    return key


class Plane:
    """The C device.  All methods are for the control thread; OSError carries C's errno.

    A slot that holds no peer gives ENOENT.  After close() nothing may be called but close().
    """

    event_fd: int  # readable when take_events has something, or a data thread ended by itself

    def __init__(self, aead: str | None = None, workers: int = 1) -> None:
        """Create a device without peers, for 1 to MAX_WORKERS data threads per direction.

        `aead` names one of aead_backends(); None is the fastest.  OSError with ENOENT: no such one;
        with EINVAL: another number of workers.
        """
        self._workers = workers
        self._eventfds: list[int] = []
        self._device: Any = None
        self._threads: list[threading.Thread] = []
        self._failure: OSError | None = None
        self._stats = ffi.new("wg_peer_stats *")  # for stats() to read into, again and again
        self._few_allowed_ips = ffi.new(
            "wg_allowedip[]", FEW_ALLOWED_IPS
        )  # for allowed_ips(), likewise
        try:
            for _ in range(2 + workers):
                self._eventfds.append(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
            events, wake_receive, *wake_send = self._eventfds
            device = ffi.new("wg_device **")
            name = ffi.NULL if aead is None else aead.encode()
            _checked(lib.wg_device_create(device, workers, events, wake_receive, wake_send, name))
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

    def set_mac1_key(self, key: bytes | None) -> None:
        """Set BLAKE2s(LABEL_MAC1 || our public key) (5.4.4); None refuses what carries a mac1."""
        c_key = ffi.NULL if key is None else _require_key(key)
        _checked(lib.wg_device_set_mac1_key(self._device, c_key))

    def set_cookie_key(self, key: bytes | None) -> None:
        """Set BLAKE2s(LABEL_COOKIE || our public key) (5.4.7); with None no cookie is given."""
        c_key = ffi.NULL if key is None else _require_key(key)
        _checked(lib.wg_device_set_cookie_key(self._device, c_key))

    def counters(self) -> dict[str, int]:
        """Return all of wg_counters in api.h, by field name."""
        counters = ffi.new("wg_counters *")
        lib.wg_device_counters(self._device, counters)
        return {name: getattr(counters, name) for name, _ in ffi.typeof("wg_counters").fields}

    # ---- data threads

    def start(self, io: PlaneIO) -> None:
        """Lend the descriptors of `io` to new data threads until stop().

        OSError with EBUSY: they run already.  ValueError: another number of workers.
        """
        if len(io.workers) != self._workers:
            raise ValueError(f"descriptors of {len(io.workers)} workers for {self._workers}")
        workers = [(worker.tun_fd, worker.udp4_fd, worker.udp6_fd) for worker in io.workers]
        c_io = ffi.new("wg_io *", (workers, io.features))
        _checked(lib.wg_device_start(self._device, c_io))
        self._failure = None
        try:
            for worker in range(self._workers):
                self._start_thread(f"wgpy-send-{worker}", lib.wg_send_run, worker)
                self._start_thread(f"wgpy-receive-{worker}", lib.wg_receive_run, worker)
        except BaseException:
            self.stop()
            raise

    def _start_thread(self, name: str, run: Callable[[Any, int], int], worker: int) -> None:
        thread = threading.Thread(target=self._run, name=name, args=(run, worker))
        thread.start()
        self._threads.append(thread)

    def _run(self, run: Callable[[Any, int], int], worker: int) -> None:
        # Signals are for the main thread: here they would only interrupt system calls.
        signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        result = run(self._device, worker)
        if result < 0:
            self._failure = OSError(-result, os.strerror(-result))
            os.eventfd_write(self.event_fd, 1)

    def stop(self) -> None:
        """End the data threads and give the descriptors back.  More than once is fine."""
        if self._device is not None:
            lib.wg_device_stop(self._device)
        while self._threads:
            self._threads.pop().join()

    @property
    def failure(self) -> OSError | None:
        """Why a data thread ended by itself since start() (EBADFD: the TUN device is gone)."""
        return self._failure

    # ---- peers

    def add_peer(self) -> int:
        """Make a peer and return its slot.  OSError with ENOSPC: there are MAX_PEERS."""
        slot = ffi.new("uint32_t *")
        _checked(lib.wg_peer_add(self._device, slot))
        return int(slot[0])

    def remove_peer(self, slot: int) -> None:
        """Forget the peer, its sessions, prefixes, indexes, staged packets and waiting events."""
        _checked(lib.wg_peer_remove(self._device, slot))

    def set_endpoint(self, slot: int, endpoint: Endpoint) -> None:
        """Set where the peer is; the sticky source is taken from `endpoint` too."""
        _checked(lib.wg_peer_set_endpoint(self._device, slot, _endpoint_to_c(endpoint)))

    def clear_source(self, slot: int) -> None:
        """Forget the sticky source: the kernel chooses the next one."""
        _checked(lib.wg_peer_clear_source(self._device, slot))

    def allow_source(self, slot: int, path: Endpoint, allowed: bool) -> None:
        """Send from the sticky source again, or no more, for as long as `path` is the peer's.

        A path is the address of the peer, the source and its interface.
        """
        _checked(lib.wg_peer_allow_source(self._device, slot, _endpoint_to_c(path), allowed))

    def set_looped(self, slot: int, endpoint: Endpoint, looped: bool) -> None:
        """Send nothing to the peer, or something again, for as long as `endpoint` is the peer's.

        Looped is an endpoint if what is sent there comes back to go to the peer.
        """
        _checked(lib.wg_peer_set_looped(self._device, slot, _endpoint_to_c(endpoint), looped))

    def set_handshake_gate(self, slot: int, gate_ns: int) -> None:
        """Ask for no handshake before gate_ns."""
        _checked(lib.wg_peer_set_handshake_gate(self._device, slot, gate_ns))

    def set_wake(self, slot: int, wake_ns: int | None) -> None:
        """Say when control will look at the peer's timers next by itself; None: never.

        Raises no event for what has happened before: read stats() afterwards.
        """
        c_wake = lib.WG_NEVER if wake_ns is None else wake_ns
        _checked(lib.wg_peer_set_wake(self._device, slot, c_wake))

    def rearm_keepalive(self, slot: int, since_ns: int) -> None:
        """Set rx_unanswered_since_ns: payload came again after what the last keepalive answered."""
        _checked(lib.wg_peer_rearm_keepalive(self._device, slot, since_ns))

    def stats(self, slot: int) -> PeerStats:
        """Read counters, stamps and endpoint."""
        c = self._stats
        _checked(lib.wg_peer_stats_read(self._device, slot, c))
        return PeerStats(
            tx_bytes=c.tx_bytes,
            rx_bytes=c.rx_bytes,
            tx_any_ns=c.tx_any_ns,
            rx_any_ns=c.rx_any_ns,
            tx_data_ns=c.tx_data_ns,
            rx_data_ns=c.rx_data_ns,
            tx_unanswered_since_ns=c.tx_unanswered_since_ns,
            rx_unanswered_since_ns=c.rx_unanswered_since_ns,
            tx_congested=c.tx_congested,
            staged=c.staged,
            sessions=c.sessions,
            endpoint=_endpoint_from_c(c.endpoint),
        )

    def kick(self, slot: int, *, keepalive: bool) -> None:
        """Let the send thread send what is staged, or with `keepalive` at least an empty packet."""
        kinds = lib.WG_KICK_KEEPALIVE if keepalive else lib.WG_KICK_STAGED
        _checked(lib.wg_peer_kick(self._device, slot, kinds))

    def drop_staged(self, slot: int) -> None:
        """Drop the packets that wait for a session."""
        _checked(lib.wg_peer_drop_staged(self._device, slot))

    def peer_received(self, slot: int, source: Endpoint, length: int, now_ns: int) -> None:
        """Roam, count and stamp for a handshake message that proved to be the peer's."""
        c_source = _endpoint_to_c(source)
        _checked(lib.wg_peer_received(self._device, slot, c_source, length, now_ns))

    # ---- allowed IPs

    def change_allowed_ips(self, slot: int, entries: Sequence[AllowedIP]) -> None:
        """Apply all entries in order, or none (OSError with EINVAL or ENOMEM).

        Host bits are masked.  A prefix of another peer moves here.
        """
        c_entries = ffi.from_buffer("wg_allowedip[]", _pack_allowed_ips(entries))
        _checked(lib.wg_allowedips_change(self._device, slot, c_entries, len(entries)))

    def replace_allowed_ips(self, slot: int, entries: Sequence[AllowedIP]) -> None:
        """Apply all entries, or none, and take away what the peer had before.

        A prefix that it had and gets again belongs to it throughout: no packet is lost.
        """
        c_entries = ffi.from_buffer("wg_allowedip[]", _pack_allowed_ips(entries))
        _checked(lib.wg_allowedips_replace(self._device, slot, c_entries, len(entries)))

    def allowed_ips(self, slot: int) -> list[AllowedIP]:
        """List the peer's prefixes in order of insertion."""
        entries = self._few_allowed_ips
        count = _checked(lib.wg_allowedips_list(self._device, slot, entries, FEW_ALLOWED_IPS))
        if count > FEW_ALLOWED_IPS:
            entries = ffi.new("wg_allowedip[]", count)
            _checked(lib.wg_allowedips_list(self._device, slot, entries, count))
        used = ffi.buffer(entries, count * _ALLOWED_IP.size)
        new = tuple.__new__  # AllowedIP() takes twice as long
        return [
            new(AllowedIP, (address if version == 6 else address[:4], cidr, False))
            for address, version, cidr, _remove in _ALLOWED_IP.iter_unpack(used)
        ]

    def lookup(self, address: bytes) -> int | None:
        """Find the slot that packets to `address` (4 or 16 bytes) belong to."""
        slot = lib.wg_allowedips_lookup(self._device, _IP_VERSION[len(address)], address)
        return None if slot == lib.WG_NO_SLOT else int(slot)

    # ---- sessions

    def reserve_index(self, slot: int) -> int:
        """Reserve a random index that no handshake or session of this device uses."""
        index = ffi.new("uint32_t *")
        _checked(lib.wg_index_reserve(self._device, slot, index))
        return int(index[0])

    def release_index(self, index: int) -> None:
        """Give back a handshake's index.  OSError: ENOENT not in use, EBUSY a session has it."""
        _checked(lib.wg_index_release(self._device, index))

    def install_keypair(self, slot: int, session: Session) -> None:
        """Hand a session over.  OSError with EINVAL: local_index is not reserved for this peer."""
        c = ffi.new("wg_session *")
        ffi.memmove(c.send_key, _require_key(session.send_key), KEY_LEN)
        ffi.memmove(c.receive_key, _require_key(session.receive_key), KEY_LEN)
        c.local_index = session.local_index
        c.remote_index = session.remote_index
        c.created_ns = session.created_ns
        c.initiator = session.initiator
        try:
            _checked(lib.wg_keypair_install(self._device, slot, c))
        finally:
            ffi.buffer(c)[:] = bytes(ffi.sizeof("wg_session"))

    def confirm_keypair(self, slot: int) -> None:
        """Make next current if the peer has used it; else nothing changes."""
        _checked(lib.wg_keypair_confirm(self._device, slot))

    def expire_keypairs(self, slot: int) -> None:
        """Send nothing more with current and next; they still receive."""
        _checked(lib.wg_keypairs_expire(self._device, slot))

    def drop_keypairs(self, slot: int) -> None:
        """Wipe all sessions of the peer."""
        _checked(lib.wg_keypairs_drop(self._device, slot))

    # ---- the two inboxes

    def take_events(self, limit: int = 64) -> list[PendingEvent | MessageEvent]:
        """Take up to `limit` events: keys and timers, messages, wishes for a handshake.

        The wishes are at most a quarter of the limit, so that nothing else waits long for them;
        they are events by themselves.  event_fd is readable afterwards if something is left.
        """
        events = ffi.new("wg_event[]", limit)
        count = lib.wg_events_take(self._device, events, limit)
        return [_event_from_c(events[i]) for i in range(count)]

    def send_message(self, slot: int, data: bytes, tos: int, now_ns: int) -> None:
        """Send a handshake message to the peer's endpoint.

        OSError with EDESTADDRREQ: it has none; with ELOOP: it is looped.
        """
        _checked(lib.wg_message_send(self._device, slot, data, len(data), tos, now_ns))
