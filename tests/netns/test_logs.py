# SPDX-License-Identifier: MIT
"""Logs that nobody reads, and places without any: nothing waits, and nothing is lost unsaid."""

import fcntl
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from netns.lab import ENVIRONMENT, SOCKETS, Side, eventually, ping, taken

LONG_S = 30.0  # for what takes a moment, or for ever if it is wrong
# A /dev of our own, in the mount namespace that `ip netns exec` makes; $0: the log's socket, or "".
OWN_DEV = """
dev=$(mktemp -d)
mount -t tmpfs tmpfs "$dev"
mkdir "$dev/net"
for node in null zero random urandom net/tun; do
    touch "$dev/$node"; mount --bind "/dev/$node" "$dev/$node"
done
[ -z "$0" ] || { touch "$dev/log"; mount --bind "$0" "$dev/log"; }
mount --rbind "$dev" /dev
umount --lazy "$dev"
rmdir "$dev"
exec "$@"
"""


def with_log(log: Path | str, *command: str) -> list[str]:
    """The command where /dev/log is that socket, or where there is none ("")."""
    return ["sh", "-ec", OWN_DEV, os.fspath(log), *command]


@pytest.fixture
def side(sides: tuple[Side, Side]) -> Side:
    return sides[0]


@contextmanager
def syslogd(path: Path) -> Iterator[socket.socket]:
    """It reads when the test does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(os.fspath(path))
        daemon.settimeout(LONG_S)
        yield daemon


def refuse_requests(side: Side) -> None:
    """Thousands of lines for the log, more than any queue holds."""
    request, reply = b"set=1\nlisten_port=" + b"x" * 150 + b"\n\n", b"errno=-22\n\n"
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(LONG_S)
        client.connect(os.fspath(side.socket))
        for _ in range(60):
            client.sendall(request * 50)
            answers = b""
            while len(answers) < len(reply) * 50:
                answers += client.recv(4096)
            assert answers == reply * 50


def assert_works(side: Side, other: Side) -> None:
    """Questions, handshakes, and after that the end by SIGTERM."""
    assert side.show("fwmark") == "off"
    other.host.run("wgpy", other.interface)
    side.configure(side.settings(other))
    other.configure(other.settings(side))
    ping(side.host, other.inner4)
    for pid in side.host.pids():
        os.kill(pid, signal.SIGTERM)
    assert_ends(side)


def assert_ends(side: Side) -> None:
    eventually(lambda: not side.host.has_interface(side.interface), "no interface", LONG_S)
    eventually(lambda: not side.host.pids(), "no process", LONG_S)
    assert not side.socket.exists()


def test_a_syslogd_that_does_not_read_holds_up_nothing(
    sides: tuple[Side, Side], tmp_path: Path
) -> None:
    side = sides[0]
    with syslogd(tmp_path / "log"):
        side.host.run(*with_log(tmp_path / "log", "wgpy", side.interface))
        refuse_requests(side)
        assert_works(*sides)


def test_a_syslogd_that_reads_again_hears_how_many_lines_are_lost(
    side: Side, tmp_path: Path
) -> None:
    with syslogd(tmp_path / "log") as daemon:
        side.host.run(*with_log(tmp_path / "log", "wgpy", side.interface))
        refuse_requests(side)
        assert f": {side.interface}: ready: " in daemon.recv(2000).decode()
        while " lines lost" not in daemon.recv(2000).decode():
            pass
        side.host.run("ip", "link", "delete", side.interface)
        while not daemon.recv(2000).decode().endswith(": ends: interface deleted"):
            pass
        assert_ends(side)


def test_a_syslogd_that_is_gone_holds_up_nothing(sides: tuple[Side, Side], tmp_path: Path) -> None:
    side = sides[0]
    with syslogd(tmp_path / "log"):
        side.host.run(*with_log(tmp_path / "log", "wgpy", side.interface))
    refuse_requests(side)
    assert_works(*sides)


def in_foreground(side: Side, stderr: int, *command: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        side.host.argv(*(command or ("wgpy", "-f", side.interface))),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        text=True,
        env=ENVIRONMENT,
    )
    eventually(side.socket.exists, "the socket")
    return process


@pytest.mark.parametrize("state", ["full", "closed"])
def test_a_stderr_that_nobody_reads_holds_up_nothing(sides: tuple[Side, Side], state: str) -> None:
    reader, writer = os.pipe()
    process = in_foreground(sides[0], writer)
    if state == "closed":
        os.close(reader)
    refuse_requests(sides[0])
    assert_works(*sides)
    assert process.wait(LONG_S) == 0
    assert not fcntl.fcntl(writer, fcntl.F_GETFL) & os.O_NONBLOCK
    os.close(writer)
    if state == "full":
        os.close(reader)


def test_a_failure_is_told_by_the_exit_status_even_if_nobody_reads_stderr(side: Side) -> None:
    reader, writer = os.pipe()
    os.write(writer, bytes(fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ)))
    command = side.host.argv("wgpy", "-f", "lo")
    process = subprocess.Popen(command, stderr=writer, env=ENVIRONMENT)
    assert process.wait(LONG_S) == 1
    os.close(reader)
    os.close(writer)


def test_a_journal_that_does_not_read_holds_up_nothing(sides: tuple[Side, Side]) -> None:
    journal, ours = socket.socketpair()
    with journal, ours:
        status = os.fstat(ours.fileno())
        stream = f"JOURNAL_STREAM={status.st_dev}:{status.st_ino}"
        command = "env", stream, "wgpy", "-f", sides[0].interface
        process = in_foreground(sides[0], ours.fileno(), *command)
        refuse_requests(sides[0])
        assert_works(*sides)
        assert process.wait(LONG_S) == 0
        assert journal.recv(1000).startswith(b"<5>")


# ---- where there is no syslog ----


@contextmanager
def up_without_its_port(side: Side) -> Iterator[None]:
    side.set("listen-port", str(side.port))
    with taken(side.host, side.port):
        side.host.run("ip", "link", "set", side.interface, "up")
        yield


def test_without_a_syslog_a_file_beside_the_sockets_tells_what_is_wrong(side: Side) -> None:
    log = SOCKETS / "wgpy.log"

    def said(text: str) -> bool:
        return log.exists() and f" {side.interface}: {text}" in log.read_text()

    side.host.run(*with_log("", "wgpy", side.interface))
    eventually(lambda: said("ready: "), "what an operator needs")
    with up_without_its_port(side):
        eventually(lambda: said(f"cannot listen on UDP port {side.port}: "), "the reason")
    side.host.run("ip", "link", "delete", side.interface)
    assert_ends(side)
    assert said("ends: interface deleted")


def test_without_a_syslog_who_asks_for_a_log_gets_it_on_stderr(side: Side) -> None:
    process = side.host.popen(*with_log("", "env", "LOG_LEVEL=error", "wgpy", side.interface))
    assert process.wait(LONG_S) == 0
    assert process.stderr is not None
    with up_without_its_port(side):
        assert "cannot listen" in process.stderr.readline()
    side.host.run("ip", "link", "delete", side.interface)
    assert process.communicate(timeout=LONG_S) == ("", "")


@pytest.mark.parametrize("level", ["", "silent"])
def test_who_does_not_ask_for_a_log_has_stderr_back_at_once(side: Side, level: str) -> None:
    command = with_log("", "env", f"LOG_LEVEL={level}", "wgpy", side.interface)
    assert side.host.popen(*command).communicate(timeout=LONG_S) == ("", "")
    assert side.show("fwmark") == "off"


def test_where_nothing_takes_a_log_the_caller_hears_so(
    side: Side,
) -> None:
    trap = SOCKETS / "wgpy.log"
    private = f'mount -t tmpfs -o mode=755 tmpfs "{SOCKETS}"; mkdir "{trap}"; exec "$@"'
    command = with_log("", "sh", "-ec", private, "", "wgpy", side.interface)
    _, errors = side.host.popen(*command).communicate(timeout=LONG_S)
    assert errors == f"wgpy: nothing is logged: {trap}: Is a directory\n"
    side.host.run("ip", "link", "delete", side.interface)
    assert_ends(side)
