# SPDX-License-Identifier: MIT
"""`wgpyctl metrics`: a status as metrics for Prometheus, by prometheus_client.

The first three have the names and labels of the exporters for WireGuard that are in use, so that
their dashboards fit.
"""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from http.server import ThreadingHTTPServer
from socket import AF_INET, AF_INET6
from threading import BoundedSemaphore
from typing import Any, Final

from prometheus_client import CollectorRegistry, MetricsHandler, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from wgpy.addresses import format_prefix, parse_listen
from wgpy.ctl.interfaces import Interfaces
from wgpy.ctl.outcome import ALL, EXIT_HEALTHY, CallError, NoInterfaceError
from wgpy.errors import StatusError
from wgpy.keys import format_key
from wgpy.status import DeviceStatus, PeerStatus, Tally
from wgpy.text import printable

LOOPBACK: Final = "127.0.0.1"
CLIENTS_MAX: Final = 8  # that are served at a time
CLIENT_TIMEOUT_S: Final = 5.0  # for each piece of a request or an answer

_PEER_LABELS: Final = ("interface", "public_key", "allowed_ips", "friendly_name")
# Reasons of packets that come from the TUN; all others come from the network.
_REASONS_OUT: Final = frozenset(
    (
        "no-peer",
        "multicast",
        "invalid-frame",
        "no-endpoint",
        "looped",
        "staged",
        "send-error",
        "congested",
    )
)


class StatusMetrics:
    """The metrics of some interfaces."""

    def __init__(self, now_s: float, names: Mapping[bytes, str]) -> None:
        """Begin with none; now_s is Unix time, names those that people give to peers."""
        self._now_s = now_s
        self._names = names
        self._sent = CounterMetricFamily(
            "wireguard_sent_bytes_total", "Bytes sent to the peer", labels=_PEER_LABELS
        )
        self._received = CounterMetricFamily(
            "wireguard_received_bytes_total", "Bytes received from the peer", labels=_PEER_LABELS
        )
        self._handshake = GaugeMetricFamily(
            "wireguard_latest_handshake_seconds",
            "Unix time of the latest handshake with the peer, 0 for none",
            labels=_PEER_LABELS,
        )
        self._dropped = CounterMetricFamily(
            "wgpy_dropped_packets_total",
            "Packets dropped; public_key is empty where no peer can be named",
            labels=("interface", "public_key", "direction", "reason"),
        )
        self._refused = CounterMetricFamily(
            "wgpy_handshakes_refused_total",
            "Handshake messages refused; public_key is empty where no peer can be named",
            labels=("interface", "public_key", "reason"),
        )
        self._diagnoses = GaugeMetricFamily(
            "wgpy_diagnosis",
            "1 for each thing that is wrong; public_key is empty where it is no peer's",
            labels=("interface", "public_key", "code", "severity"),
        )
        self._readable = GaugeMetricFamily(
            "wgpy_status_readable", "Whether the status could be had", labels=("interface",)
        )

    def families(self) -> Iterator[Metric]:
        """Yield all that was added."""
        yield from (self._sent, self._received, self._handshake)
        yield from (self._dropped, self._refused, self._diagnoses, self._readable)

    def add(self, status: DeviceStatus) -> None:
        """Add an interface with its peers."""
        self._readable.add_metric((status.interface,), 1)
        self._add_tallies(status.interface, "", status.drops, status.refusals)
        for peer in status.peers:
            self._add_peer(status.interface, peer)
        for diagnosis in status.diagnoses or ():
            key = "" if diagnosis.peer is None else format_key(diagnosis.peer)
            labels = (status.interface, key, diagnosis.code, diagnosis.severity)
            self._diagnoses.add_metric(labels, 1)

    def add_unreadable(self, interface: str) -> None:
        """Add an interface that tells nothing."""
        self._readable.add_metric((printable(interface),), 0)

    def _add_peer(self, interface: str, peer: PeerStatus) -> None:
        key = format_key(peer.public_key)
        allowed_ips = ",".join(map(format_prefix, peer.allowed_ips))
        labels = (interface, key, allowed_ips, self._names.get(peer.public_key, ""))
        age_s = peer.last_handshake_age_s
        self._sent.add_metric(labels, peer.tx_bytes)
        self._received.add_metric(labels, peer.rx_bytes)
        self._handshake.add_metric(labels, 0 if age_s is None else round(self._now_s - age_s))
        self._add_tallies(interface, key, peer.drops, peer.refusals)

    def _add_tallies(
        self, interface: str, key: str, drops: Iterable[Tally], refusals: Iterable[Tally]
    ) -> None:
        for drop in drops:
            direction = "tx" if drop.reason in _REASONS_OUT else "rx"
            self._dropped.add_metric((interface, key, direction, drop.reason), drop.count)
        for refusal in refusals:
            self._refused.add_metric((interface, key, refusal.reason), refusal.count)


class _Statuses(Collector):
    """Asks for the statuses at each scrape."""

    def __init__(self, interfaces: Interfaces, name: str, names: Mapping[bytes, str]) -> None:
        self._interfaces = interfaces
        self._name = name
        self._names = names

    def collect(self) -> Iterator[Metric]:
        metrics = StatusMetrics(time.time(), self._names)
        try:
            expanded = self._interfaces.expand(self._name)
        except NoInterfaceError:
            expanded = []
        for interface in expanded:
            try:
                status = self._interfaces.read(interface)
            except StatusError:
                metrics.add_unreadable(interface)
            else:
                metrics.add(status)
        return metrics.families()


def print_metrics(interfaces: Interfaces, name: str, names: Mapping[bytes, str]) -> int:
    """Print them once, as the text that Prometheus reads.  Raises StatusError."""
    metrics = StatusMetrics(time.time(), names)
    for interface in interfaces.expand(name):
        try:
            metrics.add(interfaces.read(interface))
        except NoInterfaceError:  # one of all may have gone
            if name != ALL:
                raise
    sys.stdout.write(format_metrics(metrics))
    return EXIT_HEALTHY


def format_metrics(metrics: StatusMetrics) -> str:
    """Return the text that Prometheus reads."""
    return generate_latest(_Ready(metrics)).decode()


class _Ready(CollectorRegistry):
    """A registry of what has been collected already."""

    def __init__(self, metrics: StatusMetrics) -> None:
        super().__init__()
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return self._metrics.families()


# ---- by HTTP ----


def serve_metrics(
    interfaces: Interfaces, name: str, listen: str, names: Mapping[bytes, str]
) -> int:
    """Serve them until a signal ends it.  Raises CallError."""
    try:
        address, port = parse_listen(listen, LOOPBACK)
    except (ValueError, OSError):
        raise CallError(f"--listen takes [ADDRESS:]PORT, not {listen!r}") from None
    server = open_server(interfaces, name, address, port, names)
    with server:
        server.serve_forever()
    return EXIT_HEALTHY


def open_server(
    interfaces: Interfaces, name: str, address: str, port: int, names: Mapping[bytes, str]
) -> ThreadingHTTPServer:
    """Return a server that listens; the caller runs and closes it.  Raises CallError."""
    registry = CollectorRegistry()
    registry.register(_Statuses(interfaces, name, names))
    handler = type("Handler", (_Handler,), {"registry": registry})
    family = AF_INET6 if ":" in address else AF_INET
    kind = type("Server", (_Server,), {"address_family": family})
    try:
        server: ThreadingHTTPServer = kind((address, port), handler)
    except OSError as error:
        raise CallError(f"cannot listen on {address} port {port}: {error.strerror}") from None
    return server


class _Handler(MetricsHandler):
    timeout = CLIENT_TIMEOUT_S


class _Server(ThreadingHTTPServer):
    """Hangs up on whoever comes while CLIENTS_MAX are served."""

    daemon_threads = True

    def __init__(self, *arguments: Any) -> None:
        self._free = BoundedSemaphore(CLIENTS_MAX)
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that leave."""
