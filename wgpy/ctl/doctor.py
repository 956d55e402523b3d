# SPDX-License-Identifier: MIT
"""`wgpyctl doctor NAME`: what is wrong with an interface, and trials of what lies around it."""

import errno
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from wgpy.addresses import format_endpoint
from wgpy.config import Endpoint
from wgpy.ctl.doctor_file import examine_file
from wgpy.ctl.findings import ERROR, NOTE, OK, WARNING, Finding, format_finding
from wgpy.ctl.interfaces import Interfaces
from wgpy.ctl.outcome import verdict, wants_colour
from wgpy.ctl.report import coloured, format_diagnosis, plain
from wgpy.diagnosis import Code
from wgpy.linux import probes
from wgpy.linux.probes import Way, WayError
from wgpy.status import DeviceStatus, Diagnosis, PeerStatus
from wgpy.text import format_errno

PEERS_MAX: Final = 8  # whose paths are tried; each takes a second and two datagrams

_OVERHEAD: Final = 40  # bytes: UDP, and type, receiver, counter and tag of a message (5.4.6)


def examine(interfaces: Interfaces, target: str) -> int:
    """Print what is found of an interface, or of a file of wg-quick; return the exit status.

    Raises StatusError, CallError.
    """
    is_file = "/" in target or target.endswith(".conf")
    findings = examine_file(Path(target)) if is_file else examine_interface(interfaces.read(target))
    paint = coloured if wants_colour() else plain
    severities = []
    for finding in findings:
        severities.append(finding.severity)
        print(format_finding(finding, paint), flush=True)  # the next one may take a second
    return verdict(severities)


def examine_interface(status: DeviceStatus) -> Iterator[Finding]:
    """Yield what is wrong with it, then what trials find."""
    diagnoses = status.diagnoses or ()
    for diagnosis in diagnoses:
        yield Finding(str(diagnosis.severity), format_diagnosis(diagnosis))
    codes = {diagnosis.code for diagnosis in diagnoses}
    link = probes.find_link(status.interface)
    yield from _link(status, link)
    yield from _port(status, codes)
    yield from _host(status, codes)
    yield check_clock()
    mtu = status.mtu if link is None else link.mtu
    yield from _paths(status, diagnoses, mtu)


def _link(status: DeviceStatus, link: probes.Link | None) -> Iterator[Finding]:
    if link is None:
        text = f"{status.interface} is in another network namespace: the rest is seen from this one"
        yield Finding(NOTE, text)
    elif not link.up:
        text = f"the link is down: `ip link set {status.interface} up`"
        yield Finding(ERROR, text)
    else:
        yield Finding(OK, f"the link is up, with an MTU of {link.mtu}")


def _port(status: DeviceStatus, codes: Iterable[str]) -> Iterator[Finding]:
    port = status.listen_port
    if status.listening is False or not port:
        if Code.PORT_IN_USE not in codes:
            yield Finding(NOTE, "no UDP port is open: it is while the link is up")
    elif port in probes.bound_ports():
        yield Finding(OK, f"UDP port {port} is open")
    else:
        yield Finding(NOTE, f"UDP port {port} is not open in this network namespace")


def _host(status: DeviceStatus, codes: Iterable[str]) -> Iterator[Finding]:
    """Yield what is well: a diagnosis has told what is not."""
    if status.receive_buffer is not None and Code.SMALL_BUFFERS not in codes:
        text = f"{status.receive_buffer >> 10} KiB for what comes"
        limit = "" if status.rmem_max is None else f" (net.core.rmem_max is {status.rmem_max})"
        yield Finding(OK, f"the sockets have {text}{limit}")
    if status.features and Code.NO_OFFLOAD not in codes:
        yield Finding(OK, f"offloads are on: {' '.join(status.features)}")


def check_clock() -> Finding:
    """Return whether the clock can be right; peers refuse who goes back (5.4.2)."""
    if probes.is_before_program():
        text = "the clock shows a time before wgpy was installed, and peers may refuse handshakes"
        return Finding(ERROR, f"{text}: look at `date`")
    return Finding(OK, "the clock is later than wgpy's installation")


# ---- paths to peers ----


def _paths(
    status: DeviceStatus, diagnoses: Iterable[Diagnosis], mtu: int | None
) -> Iterator[Finding]:
    troubled = {diagnosis.peer for diagnosis in diagnoses}
    peers = [peer for peer in status.peers if peer.endpoint is not None]
    peers.sort(key=lambda peer: peer.public_key not in troubled)
    for peer in peers[:PEERS_MAX]:
        yield from _path(status, peer, mtu)
    if len(peers) > PEERS_MAX:
        text = f"the paths to {PEERS_MAX} peers were tried, to those in trouble first"
        yield Finding(NOTE, f"{text}, of {len(peers)} with an endpoint")


def _path(status: DeviceStatus, peer: PeerStatus, mtu: int | None) -> Iterator[Finding]:
    endpoint = peer.endpoint
    assert endpoint is not None
    way_out = probes.find_way_out(endpoint, status.fwmark, status.listen_port)
    place = format_endpoint(endpoint)
    if way_out is None:
        yield Finding(ERROR, f"there is no route to {place}: look at `ip route get`")
    elif way_out == status.interface:
        text = f"the route to {place} leads into {way_out} itself"
        yield Finding(ERROR, f"{text}: give it one by the real gateway")
    else:
        yield Finding(OK, f"the route to {place} leaves by {way_out}")
        yield from try_path(endpoint, status.fwmark, mtu)


def try_path(endpoint: Endpoint, fwmark: int, mtu: int | None) -> Iterator[Finding]:
    """Yield what a datagram to the endpoint brings back, and whether the tunnel's size fits."""
    place = format_endpoint(endpoint)
    overhead = _OVERHEAD + (20 if len(endpoint.address) == 4 else 40)
    size = None if mtu is None else mtu + overhead
    try:
        way = probes.try_way(endpoint, fwmark, size)
    except OSError as error:
        yield Finding(ERROR, f"this host does not send to {place}: {error.strerror}")
        return
    if not way.marked:
        text = "without CAP_NET_ADMIN the datagrams have not the mark of the tunnel's own"
        yield Finding(NOTE, f"{text}, and may go another way")
    yield from _way_errors(place, way)
    if size is not None:
        yield _fit(place, size, way.mtu, overhead)


def _way_errors(place: str, way: Way) -> Iterator[Finding]:
    errors = [error for error in way.errors if error.errno != errno.EMSGSIZE]
    for error in dict.fromkeys(errors):
        yield Finding(ERROR, _describe(place, error))
    if not errors:
        text = f"no error came back from the way to {place} within a second"
        yield Finding(OK, f"{text}; that does not say that anything arrives")


def _describe(place: str, error: WayError) -> str:
    who = error.reporter or "this host"
    if error.errno == errno.ECONNREFUSED:
        return f"{who} says that nothing listens at {place}: is the port right, the peer up?"
    return f"{who} says of {place}: {format_errno(error.errno)}. Look for a firewall, or a route"


def _fit(place: str, size: int, path_mtu: int, overhead: int) -> Finding:
    if size <= path_mtu:
        return Finding(OK, f"the way to {place} takes {path_mtu} bytes, and messages have {size}")
    text = f"the way to {place} takes {path_mtu} bytes, and messages have up to {size}"
    cure = f"an MTU of {path_mtu - overhead} fits"
    return Finding(WARNING, f"{text}: they are cut up, which costs speed or all of them; {cure}")
