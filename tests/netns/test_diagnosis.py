# SPDX-License-Identifier: MIT
"""A tunnel broken in one way is explained on the side that can know it, and nothing else is said.

Two real daemons, each seen through its status socket, and at last by wgpyctl as a user who is not
root and may do no more than look.
"""

import grp
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest
from netns import broken
from netns.broken import NOWHERE, Host, configure, daemon
from netns.clock import Clock
from netns.lab import Side, chain, eventually, ping, taken
from netns.traffic import junk_initiations

from wgpy.ctl.client import follow
from wgpy.diagnosis import Code
from wgpy.status import DIRECTORY, SUFFIX, Severity

# Messages of 148 bytes from stdin, ten times; argv: address, port.
SEND_MESSAGES = """
import socket, sys
data = sys.stdin.buffer.read()
with socket.socket(type=socket.SOCK_DGRAM) as s:
    s.connect((sys.argv[1], int(sys.argv[2])))
    for _ in range(10):
        for at in range(0, len(data), 148):
            s.send(data[at:at + 148])
"""


GROUP = 1  # of every Debian: daemon
# Python may be in root's home, which takes the right to read there; a socket takes that to write.
READS = "dac_read_search"
CAPABILITIES = f"--inh-caps=-all,+{READS}", f"--ambient-caps=-all,+{READS}"
MEMBER = "setpriv", "--reuid=65534", "--regid=65534", f"--groups={GROUP}", *CAPABILITIES


def open_daemon(side: Side, directory: Path, *wrapper: str) -> AbstractContextManager[Host]:
    """A daemon whose status a group may see."""
    name = grp.getgrgid(GROUP).gr_name
    return daemon(side, directory, f"WGPY_STATUS_GROUP={name}", *wrapper)


@pytest.fixture
def pair(sides: tuple[Side, Side], tmp_path: Path) -> Iterator[tuple[Host, Host]]:
    """Both have such a daemon; nothing is configured yet."""
    with open_daemon(sides[0], tmp_path) as left, open_daemon(sides[1], tmp_path) as right:
        yield left, right


def diagnoses(host: Host, *, notes: bool = False) -> dict[str, str]:
    """Sentences by code; notes tell of the machine rather than of the tunnel."""
    with closing(follow(DIRECTORY / f"{host.side.interface}{SUFFIX}")) as statuses:
        found = next(statuses).diagnoses
    assert found is not None, "a daemon tells what is wrong"
    return {one.code: one.text for one in found if notes or one.severity != Severity.NOTE}


def wait_for(host: Host, code: Code, *named: str) -> None:
    """It is said, and so is all of this."""
    eventually(lambda: code in diagnoses(host), f"{code}: {diagnoses(host)}")
    text = diagnoses(host)[code]
    assert [name for name in named if name not in text] == []
    done = host.side.host.attempt(*MEMBER, "wgpyctl", "status", host.side.interface)
    assert (done.returncode, done.stderr) == (1, "")
    [line] = [line for line in done.stdout.splitlines() if line.endswith(f"({code})")]
    assert line.startswith(f"  {code.severity}: ")
    assert [name for name in named if name not in line] == []


def endpoint(host: Host) -> str:
    return f"{host.side.host.outer4}:{host.side.port}"


def test_a_healthy_tunnel_has_none(pair: tuple[Host, Host]) -> None:
    here, there = pair
    configure(here, there)
    for address in (there.side.inner4, there.side.inner6):
        ping(here.side.host, address)
    ping(there.side.host, here.side.inner4)
    for host in pair:
        assert diagnoses(host) == {}


Break = Callable[[Host, Host], None]
Names = Callable[[Host, Host], list[str]]
# How it is broken, what is said, on which side, and what that names.
CASES: list[tuple[Break, Code, str, Names]] = [
    (broken.by_no_allowed_ips, Code.NO_PEER_FOR, "here", lambda _, there: [there.side.inner4]),
    (broken.by_no_endpoint, Code.NO_ENDPOINT, "here", lambda *_: ["never called"]),
    (broken.by_no_private_key, Code.NO_PRIVATE_KEY, "here", lambda here, _: [here.side.interface]),
    (
        broken.by_an_endpoint_without_a_route,
        Code.UNREACHABLE,
        "here",
        lambda *_: [f"{NOWHERE}:51820", "Network is unreachable"],
    ),
    (
        broken.by_another_preshared_key,
        Code.PSK_MISMATCH,
        "here",
        lambda _, there: [endpoint(there), "preshared keys differ"],
    ),
    (
        broken.by_a_route_into_the_tunnel,
        Code.ROUTING_LOOP,
        "here",
        lambda here, there: [endpoint(there), f"into {here.side.interface} itself"],
    ),
    (
        broken.by_a_wrong_public_key,
        Code.WRONG_IDENTITY,
        "there",
        lambda here, there: [endpoint(here), there.side.public_key],
    ),
    (
        broken.by_being_unknown_there,
        Code.UNKNOWN_INITIATOR,
        "there",
        lambda here, _: [endpoint(here), here.side.public_key],
    ),
    (
        broken.by_a_source_that_is_not_allowed_there,
        Code.NOT_ALLOWED,
        "there",
        lambda here, _: [here.side.inner4],
    ),
]


@pytest.mark.parametrize(("break_it", "code", "where", "names"), CASES)
def test_what_is_broken_is_said_on_the_side_that_can_know(
    pair: tuple[Host, Host], break_it: Break, code: Code, where: str, names: Names
) -> None:
    here, there = pair
    break_it(here, there)
    here.speak(there.side.inner4)
    knowing, other = (here, there) if where == "here" else (there, here)
    wait_for(knowing, code, *names(here, there))
    assert set(diagnoses(knowing)) == {code}
    assert set(diagnoses(other)) <= {Code.NO_ANSWER, Code.UNCONFIRMED}


ALIKE = [
    broken.by_nobody_listening_there,
    broken.by_being_unknown_there,
    broken.by_a_wrong_public_key,
]


def check_nothing_is_claimed(here: Host, there: Host) -> None:
    here.speak(there.side.inner4)
    all_of_it = [
        "is lost",
        "nobody listens",
        "does not know",
        "another key",
        "our clock",
        "Look there",
    ]
    wait_for(here, Code.NO_ANSWER, endpoint(there), here.side.public_key, *all_of_it)
    assert set(diagnoses(here)) == {Code.NO_ANSWER}


@pytest.mark.parametrize("break_it", ALIKE)
def test_what_looks_alike_from_here_is_said_alike(pair: tuple[Host, Host], break_it: Break) -> None:
    here, there = pair
    break_it(here, there)
    check_nothing_is_claimed(here, there)


def test_so_is_what_a_firewall_drops(pair: tuple[Host, Host]) -> None:
    here, there = pair
    configure(here, there)
    with chain(there.side.host, "type filter hook input priority 0; udp dport 51820 drop;"):
        check_nothing_is_claimed(here, there)


EITHER = "lost on the way", "preshared keys differ"  # who answers cannot tell which


def test_answers_that_a_firewall_drops_are_told_by_who_gives_them(pair: tuple[Host, Host]) -> None:
    here, there = pair
    configure(here, there)
    with chain(here.side.host, "type filter hook input priority 0; udp dport 51820 drop;"):
        here.speak(there.side.inner4)
        wait_for(there, Code.UNCONFIRMED, endpoint(here), *EITHER)
        assert set(diagnoses(there)) == {Code.UNCONFIRMED}
    eventually(lambda: diagnoses(there) == {}, "a session")


def test_so_are_answers_that_do_not_open(pair: tuple[Host, Host]) -> None:
    here, there = pair
    broken.by_another_preshared_key(here, there)
    here.speak(there.side.inner4)
    wait_for(there, Code.UNCONFIRMED, endpoint(here), *EITHER)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="not installed: gcc")
def test_a_clock_that_went_back_with_a_restart_is_told_by_the_other(
    sides: tuple[Side, Side], tmp_path: Path
) -> None:
    clock = Clock(tmp_path)
    with open_daemon(sides[1], tmp_path) as there:
        with open_daemon(sides[0], tmp_path, *clock.wrapper) as here:
            clock.set(56)
            configure(here, there)
            ping(here.side.host, there.side.inner4)
        clock.set(55)
        with open_daemon(sides[0], tmp_path, *clock.wrapper) as here:
            here.side.configure(here.side.settings(there.side))
            here.speak(there.side.inner4)
            wait_for(there, Code.CLOCK_BACK, endpoint(here), "its clock went back")
            assert set(diagnoses(there)) == {Code.CLOCK_BACK}
            wait_for(here, Code.NO_ANSWER, "or our clock went back")
            clock.set(57)
            eventually(here.side.handshake_time, "a handshake")
            ping(here.side.host, there.side.inner4)
            assert diagnoses(there) == {}


def test_a_port_that_somebody_else_has_is_told_until_it_is_free(pair: tuple[Host, Host]) -> None:
    here, there = pair
    here.side.setconf(here.side.settings(there.side))
    with taken(here.side.host, here.side.port):
        here.side.host.run("ip", "link", "set", here.side.interface, "up")
        wait_for(here, Code.PORT_IN_USE, "51820", "ss -ulnp")
        assert set(diagnoses(here)) == {Code.PORT_IN_USE}
    eventually(lambda: diagnoses(here) == {}, "the port")


def test_a_flood_of_handshakes_is_told_by_whom_it_comes_to(pair: tuple[Host, Host]) -> None:
    here, there = pair
    configure(here, there)
    to = there.side.host.outer4, str(there.side.port)
    flood = here.side.host.argv(sys.executable, "-c", SEND_MESSAGES, *to)
    junk = junk_initiations(there.side.public_key)
    subprocess.run(flood, input=junk, timeout=30, check=True)
    wait_for(there, Code.UNDER_LOAD, here.side.host.outer4, "or a flood")
    assert set(diagnoses(there)) == {Code.UNDER_LOAD}
    assert diagnoses(here) == {}


def test_offloads_that_are_switched_off_are_noted(sides: tuple[Side, Side], tmp_path: Path) -> None:
    with daemon(sides[0], tmp_path, "WGPY_UDP_GRO=0") as here:
        here.side.configure(here.side.settings(sides[1]))
        text = diagnoses(here, notes=True)[Code.NO_OFFLOAD]
        assert "UDP_GRO" in text
        assert diagnoses(here) == {}
