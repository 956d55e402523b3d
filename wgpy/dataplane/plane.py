"""The only module that touches ffi and lib: typed calls into the C data plane, and its threads."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from wgpy.config import AllowedIP, Endpoint


@dataclass(frozen=True, slots=True)
class PlaneIO:
    """Descriptors lent to the data threads, -1 for a missing one; features are Feature bits."""

    tun_fd: int
    udp4_fd: int
    udp6_fd: int
    features: int


@dataclass(frozen=True, slots=True)
class Session:
    """One session to install; keys are raw, receive direction first as the peer's sending key."""

    send_key: bytes = field(repr=False)
    receive_key: bytes = field(repr=False)
    local_index: int
    remote_index: int
    created_ns: int
    initiator: bool


@dataclass(frozen=True, slots=True)
class PeerStats:
    """Traffic counters (bytes) and stamps (ns, 0 = never) of one peer; see wg_peer_stats in api.h."""

    tx_bytes: int
    rx_bytes: int
    tx_any_ns: int
    rx_any_ns: int
    tx_data_ns: int
    rx_data_ns: int
    tx_unanswered_since_ns: int
    rx_unanswered_since_ns: int
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


@dataclass(frozen=True, slots=True)
class MessageEvent:
    """A handshake message whose size, type and mac1 (initiation) or index (others) C found right."""

    slot: int | None
    data: bytes
    source: Endpoint
    received_ns: int


class Plane:
    """The C device.  All methods are for the control thread; OSError carries C's errno."""

    event_fd: int  # readable when take_events has something, or a data thread ended by itself

    def __init__(self, aead: str | None = None) -> None: ...
    def close(self) -> None: ...
    @property
    def aead(self) -> str: ...
    def now_ns(self) -> int: ...
    def advance_clock(self, by_ns: int) -> None: ...
    def set_mtu(self, mtu: int) -> None: ...
    def set_mac1_key(self, key: bytes | None) -> None: ...
    def counters(self) -> dict[str, int]: ...

    def start(self, io: PlaneIO) -> None: ...
    def stop(self) -> None: ...
    @property
    def running(self) -> bool: ...
    @property
    def failure(self) -> OSError | None: ...  # why a data thread ended by itself (EBADFD: TUN deleted)

    def add_peer(self) -> int: ...  # -> slot
    def remove_peer(self, slot: int) -> None: ...
    def set_endpoint(self, slot: int, endpoint: Endpoint) -> None: ...
    def clear_source(self, slot: int) -> None: ...
    def set_handshake_gate(self, slot: int, gate_ns: int) -> None: ...
    def set_wake(self, slot: int, wake_ns: int | None) -> None: ...  # None: never
    def rearm_keepalive(self, slot: int, since_ns: int) -> None: ...
    def stats(self, slot: int) -> PeerStats: ...
    def kick(self, slot: int, *, keepalive: bool) -> None: ...
    def drop_staged(self, slot: int) -> None: ...
    def peer_received(self, slot: int, source: Endpoint, length: int, now_ns: int) -> None: ...

    def change_allowed_ips(self, slot: int, entries: Sequence[AllowedIP]) -> None: ...
    def clear_allowed_ips(self, slot: int) -> None: ...
    def allowed_ips(self, slot: int) -> list[AllowedIP]: ...
    def lookup(self, address: bytes) -> int | None: ...

    def reserve_index(self, slot: int) -> int: ...
    def release_index(self, index: int) -> None: ...
    def install_keypair(self, slot: int, session: Session) -> None: ...
    def confirm_keypair(self, slot: int) -> None: ...
    def expire_keypairs(self, slot: int) -> None: ...
    def drop_keypairs(self, slot: int) -> None: ...

    def take_events(self, limit: int = 64) -> list[PendingEvent | MessageEvent]: ...
    def send_message(
        self, slot: int | None, to: Endpoint | None, data: bytes, tos: int, now_ns: int
    ) -> None: ...
