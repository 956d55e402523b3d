# SPDX-License-Identifier: MIT
"""The tables of docs/speed.md and the README: medians alone, a line for what belongs together."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.report import MISSING, WGPY, Results, count, number, table

AGAIN = "retransmits"  # told, but as no multiple: it may be none


@dataclass(frozen=True, slots=True)
class Line:
    """Figures of a case."""

    title: str
    case: str
    figures: tuple[str, ...] = ("gbit_s",)
    headline: bool = False  # one of the README's


STREAM = "gbit_s", AGAIN
ONE_TWO = "kpps_one", "kpps_two"
CPU = "cpu_a_s_per_gb", "cpu_b_s_per_gb"
LINES = (
    Line("TCP over IPv4, one stream, Gbit/s", "tcp4", headline=True),
    Line("TCP over IPv6, one stream", "tcp6"),
    Line("TCP, 4 streams", "tcp4-p4"),
    Line("TCP, server sends", "tcp4-reverse"),
    Line("TCP both ways at once, sum", "tcp4-bidir"),
    Line("forwarded TCP over IPv4, and segments sent again", "forward4", STREAM),
    Line("forwarded TCP, 4 streams, and the same", "forward4-p4", STREAM),
    Line("forwarded TCP over IPv6, and the same", "forward6", STREAM),
    Line("forwarded TCP, masqueraded, and the same", "forward-nat", STREAM),
    Line("TCP through a tunnel in a tunnel, and the same", "nested", STREAM),
    Line("daemon CPU, s/GB, sender and receiver", "tcp4", CPU, headline=True),
    Line("UDP of 64 bytes, 1000 packets/s", "udp64", ("kpps",)),
    Line("UDP of 1372 bytes, 1000 packets/s", "udp1372", ("kpps",), headline=True),
    Line("sending only, on one core, 1000 packets/s", "transmit", ("kpps",)),
    Line("one peer, 1 and 2 threads: sent, 1000 packets/s", "cores-send", ONE_TWO),
    Line("one peer, 1 and 2 threads: received", "cores-receive", ONE_TWO),
    Line("TCP by 1 and 2 threads each way, Gbit/s", "cores-tcp", ("gbit_s_one", "gbit_s_two")),
    Line("round trip, idle, mean, us", "rtt-idle", ("rtt_mean_us",)),
    Line("round trip beside TCP, p99, us", "rtt-loaded", ("rtt_p99_us",), headline=True),
    Line("round trip beside a UDP flood, a tenth of a core, p99", "rtt-overload", ("rtt_p99_us",)),
    Line("round trip right after it, p99", "rtt-after", ("rtt_p99_us",)),
    Line("TCP to one of 1,000 peers, Gbit/s", "peers1000"),
    Line("resident after TCP and UDP, MB", "udp1372", ("resident_a_mb",), headline=True),
)
HEADLINES = tuple(line for line in LINES if line.headline)


def summary(results: Results, peers: Sequence[str], lines: Sequence[Line] = LINES) -> str:
    """Write every line that has a figure; wgpy's as multiples of each peer's stand at the end."""
    rows = []
    for line in lines:
        cells = [_figures(results, name, line) for name in (WGPY, *peers)]
        if any(cell != MISSING for cell in cells):
            rows.append([line.title, *cells, *(_ratios(results, peer, line) for peer in peers)])
    return table(["", WGPY, *peers, *(f"of {peer}" for peer in peers)], rows)


def _figures(results: Results, name: str, line: Line) -> str:
    return _joined(
        (count if figure == AGAIN else number)(results.median(name, line.case, figure))
        for figure in line.figures
    )


def _ratios(results: Results, peer: str, line: Line) -> str:
    return _joined(
        number(results.ratio(line.case, figure, peer)) for figure in line.figures if figure != AGAIN
    )


def _joined(cells: Iterable[str]) -> str:
    """Join with commas; what is missing altogether is missing once."""
    texts = list(cells)
    return MISSING if set(texts) == {MISSING} else ", ".join(texts)
