# SPDX-License-Identifier: MIT
"""The chart: one panel for each kind of figure, one bar for each implementation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.report import Results, Row

PANELS = {
    "TCP, Gbit/s": (
        Row("tcp4", "gbit_s", "IPv4", ""),
        Row("tcp6", "gbit_s", "IPv6", ""),
        Row("tcp4-p4", "gbit_s", "4 streams", ""),
        Row("tcp4-reverse", "gbit_s", "reverse", ""),
        Row("tcp4-bidir", "gbit_s", "both ways", ""),
    ),
    "TCP forwarded, and in two tunnels, Gbit/s": (
        Row("forward4", "gbit_s", "IPv4", ""),
        Row("forward6", "gbit_s", "IPv6", ""),
        Row("forward4-p4", "gbit_s", "4 streams", ""),
        Row("forward-nat", "gbit_s", "NAT", ""),
        Row("nested", "gbit_s", "nested", ""),
    ),
    "UDP carried, 1000 packets/s": (
        Row("udp64", "kpps", "64 bytes", ""),
        Row("udp1372", "kpps", "1372 bytes", ""),
    ),
    "Sending only, on one core, 1000 packets/s": (Row("transmit", "kpps", "1372 bytes", ""),),
    "Daemon CPU, s/GB (less is better)": (
        Row("tcp4", "cpu_a_s_per_gb", "TCP, sender", ""),
        Row("tcp4", "cpu_b_s_per_gb", "TCP, receiver", ""),
    ),
    "Round trip beside TCP, us (less is better)": (
        Row("rtt-loaded", "rtt_p50_us", "median", ""),
        Row("rtt-loaded", "rtt_p99_us", "p99", ""),
    ),
}


def draw(results: Results, names: Sequence[str], path: Path) -> bool:
    """Write it, in the format of the path's suffix.  False: no matplotlib here."""
    try:
        import matplotlib  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return False
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(3, 2, figsize=(10, 9.5), layout="constrained")
    for axis, (title, rows) in zip(axes.flat, PANELS.items(), strict=True):
        measured = [row for row in rows if _has_any(results, names, row)]
        _draw_panel(axis, title, measured)
        _draw_bars(axis, results, names, measured)
        axis.set_visible(bool(measured))
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.savefig(path)
    pyplot.close(figure)
    return True


def _has_any(results: Results, names: Sequence[str], row: Row) -> bool:
    return any(results.spread(name, row.case, row.figure) for name in names)


def _draw_panel(axis: Any, title: str, rows: Sequence[Row]) -> None:
    axis.set_title(title)
    axis.set_xticks(range(len(rows)), [row.title for row in rows])
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _draw_bars(axis: Any, results: Results, names: Sequence[str], rows: Sequence[Row]) -> None:
    width = 0.8 / max(len(names), 1)
    for index, name in enumerate(names):
        spreads = [results.spread(name, row.case, row.figure) for row in rows]
        places = [at + (index - (len(names) - 1) / 2) * width for at in range(len(rows))]
        heights = [spread.median if spread else 0.0 for spread in spreads]
        below = [spread.median - spread.least if spread else 0.0 for spread in spreads]
        above = [spread.most - spread.median if spread else 0.0 for spread in spreads]
        error = {"ecolor": "black", "elinewidth": 0.8}
        axis.bar(places, heights, width, label=name, yerr=[below, above], error_kw=error)
