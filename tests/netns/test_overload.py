"""A flood comes to a daemon that gets a small part of a core, and leaves no backlog behind."""

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from netns.lab import Side, eventually

RUN_S, HOLD_S = 0.001, 0.199  # of each fifth of a second: a two-hundredth of a core
ANSWER_S = 2  # the whole buffer takes about twice that
# argv: address.  Datagrams of 32 bytes, as fast as it goes, for 20 s at most.
FLOOD = """
import contextlib, socket, sys, time
end = time.monotonic() + 20
with socket.socket(type=socket.SOCK_DGRAM) as s:
    s.connect((sys.argv[1], 9))
    s.setsockopt(socket.SOL_UDP, 103, 32)  # UDP_SEGMENT
    while time.monotonic() < end:
        with contextlib.suppress(ConnectionRefusedError):
            s.send(bytes(64 * 32))
"""


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
        flood = left.host.popen(sys.executable, "-c", FLOOD, right.inner4)
        try:
            eventually(lambda: buffer(right)[0] > deepest / 2, "a full buffer")
            eventually(lambda: buffer(right)[1] < deepest / 2, "a smaller buffer")
            eventually(lambda: buffer(right)[0] < deepest / 2, "the end of the backlog")
        finally:
            flood.kill()
            flood.communicate(timeout=5)
        left.host.run("ping", "-c", "1", "-i", "0.1", "-w", str(ANSWER_S), right.inner4)

    def given_back() -> bool:
        left.host.run("ping", "-c", "1", "-w", "5", right.inner4)
        return buffer(right)[1] == deepest

    eventually(given_back, "the buffer as it was")
