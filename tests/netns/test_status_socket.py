# SPDX-License-Identifier: MIT
"""The status socket of a real daemon: who may look, what stands in its way, what harm it can do."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from netns.lab import Side, eventually, ping

from wgpy.status import DIRECTORY, SUFFIX

NOBODY = "setpriv", "--reuid=65534", "--regid=65534"  # and no capabilities
GROUP, GID = "daemon", 1  # of every Debian

# Prints a line of the status socket; argv: its path.
LOOK = """
import socket, sys
with socket.socket(socket.AF_UNIX) as s:
    s.settimeout(20)
    s.connect(sys.argv[1])
    print(s.makefile().readline(), end="")
"""

# Does all that a client should not, 1,000 times, and says when it has; argv: path of the socket.
MOLEST = """
import socket, sys
kept = []
for n in range(1000):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(20)
    s.connect(sys.argv[1])
    try:
        if n % 4 == 1:
            s.send(b"set=1\\n" * 1000)
        elif n % 4 == 2:
            s.recv(1)
    except OSError:
        pass  # it was dropped already
    kept.append(s)
    if n % 4 == 3:
        kept.pop(0).close()
print("done", flush=True)
sys.stdin.read()
"""


def status_path(side: Side) -> Path:
    return DIRECTORY / f"{side.interface}{SUFFIX}"


def look(side: Side, *prefix: str) -> subprocess.CompletedProcess[str]:
    return side.host.attempt(*prefix, sys.executable, "-Ic", LOOK, str(status_path(side)))


@pytest.fixture
def side(sides: tuple[Side, Side]) -> Side:
    return sides[0]


# ---- who may look ----


def test_root_is_told_the_status_and_no_secret(sides: tuple[Side, Side]) -> None:
    left, right = sides
    left.host.run("wgpy", left.interface)
    psk = right.private_key  # any key will do
    left.configure(left.settings(right, psk=psk))
    text = look(left).stdout
    status = json.loads(text)
    assert (status["interface"], status["public_key"]) == (left.interface, left.public_key)
    assert (status["listen_port"], status["listening"]) == (left.port, True)
    assert left.private_key not in text
    assert psk not in text


def test_nobody_else_is(side: Side) -> None:
    side.host.run("wgpy", side.interface)
    assert status_path(side).stat().st_mode & 0o077 == 0
    stranger = look(side, *NOBODY, "--clear-groups")
    assert "PermissionError" in stranger.stderr
    assert stranger.stdout == ""


def test_members_of_the_status_group_are_and_may_no_more_than_that(side: Side) -> None:
    side.host.run("env", f"WGPY_STATUS_GROUP={GROUP}", "wgpy", side.interface)
    assert status_path(side).stat().st_mode & 0o777 == 0o660
    member = *NOBODY, f"--groups={GID}"
    assert json.loads(look(side, *member).stdout)["interface"] == side.interface
    assert look(side, *NOBODY, "--clear-groups").stdout == ""
    assert side.host.attempt(*member, "wg", "show", side.interface).returncode != 0


def test_an_unknown_status_group_is_refused_in_one_line(side: Side) -> None:
    done = side.host.attempt("env", "WGPY_STATUS_GROUP=no-such", "wgpy", side.interface)
    assert done.returncode == 2
    assert done.stderr.startswith("wgpy: WGPY_STATUS_GROUP: there is no group 'no-such'")


def test_it_can_be_switched_off(side: Side) -> None:
    side.host.run("env", "WGPY_STATUS=0", "wgpy", side.interface)
    assert not status_path(side).exists()


# ---- its file ----


def test_it_is_gone_with_the_daemon_and_a_stale_one_is_replaced(side: Side) -> None:
    DIRECTORY.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(status_path(side)))
    side.host.run("wgpy", side.interface)
    assert json.loads(look(side).stdout)["version"] == 1
    side.host.run("ip", "link", "delete", side.interface)
    eventually(lambda: not side.host.pids(), "the end of the daemon")
    assert not status_path(side).exists()


def test_the_interface_goes_on_without_it(side: Side) -> None:
    side.host.run("wgpy", side.interface)
    status_path(side).unlink()
    assert side.host.run("wg", "show", side.interface, "fwmark") == "off\n"


# Each puts something into its way; "$0" is the name of the interface, "$1" a directory.
HOSTILE = {
    "a link": 'mkdir /run/wgpy; ln -s "$1/nowhere" "/run/wgpy/$0.status"',
    "a file": 'mkdir /run/wgpy; touch "/run/wgpy/$0.status"',
    "a directory of somebody else": "install -d -o 1 /run/wgpy",
    "a directory for all": "install -d -m 1777 /run/wgpy",
    "a link to a directory for all": 'chmod 777 "$1"; ln -s "$1" /run/wgpy',
    "no directory at all": "touch /run/wgpy",
    "a directory closed to the group": (
        f"install -d -m 700 /run/wgpy; export WGPY_STATUS_GROUP={GROUP}"
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_stands_in_its_way_stays_and_the_interface_is_there_without(
    case: str, side: Side, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    # `ip netns exec` gives a mount namespace of its own: nobody else sees this /run.
    before = f"mount -t tmpfs -o mode=755 tmpfs /run; {HOSTILE[case]}"
    log = tmp_path / "log"
    tree = "find /run/wgpy* -printf '%p %y %m %u\\n' | sort"
    started = f'LOG_LEVEL=notice wgpy "$0" 2>"{log}"; wg show "$0" fwmark'
    script = f'{before}; {tree} >"$2"; {started}; {tree} | diff "$2" -'
    arguments = side.interface, str(elsewhere), str(tmp_path / "tree")
    assert side.host.run("sh", "-ec", script, *arguments) == "off\n"
    assert list(elsewhere.iterdir()) == []
    side.host.run("ip", "link", "delete", side.interface)
    eventually(lambda: not side.host.pids(), "the end of the daemon")
    told = [line for line in log.read_text().splitlines() if "status socket" in line]
    assert len(told) == 1
    assert "there is no status socket: /run/wgpy" in told[0]


def test_who_has_the_name_already_keeps_it(sides: tuple[Side, Side]) -> None:
    """Two hosts may each have an interface of that name; here they share the directory."""
    left, right = sides
    left.host.run("wgpy", left.interface)
    private = "mount -t tmpfs -o mode=755 tmpfs /run/wireguard"  # each has its own socket of wg
    script = f'{private}; wgpy "$0"; wg show "$0" fwmark'
    done = right.host.attempt("sh", "-ec", script, left.interface)
    assert done.stdout == "off\n"
    right.host.run("ip", "link", "delete", left.interface)
    eventually(lambda: not right.host.pids(), "the end of the other daemon")
    assert json.loads(look(left).stdout)["interface"] == left.interface


# ---- what clients can do ----


def test_a_thousand_bad_clients_harm_nobody(sides: tuple[Side, Side]) -> None:
    left, right = sides
    for side, peer in ((left, right), (right, left)):
        side.host.run("wgpy", side.interface)
        side.configure(side.settings(peer))
    (daemon,) = left.host.pids()
    molesters = [
        subprocess.Popen(
            left.host.argv(sys.executable, "-Ic", MOLEST, str(status_path(left))),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        ping(left.host, right.inner4)
        for molester in molesters:
            assert molester.stdout is not None
            assert molester.stdout.readline() == "done\n"
        assert json.loads(look(left).stdout)["interface"] == left.interface
        assert left.show("peers") == right.public_key
        ping(left.host, right.inner4)
        assert len(os.listdir(f"/proc/{daemon}/fd")) < 64
    finally:
        for molester in molesters:
            molester.communicate()
    assert json.loads(look(left).stdout)["interface"] == left.interface
