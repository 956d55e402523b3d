# SPDX-License-Identifier: MIT
"""Links and routes that change for ever: their messages are freed though the collector is off."""

import sys

from netns.lab import Side

TIMES = 1_000
SOME = 20_000  # blocks of memory that may come and go; one message takes some 400

# argv: the interface to make, how often.  Prints how many blocks more there are afterwards.  A
# thousand times each change of the MTU leads to a look at it, and that to the next change.
CHANGE_MTU = """
import asyncio, fcntl, gc, os, socket, struct, sys
import wgpy.linux.link
from wgpy.linux.link import Link

wgpy.linux.link.READ_INTERVAL_S = 0.0  # or it would take its time
name, times = sys.argv[1].encode(), int(sys.argv[2])
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", name, 0x1001))
control = socket.socket(type=socket.SOCK_DGRAM)
blocks = []

class Enough(Exception):
    pass

def change(mtu):
    blocks.append(sys.getallocatedblocks())
    if len(blocks) > times:
        raise Enough
    fcntl.ioctl(control, 0x8922, struct.pack("16si20x", name, 1280 + len(blocks) % 2))

async def main():
    link = Link(tun)
    try:
        await link.watch(lambda: None, lambda: None, change)
    except Enough:
        print(blocks[-1] - blocks[times // 10])

gc.disable()
asyncio.run(main())
"""

# argv: how many times 16 paths are judged.  Prints the same.
JUDGE_PATHS = """
import asyncio, gc, sys
from wgpy.config import Endpoint
from wgpy.linux.routes import RouteWatch

here = Endpoint(bytes([127, 0, 0, 1]), 7, source=bytes([127, 0, 0, 1]), source_ifindex=1)

class Device:
    listen_port, fwmark, judged = 51820, 0, 0
    def paths(self):
        return iter([[(slot, here) for slot in range(8)]] * 2)
    def allow_source(self, slot, path, holds):
        assert holds
        self.judged += 1

async def main():
    device, times = Device(), int(sys.argv[1])
    watch = RouteWatch(device, lambda: 0)
    for number in range(times):
        await watch.look()
        await asyncio.sleep(0)
        if number == times // 10:
            before = sys.getallocatedblocks()
    assert device.judged == 16 * times
    print(sys.getallocatedblocks() - before)

gc.disable()
asyncio.run(main())
"""


def test_notifications_of_links_leave_nothing_behind(sides: tuple[Side, Side]) -> None:
    left = sides[0]
    grown = left.host.run(sys.executable, "-c", CHANGE_MTU, left.interface, str(TIMES))
    assert int(grown) < SOME


def test_changes_of_routes_leave_nothing_behind(sides: tuple[Side, Side]) -> None:
    grown = sides[0].host.run(sys.executable, "-c", JUDGE_PATHS, str(TIMES // 10))
    assert int(grown) < SOME
