# SPDX-License-Identifier: MIT
"""Devices and sockets that somebody else made, to be handed over or to be found."""

import sys

import pytest
from netns.lab import Side, eventually, ping

# Opens what the code makes and runs wgpy with it as the variable says; argv: variable, code, name.
HAND = """
import fcntl, os, socket, struct, sys
def tun(flags, path="/dev/net/tun"):
    fd = os.open(path, os.O_RDWR)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", name.encode(), flags))
    return fd
variable, code, name = sys.argv[1:]
made = eval(code)
fd = made if isinstance(made, int) else made.fileno()
if fd < 99:
    os.set_inheritable(fd, True)
os.environ[variable] = str(fd)
os.execvp("wgpy", ["wgpy", name])
"""

UNFIT = {
    "a TUN with packet information": ("WG_TUN_FD", "tun(0x0001)", "it has packet information"),
    "a TUN with that and a header": ("WG_TUN_FD", "tun(0x4001)", "it has packet information"),
    "a TAP": ("WG_TUN_FD", "tun(0x1002)", "not a TUN queue"),
    "a TUN device without an interface": (
        "WG_TUN_FD",
        "os.open('/dev/net/tun', os.O_RDWR)",
        "bad state",
    ),
    "no TUN": ("WG_TUN_FD", "os.open('/dev/null', os.O_RDWR)", "Inappropriate ioctl"),
    "a closed TUN": ("WG_TUN_FD", "99", "Bad file descriptor"),
    "a socket that does not listen": ("WG_UAPI_FD", "socket.socket(1)", "Invalid argument"),
    "a socket of a pair": ("WG_UAPI_FD", "socket.socketpair()[0]", "Invalid argument"),
    "a UDP socket": ("WG_UAPI_FD", "socket.socket(type=2)", "not a Unix stream socket"),
    "a TCP socket that listens": (
        "WG_UAPI_FD",
        "socket.create_server(('127.0.0.1', 0))",
        "not a Unix stream socket",
    ),
    "no socket": (
        "WG_UAPI_FD",
        "os.open('/dev/null', os.O_RDWR)",
        "Socket operation on non-socket",
    ),
    "a closed socket": ("WG_UAPI_FD", "99", "Bad file descriptor"),
}


@pytest.mark.parametrize("foreground", ["0", "1"])
@pytest.mark.parametrize("case", UNFIT)
def test_what_will_not_do_is_refused_in_one_line(
    sides: tuple[Side, Side], case: str, foreground: str
) -> None:
    side = sides[0]
    variable, code, reason = UNFIT[case]
    done = side.host.attempt(
        *(sys.executable, "-c", HAND, variable, code, side.interface),
        environment={"WG_PROCESS_FOREGROUND": foreground},
    )
    assert done.returncode == 1
    assert done.stderr.startswith("wgpy: ")
    assert variable in done.stderr
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
    eventually(lambda: not side.host.has_interface(side.interface), "the end of the interface")
    assert not side.socket.exists()


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("made", ["", "pi", "multi_queue", "multi_queue pi vnet_hdr"])
def test_a_tun_that_was_made_before_is_taken(
    sides: tuple[Side, Side], workers: str, made: str
) -> None:
    left, right = sides
    left.host.run("ip", "tuntap", "add", left.interface, "mode", "tun", *made.split())
    left.host.run("env", f"WGPY_WORKERS={workers}", "wgpy", left.interface)
    right.host.run("wgpy", right.interface)
    left.configure(left.settings(right))
    right.configure(right.settings(left))
    ping(left.host, right.inner4)


def test_a_tap_that_was_made_before_is_refused_in_one_line(sides: tuple[Side, Side]) -> None:
    host, name = sides[0].host, sides[0].interface
    host.run("ip", "tuntap", "add", name, "mode", "tap")
    for workers in ("1", "2"):
        errors = host.refusal("env", f"WGPY_WORKERS={workers}", "wgpy", name)
        assert errors == f"wgpy: an interface {name} of another kind exists\n"
