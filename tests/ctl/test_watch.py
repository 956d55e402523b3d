# SPDX-License-Identifier: MIT
"""`wgpyctl watch`: its screens, as a terminal shows them."""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text
from status_daemon import DROPS, HEALTHY, HOSTILE, PEER, SILENT, fake_wg
from terminal import on_terminal

from wgpy.config import AllowedIP, Endpoint
from wgpy.ctl.cli import main
from wgpy.ctl.interfaces import Interfaces
from wgpy.ctl.printing import shorten_key
from wgpy.ctl.watch import Moment, Rates, draw, measure_rates
from wgpy.diagnosis import diagnose
from wgpy.status import DeviceStatus, PeerStatus, Tally

SIZES = [(80, 24), (200, 50)]
IP6 = Endpoint(bytes.fromhex("fe801111222233334444555566667777"), 51820, scope_id=123456)
V6_PREFIXES = tuple(AllowedIP(bytes([0xFD, n]) + bytes(14), 64) for n in range(20))


def screen(status: DeviceStatus, width: int, height: int) -> list[str]:
    """The lines of a terminal of that size."""
    status = replace(status, diagnoses=diagnose(status))
    moment = Moment(status, {PEER.public_key: Rates(1536.0, 3 << 20)})
    console = Console(file=StringIO(), record=True, width=width, height=height, force_terminal=True)
    console.print(draw(moment, width, height), end="")
    return [line.rstrip() for line in console.export_text().splitlines()]


def many_peers(count: int) -> tuple[PeerStatus, ...]:
    return tuple(
        PeerStatus(n.to_bytes(2, "big") * 16, endpoint=IP6, allowed_ips=V6_PREFIXES, rx_bytes=2**63)
        for n in range(count)
    )


def test_a_terminal_of_80_columns() -> None:
    status = replace(HEALTHY, peers=(replace(PEER, drops=DROPS), SILENT), receive_buffer=None)
    title, wrong, *table = screen(status, 80, 24)
    assert title == "wg0  port 51820  up  mtu 1420  2 peers  in 1.50 KiB/s  out 3.00 MiB/s"
    # Each diagnosis has a line, however long it is.
    assert wrong.startswith("warning peer ") or wrong.startswith("error peer ")
    assert wrong.endswith("…")
    heading, *rows = table[-3:]
    assert heading.split() == ["peer", "endpoint", "handshake", "in/s", "out/s", "dropped"]
    assert rows[0].split()[:3] == ["CQkJCQkJ…", "[2001:db8:1111:2222:3333:4…", "never"]
    assert rows[1].split() == (
        ["BwcHBwcH…", "192.0.2.1:51820", "1m15s", "1.50", "KiB", "3.00", "MiB", "3"]
    )


def test_a_terminal_of_200_columns_has_room_for_allowed_ips_and_whole_endpoints() -> None:
    lines = screen(replace(HEALTHY, peers=(PEER, SILENT)), 200, 50)
    assert "allowed ips" in lines[-3]
    assert "[2001:db8:1111:2222:3333:4444:5555:6666]:51820" in lines[-2]
    assert "10.0.0.2/32, ::/0" in lines[-1]


@pytest.mark.parametrize(("width", "height"), [*SIZES, (40, 8), (20, 6)])
def test_nothing_breaks_the_layout(width: int, height: int) -> None:
    """Long names and addresses, peers and faults without end: the screen is full, and no more."""
    tally = (Tally("no-endpoint", 2**64 - 1, 1.0, address="x" * 256),)
    peers = tuple(replace(peer, drops=tally) for peer in many_peers(300))
    silent = tuple(replace(SILENT, public_key=bytes([n]) * 32) for n in range(30))
    status = replace(HEALTHY, interface="w" * 256, features=("x" * 256,), peers=peers + silent)
    lines = screen(status, width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    if (width, height) in SIZES:
        assert len(lines) == height
        assert lines[-1].startswith("and ")
        assert lines[-1].endswith(" more peers")


def test_the_peers_that_do_not_fit_are_counted() -> None:
    lines = screen(replace(HEALTHY, peers=many_peers(100)), 80, 24)
    shown = sum(
        line.startswith(tuple(shorten_key(p.public_key) for p in many_peers(100))) for line in lines
    )
    assert lines[-1] == f"and {100 - shown} more peers"


def test_peers_in_trouble_come_before_busy_ones() -> None:
    status = replace(HEALTHY, peers=(*many_peers(50), PEER, SILENT))
    lines = screen(status, 80, 24)
    first, second = lines[3:5]
    assert first.startswith(shorten_key(SILENT.public_key))
    assert second.startswith(shorten_key(PEER.public_key))


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_no_control_character_is_drawn(width: int, height: int) -> None:
    tally = (Tally("no-peer", 1, 1.0, address=HOSTILE),)
    status = replace(HEALTHY, interface=HOSTILE, drops=tally)
    for line in screen(status, width, height):
        assert line.isprintable()


def test_markup_of_rich_is_only_text() -> None:
    (title, *_) = screen(replace(HEALTHY, interface="[red]x[/nope]"), 80, 24)
    assert title.startswith("[red]x[/nope]  ")


def test_rates_are_between_two_statuses() -> None:
    later = replace(PEER, rx_bytes=PEER.rx_bytes + 300, tx_bytes=0)
    after = replace(HEALTHY, peers=(later, SILENT))
    assert measure_rates(HEALTHY, after, 2.0) == {PEER.public_key: Rates(150.0, 0.0)}
    assert measure_rates(None, after, 2.0) == {}
    assert measure_rates(HEALTHY, after, 0.0) == {}


@pytest.mark.parametrize("size", SIZES)
def test_it_has_the_screen_for_itself_and_gives_it_back(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    outcome, written = session(tmp_path, ["watch", "wg0"], size=size)
    assert written.startswith("\x1b[?1049h")  # the other screen of xterm
    screens, _, after = written.partition("\x1b[?1049l")
    assert shorten_key(SILENT.public_key) in screens
    assert ("allowed ips" in screens) == (size == (200, 50))
    assert max(map(len, Text.from_ansi(screens).plain.splitlines())) <= size[0]
    assert (outcome, after.strip()) == (3, "wgpyctl: there is no WireGuard interface wg0")


def test_without_a_name_it_takes_the_only_interface(tmp_path: Path) -> None:
    _, written = session(tmp_path, ["watch"])
    assert shorten_key(PEER.public_key) in written


def test_of_several_one_has_to_be_named(tmp_path: Path) -> None:
    done = session(tmp_path, ["watch"], [("interfaces", "wg0 wg1")])
    assert done == (2, "wgpyctl: watch which of wg0, wg1?\r\n")


def test_it_needs_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", "wg0"], Interfaces(tmp_path, fake_wg(tmp_path))) == 2
    assert capsys.readouterr().err == "wgpyctl: watch needs a terminal; status does not\n"


SESSION = """
import sys
from pathlib import Path
from status_daemon import HEALTHY, SILENT, serving
from dataclasses import replace
from wgpy.ctl.cli import main
from wgpy.ctl.interfaces import Interfaces
directory, wg, *argv = sys.argv[1:]
broken = replace(HEALTHY, peers=(*HEALTHY.peers, SILENT))
with serving(Path(directory), HEALTHY, broken):
    raise SystemExit(main(argv, Interfaces(Path(directory), wg)))
"""


def session(
    directory: Path,
    argv: Sequence[str],
    answers: Sequence[tuple[str, str]] = (),
    size: tuple[int, int] = (80, 24),
) -> tuple[int, str]:
    """Exit status of wgpyctl on a terminal, beside a daemon that ends, and all that it wrote."""
    command = [sys.executable, "-c", SESSION, str(directory), fake_wg(directory, answers), *argv]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    with on_terminal(command, size, environment) as terminal:
        return terminal.wait(), terminal.written
