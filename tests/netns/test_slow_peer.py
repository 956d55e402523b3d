# SPDX-License-Identifier: MIT
"""A hub has one peer behind a slow link that is overloaded, and one on a free link."""

import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from netns.lab import HAND_OVER, Namespace, Side, eventually, plan_side, statistic, transfer

SLOW, FREE = "192.0.3", "192.0.4"  # networks; the hub's end is .1
BACKLOG = 100_000  # bytes: half of the smallest buffer, or what the flood sends in 5 ms
QUEUE = "100mb"  # of the slow link: more than the socket buffers of before held
# argv: address, seconds; 20 MB a second are eighty times what the slow link takes.
FLOOD = """
import contextlib, socket, sys, time
end = time.monotonic() + float(sys.argv[2])
with socket.socket(type=socket.SOCK_DGRAM) as s:
    s.connect((sys.argv[1], 9))
    s.setsockopt(socket.SOL_UDP, 103, 1300)  # UDP_SEGMENT
    while time.monotonic() < end:
        for _ in range(4):
            with contextlib.suppress(ConnectionRefusedError):
                s.send(bytes(40 * 1300))
        time.sleep(0.01)
"""
WITHOUT_PRIVILEGE = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
# wgpy where net.core.wmem_max is the kernel's default, which cannot be set for one namespace.
OF_DEFAULT_HOST = """
import sys, wgpy.linux.sockets
from wgpy.daemon.cli import main
wgpy.linux.sockets.BUFFER_LEN = 212992
sys.exit(main())
"""
COMMANDS = {
    "large": [],
    "as the host allows": [*WITHOUT_PRIVILEGE, "wgpy"],
    "as hosts allow by default": [*WITHOUT_PRIVILEGE, sys.executable, "-c", OF_DEFAULT_HOST],
}
WITH_SUPER_PACKETS = "0x5001"  # else the TUN's own queue drops what TCP sends
SIZE = 32 << 20  # bytes
RETRANSMITS_MAX = 1500  # of about 24,000 segments; without room there are more than 2,000
ANSWERS_MIN = 16  # of 20: a busy host may lose one in the TUN's queue; without room 15 at most came


def start(side: Side, command: Sequence[str] = ()) -> None:
    """As usual, or by a command that has no privilege to open a TUN either."""
    if command:
        hand_over = (sys.executable, "-c", HAND_OVER, WITH_SUPER_PACKETS, side.interface)
        side.host.run(*hand_over, *command)
    else:
        side.host.run("wgpy", side.interface)


def cable(hub: Namespace, host: Namespace, name: str, network: str) -> None:
    veth = ["type", "veth", "peer", "name", "cable", "netns", host.name]
    hub.run("ip", "link", "add", name, *veth)
    for end, device, number in ((hub, name, 1), (host, "cable", 2)):
        end.run("ip", "address", "add", f"{network}.{number}/24", "dev", device)
        end.run("ip", "link", "set", device, "up")


@pytest.fixture(params=COMMANDS.values(), ids=list(COMMANDS))
def star(
    request: pytest.FixtureRequest, namespace: Callable[..., Namespace], tmp_path: Path
) -> tuple[Side, Side, Side]:
    """The hub, the slow peer and the free one; all have sessions."""
    hosts = namespace(), namespace(f"{SLOW}.2"), namespace(f"{FREE}.2")
    hub, slow, free = (plan_side(host, i, tmp_path) for i, host in enumerate(hosts, 1))
    sections = []
    start(hub, request.param)
    for peer, name, network in ((slow, "slow", SLOW), (free, "free", FREE)):
        cable(hub.host, peer.host, name, network)
        start(peer)
        peer.configure(peer.settings(replace(hub, host=replace(hub.host, outer4=f"{network}.1"))))
        sections.append(hub.settings(peer))
    hub.configure("".join([sections[0], *sections[1].partition("[Peer]")[1:]]))
    for peer in (slow, free):
        hub.host.run("ping", "-c", "1", "-W", "5", peer.inner4)
    limit = ["rate", "2mbit", "burst", "10kb", "limit", QUEUE]
    hub.host.run("tc", "qdisc", "add", "dev", "slow", "root", "tbf", *limit)
    return hub, slow, free


def backlog(host: Namespace) -> int:
    """Bytes that wait for the slow link."""
    shown = host.run("tc", "-s", "-j", "qdisc", "show", "dev", "slow")
    (value,) = re.findall(r'"backlog":(\d+)', shown)
    return int(value)


def await_congestion(host: Namespace) -> None:
    """What waits for the slow link does not become more, though the flood goes on."""
    seen = [0, 0]

    def stands() -> bool:
        seen.append(backlog(host))
        return BACKLOG < seen[-1] < seen[-2] + BACKLOG

    eventually(stands, "a queue in front of the slow link that stands", 20)


def test_an_overloaded_slow_peer_holds_up_neither_the_others_nor_the_end(
    star: tuple[Side, Side, Side],
) -> None:
    hub, slow, free = star
    (daemon,) = hub.host.pids()
    flood = hub.host.popen(sys.executable, "-c", FLOOD, slow.inner4, "40")
    try:
        await_congestion(hub.host)
        pings = ["ping", "-c", "20", "-i", "0.05", "-W", "2", free.inner4]
        (answers,) = re.findall(r"(\d+) received", hub.host.run(*pings, check=False))
        assert int(answers) >= ANSWERS_MIN
        retransmits = statistic(hub.host, "TcpRetransSegs")
        transfer(hub.host, free.host, free.inner4, SIZE)
        assert statistic(hub.host, "TcpRetransSegs") - retransmits <= RETRANSMITS_MAX
        os.kill(daemon, signal.SIGTERM)
        eventually(lambda: daemon not in hub.host.pids(), "the end of the daemon", 3)
    finally:
        flood.kill()
        flood.communicate()
