# SPDX-License-Identifier: MIT
"""A flood meets a daemon that gets a small part of a core, and leaves no backlog behind."""

import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from netns.lab import Side, eventually

RUN_S, HOLD_S = 0.002, 0.198  # of each fifth of a second: a hundredth of a core
ANSWER_S = 2  # the whole buffer, or the whole queue of the TUN, takes longer than that
QUEUE_LEN = 500  # of a TUN, by default
# argv: address, bytes.  Datagrams as long as that, as fast as it goes, for 40 s at most.
FLOOD = """
import contextlib, socket, sys, time
end = time.monotonic() + 40
with socket.socket(type=socket.SOCK_DGRAM) as s:
    s.connect((sys.argv[1], 9))
    s.setsockopt(socket.SOL_UDP, 103, int(sys.argv[2]))  # UDP_SEGMENT
    while time.monotonic() < end:
        with contextlib.suppress(ConnectionRefusedError):
            s.send(bytes(40 * int(sys.argv[2])))
"""


@contextmanager
def flood(left: Side, right: Side, size: int) -> Iterator[None]:
    """Far more than anybody can handle goes to the right."""
    process = left.host.popen(sys.executable, "-c", FLOOD, right.inner4, str(size))
    try:
        yield
    finally:
        process.kill()
        process.communicate(timeout=30)


@contextmanager
def held_down(pid: int) -> Iterator[None]:
    """The process stands still most of the time."""
    over = threading.Event()

    def hold() -> None:
        while not over.is_set():
            os.kill(pid, signal.SIGSTOP)
            time.sleep(HOLD_S)
            os.kill(pid, signal.SIGCONT)
            time.sleep(RUN_S)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        yield
    finally:
        over.set()
        holder.join()


def buffer(side: Side) -> tuple[int, int]:
    """Of the daemon's IPv4 socket: bytes that wait in it, and bytes that may."""
    shown = side.host.run("ss", "-4uamnH", f"sport = :{side.port}")
    (waiting, most) = re.findall(r"skmem:\(r(\d+),rb(\d+)", shown)[0]
    return int(waiting), int(most)


def test_a_ping_comes_through_soon_after_a_flood(tunnel: tuple[Side, Side]) -> None:
    left, right = tunnel
    left.host.run("ping", "-c", "1", "-w", "10", right.inner4)
    (pid,) = right.host.pids()
    deepest = buffer(right)[1]
    with held_down(pid):
        with flood(left, right, 32):
            eventually(lambda: buffer(right)[0] > deepest / 2, "a full buffer")
            eventually(lambda: buffer(right)[1] < deepest / 2, "a smaller buffer")
            eventually(lambda: buffer(right)[0] < deepest / 2, "the end of the backlog")
        left.host.run("ping", "-c", "1", "-i", "0.1", "-w", str(ANSWER_S), right.inner4)

    def given_back() -> bool:
        left.host.run("ping", "-c", "1", "-w", "5", right.inner4)
        return buffer(right)[1] == deepest

    eventually(given_back, "the buffer as it was")


def queue_length(side: Side) -> int:
    """How many frames may wait in its TUN."""
    (link,) = json.loads(side.host.run("ip", "-j", "link", "show", "dev", side.interface))
    return int(link["txqlen"])


def test_a_ping_goes_out_soon_after_a_flood(tunnel: tuple[Side, Side]) -> None:
    left, right = tunnel
    left.host.run("ping", "-c", "1", "-w", "10", right.inner4)
    (pid,) = left.host.pids()
    eventually(lambda: queue_length(left) == QUEUE_LEN, "the queue as it was")
    with held_down(pid):
        with flood(left, right, 1372):
            eventually(lambda: queue_length(left) < QUEUE_LEN / 2, "a shorter queue")
        left.host.run("ping", "-c", "1", "-i", "0.1", "-w", str(ANSWER_S), right.inner4)
    eventually(lambda: queue_length(left) == QUEUE_LEN, "the queue as it was")


@pytest.mark.parametrize("length", [QUEUE_LEN, 10000])
def test_a_tun_that_stays_has_the_queue_back_unless_somebody_set_another(
    sides: tuple[Side, Side], length: int
) -> None:
    left, right = sides
    left.host.run("ip", "tuntap", "add", left.interface, "mode", "tun")
    for side, peer in ((left, right), (right, left)):
        side.host.run("wgpy", side.interface)
        side.configure(side.settings(peer))
    left.host.run("ping", "-c", "1", "-w", "10", right.inner4)
    (pid,) = left.host.pids()
    with held_down(pid), flood(left, right, 1372):
        eventually(lambda: queue_length(left) < QUEUE_LEN / 2, "a shorter queue")
        if length != QUEUE_LEN:
            left.host.run("ip", "link", "set", left.interface, "txqueuelen", str(length))
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: not left.host.pids(), "the end of the daemon")
    assert queue_length(left) == length
