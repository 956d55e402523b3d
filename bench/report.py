# SPDX-License-Identifier: MIT
"""Samples -> medians, ratios, targets, and the Markdown that tells of them.  No I/O."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

WGPY = "wgpy"
REFERENCE = "wireguard-go"  # whom the targets are against that name nobody
TAILSCALE = "tailscale"  # its fork of it
FORWARDED = "forward4", "forward4-p4", "forward6", "forward-nat"
ALL_OFF = "wgpy, all off"
MISSING = "-"


@dataclass(frozen=True, slots=True)
class Sample:
    """One case measured once.  error says why figures are missing, if they should not be."""

    round: int
    implementation: str
    case: str
    figures: Mapping[str, float]
    error: str = ""


@dataclass(frozen=True, slots=True)
class Spread:
    """Of one figure over the rounds."""

    median: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the main table: a case's main figure."""

    case: str
    figure: str
    title: str
    unit: str
    is_count: bool = False  # of what should not be: a multiple of it says nothing


ROWS = (
    Row("tcp4", "gbit_s", "TCP over IPv4, one stream", "Gbit/s"),
    Row("tcp6", "gbit_s", "TCP over IPv6, one stream", "Gbit/s"),
    Row("tcp4-p4", "gbit_s", "TCP, 4 streams", "Gbit/s"),
    Row("tcp4-reverse", "gbit_s", "TCP, server sends", "Gbit/s"),
    Row("tcp4-bidir", "gbit_s", "TCP both ways at once, sum", "Gbit/s"),
    Row("forward4", "gbit_s", "forwarded TCP over IPv4, one stream", "Gbit/s"),
    Row("forward4", "retransmits", "segments it sent again", "1", is_count=True),
    Row("forward4-p4", "gbit_s", "forwarded TCP, 4 streams", "Gbit/s"),
    Row("forward4-p4", "retransmits", "segments they sent again", "1", is_count=True),
    Row("forward6", "gbit_s", "forwarded TCP over IPv6, one stream", "Gbit/s"),
    Row("forward6", "retransmits", "segments it sent again", "1", is_count=True),
    Row("forward-nat", "gbit_s", "forwarded TCP, masqueraded", "Gbit/s"),
    Row("forward-nat", "retransmits", "segments it sent again", "1", is_count=True),
    Row("nested", "gbit_s", "TCP through a tunnel in a tunnel", "Gbit/s"),
    Row("nested", "retransmits", "segments it sent again", "1", is_count=True),
    Row("udp64", "kpps", "UDP of 64 bytes carried", "1000/s"),
    Row("udp1372", "kpps", "UDP of 1372 bytes carried", "1000/s"),
    Row("rtt-idle", "rtt_mean_us", "round trip, idle, mean", "us"),
    Row("rtt-idle", "rtt_p50_us", "round trip, idle, median", "us"),
    Row("rtt-idle", "rtt_p99_us", "round trip, idle, p99", "us"),
    Row("rtt-loaded", "rtt_p50_us", "round trip beside TCP, median", "us"),
    Row("rtt-loaded", "rtt_p99_us", "round trip beside TCP, p99", "us"),
    Row("rtt-overload", "rtt_p50_us", "round trip beside UDP overload, median", "us"),
    Row("rtt-overload", "rtt_p99_us", "round trip beside UDP overload, p99", "us"),
    Row("rtt-after", "rtt_p99_us", "round trip right after it, p99", "us"),
    Row("peers1000", "gbit_s", "TCP with 999 idle peers more", "Gbit/s"),
    Row("peers1000", "of_one_peer", "the same, of that without", "1"),
    Row("transmit", "kpps", "sending only, on one core, of 1372 bytes", "1000/s"),
    Row("transmit", "daemon_busy", "the daemon's share of that core", "1"),
    Row("cores-send", "kpps_one", "sending to one peer, one thread on one core", "1000/s"),
    Row("cores-send", "kpps_two", "the same, two on two", "1000/s"),
    Row("cores-receive", "kpps_one", "receiving from one peer, one thread on one core", "1000/s"),
    Row("cores-receive", "kpps_two", "the same, two on two", "1000/s"),
    Row("cores-tcp", "gbit_s_one", "TCP by one thread each way", "Gbit/s"),
    Row("cores-tcp", "gbit_s_two", "TCP by two threads each way", "Gbit/s"),
    Row("cores-tcp", "retransmits_one", "segments sent again by one", "1", is_count=True),
    Row("cores-tcp", "retransmits_two", "segments sent again by two", "1", is_count=True),
)
COSTS = (
    ("CPU s/GB", "cpu_{}_s_per_gb"),
    ("resident MB", "resident_{}_mb"),
    ("context switches/GB", "switches_{}_per_gb"),
    ("system calls/GB", "syscalls_{}_per_gb"),
)


class Results:
    """What the samples say together."""

    def __init__(
        self,
        samples: Sequence[Sample],
        soak: Sequence[Mapping[str, float]] = (),
        seal_ns: float | None = None,
    ) -> None:
        """Take wgpy's memory over time, and what sealing a packet of `transmit` takes (seal_ns)."""
        self.samples = samples
        self.soak = soak
        self.seal_ns = seal_ns
        self._values: dict[tuple[str, str, str], list[float]] = {}
        for sample in samples:
            for figure, value in sample.figures.items():
                key = sample.implementation, sample.case, figure
                self._values.setdefault(key, []).append(value)

    @property
    def implementations(self) -> list[str]:
        """All that have figures, in the order of the samples."""
        return list(dict.fromkeys(name for name, _case, _figure in self._values))

    @property
    def cases(self) -> list[str]:
        """Likewise."""
        return list(dict.fromkeys(case for _name, case, _figure in self._values))

    def spread(self, implementation: str, case: str, figure: str) -> Spread | None:
        """Return median and range; None if it was not measured."""
        values = self._values.get((implementation, case, figure))
        if not values:
            return None
        return Spread(statistics.median(values), min(values), max(values))

    def median(self, implementation: str, case: str, figure: str) -> float | None:
        """Return the middle one; None if it was not measured."""
        spread = self.spread(implementation, case, figure)
        return None if spread is None else spread.median

    def ratio(self, case: str, figure: str, peer: str, of: str = WGPY) -> float | None:
        """Divide two implementations' medians; None if there is none."""
        mine, others = self.median(of, case, figure), self.median(peer, case, figure)
        return None if mine is None or not others else mine / others

    @staticmethod
    def worst(*values: float | None, of: Callable[[Iterable[float]], float] = max) -> float | None:
        """Pick the largest, or what else is worst; None if one is missing."""
        known = [value for value in values if value is not None]
        return of(known) if len(known) == len(values) else None

    def resident_mb(self) -> float | None:
        """Find the most that either daemon of wgpy ever held with one peer."""
        values = [
            value
            for (name, case, figure), values in self._values.items()
            if name == WGPY and case != "peers1000" and figure.startswith("resident_")
            for value in values
        ]
        return max(values, default=None)

    def soak_growth_mb(self) -> float | None:
        """Tell by how much the daemon that grew more grew, after a tenth to warm up."""
        tenth = len(self.soak) // 10
        if tenth == 0:
            return None
        early, late = self.soak[tenth : 2 * tenth], self.soak[-tenth:]
        return max(
            statistics.mean(sample[name] for sample in late)
            - statistics.mean(sample[name] for sample in early)
            for name in self.soak[0]
            if name != "at_s"
        )

    def transmit_of_limit(self) -> float | None:
        """Divide the packets sent by one core by what it could seal if it did nothing else."""
        kpps = self.median(WGPY, "transmit", "kpps")
        return None if kpps is None or self.seal_ns is None else kpps * 1e3 * self.seal_ns / 1e9


# ---- targets ----


@dataclass(frozen=True, slots=True)
class Target:
    """A promise: a value, and the bound that it has to keep."""

    title: str
    value: Callable[[Results], float | None]
    bound: float
    at_least: bool = True
    unit: str = ""

    def is_met(self, value: float) -> bool:
        """Tell whether it keeps the bound."""
        return value >= self.bound if self.at_least else value <= self.bound


def _times(case: str, figure: str) -> Callable[[Results], float | None]:
    return lambda results: results.ratio(case, figure, REFERENCE)


def _cpu(results: Results) -> float | None:
    ends = (results.ratio("tcp4", f"cpu_{end}_s_per_gb", REFERENCE) for end in "ab")
    return results.worst(*ends)


def _forwarded(peer: str) -> Callable[[Results], float | None]:
    """Find the smallest multiple of the peer's throughput."""

    def value(results: Results) -> float | None:
        return results.worst(*(results.ratio(case, "gbit_s", peer) for case in FORWARDED), of=min)

    return value


def _sent_again(results: Results) -> float | None:
    return results.worst(*(results.median(WGPY, case, "retransmits") for case in FORWARDED))


def _ablation(results: Results) -> float | None:
    return results.ratio("tcp4", "gbit_s", ALL_OFF)


def _peers(results: Results) -> float | None:
    return results.median(WGPY, "peers1000", "of_one_peer")


TARGETS = (
    Target("TCP over IPv4, one stream", _times("tcp4", "gbit_s"), 2.0, unit="x"),
    Target("TCP over IPv6, one stream", _times("tcp6", "gbit_s"), 2.0, unit="x"),
    Target("TCP, 4 streams", _times("tcp4-p4", "gbit_s"), 2.0, unit="x"),
    Target("TCP, server sends", _times("tcp4-reverse", "gbit_s"), 2.1, unit="x"),
    Target("TCP both ways, sum", _times("tcp4-bidir", "gbit_s"), 2.1, unit="x"),
    Target("forwarded TCP, the worst case", _forwarded(REFERENCE), 2.2, unit="x"),
    Target("the same, of tailscale", _forwarded(TAILSCALE), 1.6, unit="x"),
    Target("segments sent again, the worst of these", _sent_again, 100, at_least=False),
    Target("daemon CPU per GB, the worse end", _cpu, 0.45, at_least=False, unit="x"),
    Target("UDP of 64 bytes", _times("udp64", "kpps"), 5.0, unit="x"),
    Target("UDP of 1372 bytes", _times("udp1372", "kpps"), 4.0, unit="x"),
    Target("round trip, idle, mean", _times("rtt-idle", "rtt_mean_us"), 0.6, False, "x"),
    Target("round trip beside TCP, p99", _times("rtt-loaded", "rtt_p99_us"), 0.6, False, "x"),
    Target(
        "round trip beside overload, p99", _times("rtt-overload", "rtt_p99_us"), 0.5, False, "x"
    ),
    Target("all offloads on against all off, TCP", _ablation, 4.0, unit="x"),
    Target("resident memory, one peer", Results.resident_mb, 64.0, False, " MB"),
    Target("its growth under load", Results.soak_growth_mb, 1.0, False, " MB"),
    Target("sending on one core, of what it can seal", Results.transmit_of_limit, 0.5),
    Target("throughput with 1,000 peers, of that with one", _peers, 0.97),
)


def verdicts(results: Results) -> list[dict[str, object]]:
    """Return all targets, for the JSON; value and met are None if it was not measured."""
    values = [(target, target.value(results)) for target in TARGETS]
    return [
        {
            "title": target.title,
            "bound": target.bound,
            "at_least": target.at_least,
            "value": value,
            "met": None if value is None else target.is_met(value),
        }
        for target, value in values
    ]


# ---- Markdown ----


def number(value: float | None) -> str:
    """Write two or three digits that say something."""
    if value is None:
        return MISSING
    if 0 < abs(value) < 0.1:
        return f"{value:.2g}"
    places = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{places}f}"


def count(value: float | None) -> str:
    """Write a whole number."""
    return MISSING if value is None else f"{value:.0f}"


def spread_text(spread: Spread | None, text: Callable[[float | None], str] = number) -> str:
    """Write the median, and between what it lies."""
    if spread is None:
        return MISSING
    return f"{text(spread.median)} ({text(spread.least)}..{text(spread.most)})"


def times(ratio: float | None) -> str:
    """Write it as in 2.1x."""
    return MISSING if ratio is None else f"{number(ratio)}x"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table; the first column is text, the others numbers."""
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *rows)) + "\n"


def main_table(results: Results, peers: Sequence[str]) -> str:
    """Tell each case's main figure for wgpy and its peers, and wgpy's as a multiple of theirs."""
    rows = []
    for row in ROWS:
        spreads = [results.spread(name, row.case, row.figure) for name in (WGPY, *peers)]
        if any(spreads):
            cells = [spread_text(spread, count if row.is_count else number) for spread in spreads]
            ratios = [times(_row_ratio(results, row, peer)) for peer in peers]
            rows.append([row.title, row.unit, *cells, *ratios])
    return table(["", "unit", WGPY, *peers, *(f"of {peer}" for peer in peers)], rows)


def _row_ratio(results: Results, row: Row, peer: str) -> float | None:
    return None if row.is_count else results.ratio(row.case, row.figure, peer)


def cost_table(results: Results, names: Sequence[str]) -> str:
    """Tell what the daemons took, client's end / server's end."""
    rows = []
    for case in results.cases:
        for name in names:
            ends = [
                [results.median(name, case, figure.format(end)) for end in "ab"]
                for _title, figure in COSTS
            ]
            if ends[0] != [None, None]:
                cells = (" / ".join(map(number, pair)) for pair in ends)
                rows.append([f"{case}, {name}", *cells])
    return table(["client / server", *(title for title, _figure in COSTS)], rows)


def target_table(results: Results) -> str:
    """Tell bounds, values, and whether they were met."""
    rows = []
    for target in TARGETS:
        value = target.value(results)
        bound = f"{'>=' if target.at_least else '<='} {number(target.bound)}{target.unit}"
        if value is None:
            rows.append([target.title, bound, MISSING, "not measured"])
        else:
            met = "yes" if target.is_met(value) else "**no**"
            rows.append([target.title, bound, f"{number(value)}{target.unit}", met])
    return table(["target", "bound", "measured", "met"], rows)


def ablation_table(results: Results, names: Sequence[str]) -> str:
    """Tell what is left with offloads switched off."""
    rows = [row for row in ROWS if any(results.spread(n, row.case, row.figure) for n in names)]
    lines = [
        [
            name,
            *(spread_text(results.spread(name, row.case, row.figure)) for row in rows),
            *(times(results.ratio(row.case, row.figure, WGPY, of=name)) for row in rows),
        ]
        for name in (WGPY, *names)
    ]
    titles = [f"{row.title}, {row.unit}" for row in rows]
    return table(["", *titles, *(f"of all on: {row.case}" for row in rows)], lines)


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that is told."""

    header: Mapping[str, str]
    versions: Mapping[str, str]  # by implementation: the peers after wgpy
    ablations: Sequence[str]
    results: Results
    notes: Sequence[str] = field(default=())

    @property
    def peers(self) -> list[str]:
        """Whom wgpy is compared with."""
        return [name for name in self.versions if name != WGPY]

    def markdown(self) -> str:
        """Write it for docs/bench.md."""
        peers, results = self.peers, self.results
        facts = {**self.header, **self.versions}
        parts = [
            "".join(f"- {name}: {value}\n" for name, value in facts.items()),
            "Medians (least..most) of the rounds:\n",
            main_table(results, peers),
            f"Targets, as multiples of {REFERENCE} where they end in x and name nobody else:\n",
            target_table(results),
            "What the daemons took:\n",
            cost_table(results, [WGPY, *peers]),
        ]
        if self.ablations:
            parts += ["Offloads switched off:\n", ablation_table(results, self.ablations)]
        if self.notes:
            parts += ["Not measured:\n", "".join(f"- {note}\n" for note in self.notes)]
        return "\n".join(parts)
