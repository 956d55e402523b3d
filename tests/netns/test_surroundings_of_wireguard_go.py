# SPDX-License-Identifier: MIT
"""The rows of the matrix of surroundings on wireguard-go: what it does in each of them.

Rows come from the modules that try them on wgpy; where wireguard-go does something else it is named
here, and docs/differences.md tells it.  It is the wireguard-go that is installed (Debian's).  A row
in which it caught up fails, and both are to be corrected then.

Not here: what test_beside_wireguard_go.py shows, and clocks (it does not ask the C library).
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from shlex import join

import pytest
from netns import test_access, test_handed_devices, test_surroundings
from netns.lab import Namespace, Side, eventually, taken, transfer
from netns.test_containers import MAIN, SIZE, container
from netns.test_privileges import OPEN_TO_USER, RIGHTS, USER

pytestmark = pytest.mark.skipif(
    shutil.which("wireguard-go") is None, reason="not installed: wireguard-go"
)

PROGRAM = "wireguard-go"
OTHER_PORT = 51999
# What comes of it, by the exit status of LIFE.
SERVES, REFUSES, LEAVES_A_SOCKET, MUTE = "serves", "refuses", "leaves its socket", "mute"
OUTCOMES = {0: SERVES, 20: REFUSES, 21: LEAVES_A_SOCKET, 22: MUTE}
LIFE = """
set +e
code=0
{start} || code=20
if [ $code = 20 ]; then
    [ ! -S "/var/run/wireguard/$0.sock" ] || code=21
elif ! timeout 5 wg show "$0" fwmark >/dev/null; then
    code=22
fi
ip link delete "$0" 2>/dev/null
rm -f "/var/run/wireguard/$0.sock"
exit $code
"""


@pytest.fixture
def side(sides: tuple[Side, Side]) -> Side:
    return sides[0]


def outcome(side: Side, *start: str, prepare: str = "", directory: Path | None = None) -> str:
    """What comes of starting it so, by default plainly, where somebody has prepared this."""
    life = LIFE.format(start=join(start or (PROGRAM, side.interface)))
    script = f"{prepare}\n{life}"
    done = side.host.attempt("sh", "-ec", script, side.interface, str(directory))
    assert done.returncode in OUTCOMES, done.stdout + done.stderr
    return OUTCOMES[done.returncode]


# ---- places ----

OTHER_PLACES = {  # than those in which it serves as wgpy does, or refuses as it does
    "no /proc": LEAVES_A_SOCKET,
    "no /proc and no /sys": LEAVES_A_SOCKET,
}
WITHOUT_NULL = {SERVES, MUTE}  # by its version


@pytest.mark.parametrize("place", test_surroundings.FIT)
def test_in_places_that_are_fit(place: str, side: Side) -> None:
    prepare = test_surroundings.FIT[place]
    assert outcome(side, prepare=prepare) == OTHER_PLACES.get(place, SERVES)


@pytest.mark.parametrize("place", test_surroundings.UNFIT)
def test_in_places_that_are_not(place: str, side: Side) -> None:
    prepare, _ = test_surroundings.UNFIT[place]
    expected = WITHOUT_NULL if place == "no /dev/null" else {REFUSES}
    assert outcome(side, prepare=prepare) in expected


REFUSED_DIRECTORIES = {"a link to itself", "a file"}
PRIVATE_RUN = test_surroundings.PRIVATE_RUN


@pytest.mark.parametrize("case", [*test_access.HOSTILE, *test_access.FIT])
def test_it_uses_whatever_can_be_used_in_the_place_of_sockets(
    case: str, side: Side, tmp_path: Path
) -> None:
    prepare = test_access.FIT.get(case) or test_access.HOSTILE[case][0]
    found = outcome(side, prepare=f"{PRIVATE_RUN}; {prepare}", directory=tmp_path)
    assert found == (REFUSES if case in REFUSED_DIRECTORIES else SERVES)


# ---- privileges ----


@pytest.mark.parametrize("case", RIGHTS)
def test_it_makes_do_with_cap_net_admin(case: str, side: Side) -> None:
    owner = "1000" if USER[1] in RIGHTS[case] else "0"
    prepare = OPEN_TO_USER.replace("$0", owner)
    assert outcome(side, *RIGHTS[case], PROGRAM, side.interface, prepare=prepare) == SERVES


def test_it_works_in_a_container(sides: tuple[Side, Side]) -> None:
    left, right = sides
    right.host.run("wgpy", right.interface)
    right.configure(right.settings(left))
    left.write_config(right)
    implementation = f"export WG_QUICK_USERSPACE_IMPLEMENTATION={PROGRAM}\n"
    with container(left.host, "sh", "-euc", implementation + MAIN, "sh", str(left.config)) as main:
        assert main.stdout is not None
        assert "up\n" in iter(main.stdout.readline, ""), "it did not come up"
        transfer(left.host, right.host, right.inner6, SIZE)
        output, _ = main.communicate("\n", timeout=20)
        assert main.returncode == 0, output


# ---- descriptors ----


@pytest.mark.parametrize("closed", ["0", "1", "2", "01", "02", "12", "012"])
def test_none_of_its_own_becomes_a_standard_stream(side: Side, closed: str) -> None:
    closing = " ".join(f"{fd}>&-" for fd in closed)
    side.host.run("sh", "-c", f"exec {closing}; {PROGRAM} {side.interface}")
    assert side.show("fwmark") == "off"
    (pid,) = side.host.pids()
    assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)} == {os.devnull}


def test_short_of_descriptors_it_leaves_its_socket_behind_or_serves_nothing(side: Side) -> None:
    found = {
        limit: outcome(side, "prlimit", f"--nofile={limit}:{limit}", PROGRAM, side.interface)
        for limit in range(3, 33)
    }
    assert found[3] == REFUSES
    assert LEAVES_A_SOCKET in found.values()
    assert found[32] == SERVES


@pytest.mark.parametrize("case", test_handed_devices.UNFIT)
def test_what_it_is_handed_it_takes_for_what_it_should_be(case: str, side: Side) -> None:
    variable, code, _ = test_handed_devices.UNFIT[case]
    hand = test_handed_devices.HAND.replace('"wgpy"', repr(PROGRAM))
    expected = {
        "a TUN with packet information": SERVES,
        "a TUN with that and a header": SERVES,
        "a TAP": SERVES,
        "a socket that does not listen": MUTE,
        "a socket of a pair": MUTE,
        "a UDP socket": MUTE,
        "a TCP socket that listens": MUTE,
        "no socket": MUTE,
    }
    found = outcome(side, sys.executable, "-c", hand, variable, code, side.interface)
    assert found == expected.get(case, REFUSES)


@pytest.mark.parametrize(
    ("made", "expected"),
    [("tun", SERVES), ("tun pi", SERVES), ("tun multi_queue", REFUSES), ("tap", REFUSES)],
)
def test_what_was_made_before_it_takes_with_one_queue(side: Side, made: str, expected: str) -> None:
    prepare = f'ip tuntap add "$0" mode {made}'
    assert outcome(side, prepare=prepare) == expected


# ---- what comes later ----


def test_its_port_is_open_whether_the_link_is_up_or_not(side: Side) -> None:
    def has_port() -> bool:
        return f":{side.port} " in side.host.run("ss", "-uln")

    side.host.run(PROGRAM, side.interface)
    side.set("listen-port", str(side.port))
    for change in ("up", "down"):
        assert has_port()
        side.host.run("ip", "link", "set", side.interface, change)
    assert has_port()
    with taken(side.host, OTHER_PORT):
        command = "wg", "set", side.interface, "listen-port", str(OTHER_PORT)
        assert "Address already in use" in side.host.refusal(*command)
    side.host.run("ip", "link", "delete", side.interface)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_that_ends_wgpy_in_order_ends_it_with_its_socket_left(
    side: Side, number: signal.Signals
) -> None:
    side.host.run(PROGRAM, side.interface)
    assert side.show("fwmark") == "off"
    (pid,) = side.host.pids()
    os.kill(pid, number)
    eventually(lambda: not side.host.pids(), "its end")
    assert side.socket.exists()
    side.socket.unlink()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGPIPE])
def test_a_signal_without_a_meaning_does_no_harm(side: Side, number: signal.Signals) -> None:
    side.host.run(PROGRAM, side.interface)
    assert side.show("fwmark") == "off"
    (pid,) = side.host.pids()
    os.kill(pid, number)
    assert side.show("fwmark") == "off"
    assert side.host.pids() == [pid]
    side.host.run("ip", "link", "delete", side.interface)


def test_an_interface_in_another_namespace_is_looked_after(
    side: Side, namespace: Callable[[], Namespace]
) -> None:
    inside = namespace()
    side.host.run(PROGRAM, side.interface)
    assert side.show("fwmark") == "off"
    side.host.run("ip", "link", "set", side.interface, "netns", inside.name)
    inside.run("ip", "link", "delete", side.interface)
    eventually(lambda: not side.host.pids(), "its end")
