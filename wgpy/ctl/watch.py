# SPDX-License-Identifier: MIT
"""`wgpyctl watch`: a live table of an interface's peers, by rich."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from wgpy.addresses import format_endpoint, format_prefix
from wgpy.ctl.interfaces import Interfaces
from wgpy.ctl.outcome import CallError, NoInterfaceError
from wgpy.ctl.printing import format_size, shorten_duration, shorten_key
from wgpy.ctl.report import format_diagnosis
from wgpy.status import DeviceStatus, Diagnosis, PeerStatus
from wgpy.text import printable

WIDE: Final = 120  # columns from which on there is room for allowed IPs
_DIAGNOSES_PART: Final = 4  # a fourth of the screen is the most that they get
_FRAME_LINES: Final = 3  # title, heading of the table, and what it leaves out
_STYLES: Final = {"error": "bold red", "warning": "bold magenta", "note": "bold cyan"}


@dataclass(frozen=True, slots=True)
class Rates:
    """Bytes a second."""

    received: float = 0.0
    sent: float = 0.0


@dataclass(frozen=True, slots=True)
class Moment:
    """A status, and the rates of each peer since the one before."""

    status: DeviceStatus
    rates: Mapping[bytes, Rates]

    @property
    def diagnoses(self) -> Sequence[Diagnosis]:
        """What is wrong."""
        return self.status.diagnoses or ()


def watch(interfaces: Interfaces, name: str | None) -> NoReturn:
    """Show it until a signal ends it.  Raises CallError, and StatusError when there is no more."""
    console = Console(highlight=False)
    if not console.is_terminal:
        raise CallError("watch needs a terminal; status does not")
    chosen = _choose(interfaces, name)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        for moment in _moments(interfaces.follow(chosen)):
            live.update(draw(moment, *console.size), refresh=True)
    raise NoInterfaceError(chosen)


def _choose(interfaces: Interfaces, name: str | None) -> str:
    if name is not None:
        return name
    names = interfaces.names()
    if not names:
        raise NoInterfaceError
    if len(names) > 1:
        raise CallError(printable(f"watch which of {', '.join(names)}?"))
    return names[0]


def _moments(statuses: Iterable[DeviceStatus]) -> Iterator[Moment]:
    before, before_s = None, 0.0
    for status in statuses:
        now_s = time.monotonic()
        yield Moment(status, measure_rates(before, status, now_s - before_s))
        before, before_s = status, now_s


def measure_rates(
    before: DeviceStatus | None, after: DeviceStatus, seconds: float
) -> dict[bytes, Rates]:
    """Return what went on between two statuses, nothing for peers that are new or began anew."""
    if before is None or seconds <= 0:
        return {}
    earlier = {peer.public_key: peer for peer in before.peers}
    return {
        peer.public_key: Rates(
            max(0, peer.rx_bytes - earlier[peer.public_key].rx_bytes) / seconds,
            max(0, peer.tx_bytes - earlier[peer.public_key].tx_bytes) / seconds,
        )
        for peer in after.peers
        if peer.public_key in earlier
    }


def draw(moment: Moment, width: int, height: int) -> RenderableType:
    """Return a screen of this size: title, what is wrong, and the peers that fit, worst first."""
    shown, left = _fit(moment.diagnoses, max(1, height // _DIAGNOSES_PART))
    wrong = [_diagnosis_line(diagnosis) for diagnosis in shown]
    if left:
        wrong.append(_line((f"and {left} more: wgpyctl status", "dim")))
    room = max(1, height - _FRAME_LINES - len(wrong))
    peers = _in_order(moment)
    table = _table(moment, peers[:room], wide=width >= WIDE)
    hidden = len(peers) - room
    below = [_line((f"and {hidden} more peers", "dim"))] if hidden > 0 else []
    return Group(_title(moment), *wrong, table, *below)


def _fit(diagnoses: Sequence[Diagnosis], room: int) -> tuple[Sequence[Diagnosis], int]:
    """Return those that fit, with a line for the number of the others."""
    if len(diagnoses) <= room:
        return diagnoses, 0
    return diagnoses[: room - 1], len(diagnoses) - room + 1


def _diagnosis_line(diagnosis: Diagnosis) -> Text:
    style = _STYLES[str(diagnosis.severity)]
    return _line((str(diagnosis.severity), style), " ", format_diagnosis(diagnosis))


def _line(*parts: str | tuple[str, str]) -> Text:
    """Return one that is cut where the screen ends."""
    line = Text.assemble(*parts)
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def _title(moment: Moment) -> Text:
    status, rates = moment.status, moment.rates.values()
    received, sent = sum(one.received for one in rates), sum(one.sent for one in rates)
    parts = [f"port {status.listen_port}"] if status.listen_port else []
    parts += ["up" if status.up else "down"] if status.up is not None else []
    parts += [f"mtu {status.mtu}"] if status.mtu is not None else []
    parts += [f"{len(status.peers)} peer{'' if len(status.peers) == 1 else 's'}"]
    parts += [f"in {format_size(received)}/s", f"out {format_size(sent)}/s"]
    return _line((printable(status.interface), "bold green"), "  ", "  ".join(parts))


def _in_order(moment: Moment) -> list[PeerStatus]:
    """Return peers in trouble before busy ones before those that were heard last."""
    place = {diagnosis.peer: n for n, diagnosis in reversed([*enumerate(moment.diagnoses)])}
    none = Rates()

    def key(peer: PeerStatus) -> tuple[float, float, float]:
        rates = moment.rates.get(peer.public_key, none)
        age_s = peer.last_handshake_age_s
        return (
            place.get(peer.public_key, len(place) + 1),
            -(rates.received + rates.sent),
            float("inf") if age_s is None else age_s,
        )

    return sorted(moment.status.peers, key=key)


def _table(moment: Moment, peers: Sequence[PeerStatus], *, wide: bool) -> Table:
    table = Table(box=None, expand=True, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("peer", no_wrap=True, min_width=9)
    table.add_column("endpoint", no_wrap=True, ratio=2, overflow="ellipsis")
    if wide:
        table.add_column("allowed ips", no_wrap=True, ratio=3, overflow="ellipsis")
    for heading, width in (("handshake", 9), ("in/s", 11), ("out/s", 11), ("dropped", 8)):
        table.add_column(heading, no_wrap=True, justify="right", min_width=width)
    troubled = {diagnosis.peer: str(diagnosis.severity) for diagnosis in moment.diagnoses[::-1]}
    for peer in peers:
        style = _STYLES[troubled[peer.public_key]] if peer.public_key in troubled else ""
        table.add_row(*_cells(peer, moment.rates.get(peer.public_key), style, wide=wide))
    return table


def _cells(peer: PeerStatus, rates: Rates | None, style: str, *, wide: bool) -> list[Text]:
    age_s = peer.last_handshake_age_s
    allowed = [", ".join(map(format_prefix, peer.allowed_ips)) or "(none)"] if wide else []
    texts = [
        "-" if peer.endpoint is None else format_endpoint(peer.endpoint),
        *allowed,
        "never" if age_s is None else shorten_duration(age_s),
        "-" if rates is None else format_size(rates.received),
        "-" if rates is None else format_size(rates.sent),
        str(sum(drop.count for drop in peer.drops)),
    ]
    return [Text(shorten_key(peer.public_key), style=style), *map(Text, texts)]
