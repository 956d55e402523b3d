# SPDX-License-Identifier: MIT
"""The daemon's life: what holds when its caller goes on, and everything that ends it."""

import errno
import os
import re
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from netns.lab import HAND_OVER, Namespace, Side, eventually, ping

from wgpy.daemon.process import END_SIGNALS

# argv: wgpy's; on SIGWINCH, what it has open as its TUN cannot be read any more.
LOSE_TUN = """
import os, signal, sys
from wgpy.daemon.cli import main

def lose(signal, frame):
    for fd in os.listdir("/proc/self/fd"):
        if os.readlink(f"/proc/self/fd/{fd}") == "/dev/net/tun":
            os.dup(int(fd))  # the interface stays
            os.dup2(os.open("/dev/null", os.O_WRONLY), int(fd))
            return

signal.signal(signal.SIGWINCH, lose)
sys.exit(main())
"""


@pytest.fixture
def left(sides: tuple[Side, Side]) -> Side:
    """A running daemon, not configured."""
    side = sides[0]
    side.host.run("wgpy", side.interface)
    return side


def daemon_pid(side: Side) -> int:
    (pid,) = side.host.pids()
    return pid


def assert_ends(side: Side) -> None:
    """The daemon, its socket and its interface go."""
    eventually(lambda: not side.host.pids(), "the end of the daemon", 3)
    assert not side.socket.exists()
    assert not side.host.has_interface(side.interface)


def status_of(side: Side, *command: str) -> tuple[int, str]:
    done = side.host.attempt(*command)
    return done.returncode, done.stderr


# ---- start ----


def test_everything_is_there_when_the_caller_returns(left: Side) -> None:
    assert left.host.run("wg", "show", left.interface) == f"interface: {left.interface}\n"
    link = left.host.run("ip", "-d", "link", "show", left.interface)
    assert " mtu 1420 " in link
    assert " gso_max_size 65536 " in link  # or what others send is cut before it gets here


def test_the_daemon_keeps_nothing_of_its_caller_open(left: Side) -> None:
    named = set()
    for one in Path(f"/proc/{daemon_pid(left)}/fd").iterdir():
        with suppress(FileNotFoundError):  # a request to the kernel that is over
            # libffi's own file is nobody's
            if not re.match(r"anon_inode|socket:|pipe:|.*/libffi\.so", str(one.readlink())):
                named.add(one)
    expected = {Path("/dev/null").stat().st_rdev, Path("/dev/net/tun").stat().st_rdev}
    assert {one.stat().st_rdev for one in named} == expected  # by name it fails in a chroot


def test_it_is_found_by_its_name(left: Side) -> None:
    pid = daemon_pid(left)
    assert Path(f"/proc/{pid}/comm").read_text() == "wgpy\n"
    assert left.host.run("pgrep", "-f", f"wgpy {left.interface}$") == f"{pid}\n"


def test_a_lock_that_the_caller_held_is_free_when_the_caller_is_gone(
    sides: tuple[Side, Side], tmp_path: Path
) -> None:
    side, lock = sides[0], str(tmp_path / "lock")
    side.host.run("sh", "-c", f"exec 9>{lock}; flock 9; wgpy {side.interface}")
    side.host.run("flock", "--nonblock", lock, "true")


def test_an_interface_in_use_is_refused_in_one_line(left: Side) -> None:
    status, errors = status_of(left, "wgpy", left.interface)
    assert status == 1
    assert errors == f"wgpy: the interface {left.interface} exists and is in use\n"
    assert left.host.run("wg", "show", left.interface)


def test_an_interface_of_another_kind_is_refused_in_one_line(sides: tuple[Side, Side]) -> None:
    status, errors = status_of(sides[0], "wgpy", "cable")
    assert status == 1
    assert errors == "wgpy: an interface cable of another kind exists\n"


def test_a_socket_in_use_is_refused_and_no_interface_stays(
    sides: tuple[Side, Side], left: Side
) -> None:
    other = sides[1]
    status, errors = status_of(other, "wgpy", left.interface)
    assert status == 1
    assert errors == f"wgpy: the socket {left.socket} is in use\n"
    assert not other.host.has_interface(left.interface)


def test_without_permission_one_line_says_so(sides: tuple[Side, Side]) -> None:
    side = sides[0]
    without = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"]
    status, errors = status_of(side, *without, "wgpy", side.interface)
    assert status == 1
    assert errors.startswith("wgpy: no permission")
    assert errors.count("\n") == 1


def test_an_unknown_aead_is_refused_in_one_line(sides: tuple[Side, Side]) -> None:
    side = sides[0]
    status, errors = status_of(side, "env", "WGPY_AEAD=rot13", "wgpy", side.interface)
    assert (status, errors) == (1, "wgpy: WGPY_AEAD: there is no 'rot13' here\n")
    assert_ends(side)


def test_an_open_tun_and_an_open_socket_are_taken_over(sides: tuple[Side, Side]) -> None:
    left, right = sides
    left.host.run(sys.executable, "-c", HAND_OVER, "0x1001", left.interface, "wgpy")
    right.host.run("wgpy", right.interface)
    left.configure(left.settings(right))
    right.configure(right.settings(left))
    ping(left.host, right.inner4)
    left.host.run("ip", "link", "delete", left.interface)
    assert_ends(left)


@pytest.mark.parametrize("off", ["WGPY_VNET_HDR", "WGPY_TUN_OFFLOAD", "WGPY_UDP_GSO"])
def test_offloads_can_be_switched_off(sides: tuple[Side, Side], off: str) -> None:
    left, right = sides
    left.host.run("env", f"{off}=0", "WGPY_UDP_GRO=0", "wgpy", left.interface)
    right.host.run("wgpy", right.interface)
    left.configure(left.settings(right))
    right.configure(right.settings(left))
    ping(left.host, right.inner4)


def test_variables_of_other_implementations_do_no_harm(sides: tuple[Side, Side]) -> None:
    side = sides[0]
    theirs = "WG_SUDO=1", "WG_THREADS=4", "WG_PROCESS_FOREGROUND=0"
    side.host.run("env", *theirs, "wgpy", side.interface)
    assert side.host.run("wg", "show", side.interface, "fwmark") == "off\n"


def test_it_replaces_a_socket_that_a_killed_daemon_left_behind(
    sides: tuple[Side, Side], left: Side
) -> None:
    os.kill(daemon_pid(left), signal.SIGKILL)
    eventually(lambda: not left.host.has_interface(left.interface), "the end of the interface")
    assert left.socket.exists()
    left.host.run("wgpy", left.interface)
    sides[1].host.run("wgpy", sides[1].interface)
    for side, peer in (sides, sides[::-1]):
        side.configure(side.settings(peer))
    ping(left.host, sides[1].inner4)


# ---- end ----


@pytest.mark.parametrize("state", ["up", "down"])
def test_deleting_the_interface_ends_it(left: Side, state: str) -> None:
    left.host.run("ip", "link", "set", left.interface, state)
    left.host.run("ip", "link", "delete", left.interface)
    assert_ends(left)


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGXCPU],
)
def test_a_signal_ends_it(left: Side, number: signal.Signals) -> None:
    os.kill(daemon_pid(left), number)
    assert_ends(left)


def test_signals_without_a_meaning_do_no_harm(left: Side) -> None:
    pid = daemon_pid(left)
    faults = {
        *(signal.SIGILL, signal.SIGTRAP, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE),
        *(signal.SIGSEGV, signal.SIGSYS),
    }
    stops = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
    ends = {signal.SIGKILL, *END_SIGNALS}
    for number in signal.valid_signals() - faults - stops - ends:
        os.kill(pid, number)
        assert left.show(), number
    assert daemon_pid(left) == pid


def test_nohup_keeps_it_from_the_end_of_its_terminal(sides: tuple[Side, Side]) -> None:
    side = sides[0]
    process = side.host.popen("nohup", "env", "LOG_LEVEL=info", "wgpy", "-f", side.interface)
    eventually(side.socket.exists, "the socket")
    assert side.show()
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert "ends: SIGTERM" in errors


def test_removing_the_socket_ends_it(left: Side) -> None:
    left.socket.unlink()
    assert_ends(left)


@pytest.mark.parametrize(
    ("environment", "flags"),
    [
        (["LOG_LEVEL=info"], ["-f"]),
        (["LOG_LEVEL=verbose"], ["--foreground"]),
        (["LOG_LEVEL=debug", "WG_PROCESS_FOREGROUND=1"], []),
    ],
)
def test_in_the_foreground_it_stays_until_a_signal_and_reports_success(
    sides: tuple[Side, Side], environment: list[str], flags: list[str]
) -> None:
    side = sides[0]
    process = side.host.popen("env", *environment, "wgpy", *flags, side.interface)
    eventually(side.socket.exists, "the socket")
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "ends: SIGTERM" in errors
    assert_ends(side)


@pytest.mark.parametrize("state", ["up", "down"])
def test_in_the_foreground_a_deleted_interface_is_an_end_in_order(
    sides: tuple[Side, Side], state: str
) -> None:
    side = sides[0]
    process = side.host.popen("env", "LOG_LEVEL=error", "wgpy", "-f", side.interface)
    eventually(side.socket.exists, "the socket")
    side.host.run("ip", "link", "set", side.interface, state)
    side.host.run("ip", "link", "delete", side.interface)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
    assert_ends(side)


def test_in_the_foreground_a_data_thread_that_dies_is_a_failure(sides: tuple[Side, Side]) -> None:
    left, right = sides
    command = sys.executable, "-c", LOSE_TUN, "-f", left.interface
    process = left.host.popen("env", "LOG_LEVEL=error", *command)
    eventually(left.socket.exists, "the socket")
    left.configure(left.settings(right))
    process.send_signal(signal.SIGWINCH)
    left.host.run("ping", "-c", "1", "-W", "1", right.inner4, check=False)  # a frame to be read
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert errors == f"wgpy: a data thread died: {os.strerror(errno.EBADF)}\n"
    assert_ends(left)


# ---- link ----


def test_the_udp_port_is_open_while_the_link_is_up(sides: tuple[Side, Side], left: Side) -> None:
    def bound() -> bool:
        return ":51820" in left.host.run("ss", "-uln")

    left.configure(left.settings(sides[1]))
    eventually(bound, "an open port")
    left.host.run("ip", "link", "set", left.interface, "down")
    eventually(lambda: not bound(), "a closed port")
    left.host.run("ip", "link", "set", left.interface, "up")
    eventually(bound, "an open port again")


def test_the_interface_may_move_and_be_renamed_at_once(
    sides: tuple[Side, Side], left: Side, namespace: Callable[[], Namespace]
) -> None:
    right, inside, further = sides[1], namespace(), namespace()
    left.host.run("ip", "link", "set", left.interface, "netns", inside.name)
    inside.run("ip", "link", "set", left.interface, "name", "moved")
    right.host.run("wgpy", right.interface)
    right.configure(right.settings(left))
    left.host.run("wg", "setconf", left.interface, "/dev/stdin", stdin=left.settings(right))

    def bring_up(host: Namespace) -> None:
        host.run("ip", "address", "add", f"{left.inner4}/24", "dev", "moved")
        host.run("ip", "link", "set", "moved", "up")
        ping(host, right.inner4)

    bring_up(inside)
    inside.run("ip", "link", "set", "moved", "netns", further.name)
    bring_up(further)
    further.run("ip", "link", "delete", "moved")
    assert_ends(left)


@pytest.mark.parametrize("state", ["up", "down"])
def test_the_end_of_the_namespace_it_moved_to_ends_it(
    left: Side, namespace: Callable[[], Namespace], state: str
) -> None:
    inside = namespace()
    left.host.run("ip", "link", "set", left.interface, "netns", inside.name)
    inside.run("ip", "link", "set", left.interface, state)
    inside.delete()
    assert_ends(left)


def test_a_larger_mtu_counts_at_once(sides: tuple[Side, Side]) -> None:
    for side, peer in (sides, sides[::-1]):
        side.host.run("wgpy", side.interface)
        side.configure(side.settings(peer))
        side.host.run("ip", "link", "set", side.interface, "mtu", "9000")
    left, right = sides
    ping(left.host, right.inner4, size=8900)
