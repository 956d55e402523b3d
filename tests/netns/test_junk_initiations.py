# SPDX-License-Identifier: MIT
"""Anybody who knows a public key can send initiations with a right mac1, and nothing else of it."""

import subprocess
import sys
from contextlib import closing

from netns.lab import Side, eventually, ping
from netns.traffic import junk_initiations

from wgpy.ctl.client import follow
from wgpy.status import DIRECTORY, SUFFIX

# Sends messages of 148 bytes from stdin, in bursts too small to count as load (5.3); argv: address,
# port.
BURSTS = """
import itertools, random, socket, sys, time
data = sys.stdin.buffer.read()
junk = itertools.cycle([data[at : at + 148] for at in range(0, len(data), 148)])
with socket.socket(type=socket.SOCK_DGRAM) as s:
    s.connect((sys.argv[1], int(sys.argv[2])))
    for _ in range(200):
        for _ in range(random.randrange(66, 130)):
            s.send(next(junk))
        time.sleep(0.025)
"""


def test_junk_does_not_make_it_deaf(tunnel: tuple[Side, Side]) -> None:
    left, right = tunnel
    target = right.host.outer4, str(right.port)
    flood = left.host.argv(sys.executable, "-c", BURSTS, *target)
    subprocess.run(flood, input=junk_initiations(right.public_key), timeout=60, check=True)
    # On a busy host the bursts run together.  While that is load, an initiation gets a cookie, and
    # is repeated with it only when no ping waits any more.
    eventually(lambda: is_calm(right), "the end of the load")
    ping(left.host, right.inner4)


def is_calm(side: Side) -> bool:
    with closing(follow(DIRECTORY / f"{side.interface}{SUFFIX}")) as statuses:
        return next(statuses).under_load is False
