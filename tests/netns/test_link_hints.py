# SPDX-License-Identifier: MIT
"""A storm of changes of other interfaces: the link is looked at rarely, and its last state seen."""

import sys

from netns.lab import Side

# argv: the interface to make, and another, whose MTU changes a thousand times.  Prints how often
# the link was read, how often it may be, and the MTU that it was told of at last.
STORM = """
import asyncio, fcntl, os, socket, struct, sys, time
from wgpy.linux import link as module
from wgpy.linux.link import Link

ours, other = sys.argv[1].encode(), sys.argv[2].encode()
control = socket.socket(type=socket.SOCK_DGRAM)

def make(name):
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", name, 0x1001))
    return tun

def set_mtu(name, mtu):
    fcntl.ioctl(control, 0x8922, struct.pack("16si20x", name, mtu))

class Counting(Link):
    reads = 0
    async def _read(self):
        self.reads += 1
        return await super()._read()

async def main():
    tun, elsewhere = make(ours), make(other)
    link, told, last = Counting(tun), [], asyncio.Event()

    def on_mtu(mtu):
        told.append(mtu)
        if mtu == 1333:
            last.set()

    start = time.monotonic()
    watch = asyncio.create_task(link.watch(lambda: None, lambda: None, on_mtu))
    for number in range(1000):
        set_mtu(other, 1280 + number % 2)
        await asyncio.sleep(0)
    set_mtu(ours, 1333)
    await asyncio.wait_for(last.wait(), 30)
    taken = time.monotonic() - start
    watch.cancel()
    print(link.reads, 2 + module.READ_BURST + int(taken / module.READ_INTERVAL_S), told[-1])

asyncio.run(main())
"""


def test_a_storm_of_changes_elsewhere_is_looked_at_rarely(sides: tuple[Side, Side]) -> None:
    left = sides[0]
    run = left.host.run(sys.executable, "-c", STORM, left.interface, f"{left.interface}x")
    reads, most, mtu = map(int, run.split())
    assert reads <= most
    assert mtu == 1333
