# SPDX-License-Identifier: MIT
"""What the caller left open or closed, and how many descriptors it lets a process have."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from netns.lab import ENVIRONMENT, Side, connect, eventually, ping, read_reply

from wgpy.daemon.process import DESCRIPTORS, DESCRIPTORS_PER_WORKER

STANDARD = 3
# Prints how many are open when wgpy is imported: some versions of libffi keep one.
OPEN = "import os, wgpy.daemon.run; print(len(os.listdir('/proc/self/fd')) - 1)"
NEEDED = DESCRIPTORS + DESCRIPTORS_PER_WORKER  # besides, with one worker
FOR_A_SHELL = 10  # below that, dash cannot read a script


def serves(side: Side) -> None:
    """Everything works that the daemon opens descriptors for, and then it ends."""
    side.setconf(f"[Interface]\nListenPort = {side.port}\n")
    side.host.run("ip", "link", "set", side.interface, "up")
    eventually(lambda: f":{side.port} " in side.host.run("ss", "-uln"), "an open port")
    clients = [connect(side) for _ in range(8)]
    for client in clients:
        client.sendall(b"get=1\n\n")
    for client in clients:
        assert "errno=0" in read_reply(client)
    side.set("listen-port", "51999")
    for client in clients:
        client.close()
    side.host.run("ip", "link", "set", side.interface, "mtu", "1300")
    side.host.run("ip", "link", "set", side.interface, "down")
    eventually(lambda: ":51999 " not in side.host.run("ss", "-uln"), "a closed port")
    side.host.run("ip", "link", "delete", side.interface)
    eventually(lambda: not side.host.pids(), "the end of the daemon")
    assert not side.socket.exists()


@pytest.mark.parametrize("closed", ["0", "1", "2", "01", "02", "12", "012"])
def test_none_of_ours_becomes_a_standard_stream_that_was_closed(
    sides: tuple[Side, Side], closed: str
) -> None:
    side = sides[0]
    closing = " ".join(f"{fd}>&-" for fd in closed)
    side.host.run("sh", "-c", f"exec {closing}; wgpy {side.interface}")
    (pid,) = side.host.pids()
    for fd in range(STANDARD):
        assert os.readlink(f"/proc/{pid}/fd/{fd}") == os.devnull
    serves(side)


@pytest.mark.parametrize("closed", ["0", "1", "2", "01", "02", "12", "012"])
def test_in_the_foreground_neither(sides: tuple[Side, Side], closed: str) -> None:
    side = sides[0]
    closing = " ".join(f"{fd}>&-" for fd in closed)
    process = side.host.popen(
        "sh", "-c", f"exec {closing}; LOG_LEVEL=error exec wgpy -f {side.interface}"
    )
    eventually(side.socket.exists, "the socket")
    for fd in closed:
        assert os.readlink(f"/proc/{process.pid}/fd/{fd}") == os.devnull
    serves(side)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 0


@pytest.mark.parametrize("closed", ["0", "1", "2", "01", "02", "12", "012"])
@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["-x"], ["a/b"]])
def test_a_command_without_streams_ends_as_with_them(closed: str, arguments: list[str]) -> None:
    closing = " ".join(f"{fd}>&-" for fd in closed)
    done = subprocess.run(
        ["sh", "-c", f'exec {closing}; exec wgpy "$@"', "sh", *arguments],
        capture_output=True,
        text=True,
        timeout=20,
        env=ENVIRONMENT,
        check=False,
    )
    assert done.returncode == (0 if arguments[0].startswith("--") else 2)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", range(STANDARD))
def test_a_tun_may_be_handed_over_as_a_standard_stream(
    sides: tuple[Side, Side], number: int
) -> None:
    left, right = sides
    hand_over = f"""
import fcntl, os, struct
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"{left.interface}", 0x1001))
os.dup2(tun, {number})
os.environ["WG_TUN_FD"] = "{number}"
os.execvp("wgpy", ["wgpy", "{left.interface}"])
"""
    left.host.run("python3", "-c", hand_over)
    right.host.run("wgpy", right.interface)
    left.configure(left.settings(right))
    right.configure(right.settings(left))
    ping(left.host, right.inner4)


@pytest.mark.parametrize("foreground", ["0", "1"])
@pytest.mark.parametrize("limit", [*range(3, 17), 24, 32, STANDARD + NEEDED - 1])
def test_too_few_descriptors_are_refused_in_one_line(
    sides: tuple[Side, Side], limit: int, foreground: str
) -> None:
    side = sides[0]
    done = side.host.attempt(
        *("prlimit", f"--nofile={limit}:{limit}", "wgpy", side.interface),
        environment={"WGPY_WORKERS": "1", "WG_PROCESS_FOREGROUND": foreground},
    )
    assert done.returncode > 0
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("wgpy: " if limit > FOR_A_SHELL else "/bin/sh: ")
    assert not side.host.has_interface(side.interface)
    assert not side.socket.exists()


def test_with_just_enough_everything_works(sides: tuple[Side, Side]) -> None:
    side = sides[0]
    enough = int(side.host.run(sys.executable, "-c", OPEN)) + NEEDED
    limits = "prlimit", f"--nofile={enough}:{enough}"
    side.host.run("env", "WGPY_WORKERS=1", *limits, "wgpy", side.interface)
    serves(side)


def test_a_soft_limit_is_raised(sides: tuple[Side, Side]) -> None:
    side = sides[0]
    side.host.run("prlimit", "--nofile=16:", "wgpy", side.interface)
    (pid,) = side.host.pids()
    limits = Path(f"/proc/{pid}/limits").read_text()
    (line,) = (line for line in limits.splitlines() if line.startswith("Max open files"))
    assert int(line.split()[3]) == 1024
    os.kill(pid, signal.SIGTERM)
