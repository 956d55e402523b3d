"""A hub has one peer behind a slow link that is overloaded, and one on a free link."""

import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from netns.lab import HAND_OVER, Namespace, Side, eventually, plan_side, transfer

SLOW, FREE = "192.0.3", "192.0.4"  # networks; the hub's end is .1
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
WITHOUT_PRIVILEGE = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", "wgpy"]


def start(side: Side, privileged: bool) -> None:
    if privileged:
        side.host.run("wgpy", side.interface)
    else:
        hand_over = (sys.executable, "-c", HAND_OVER, side.interface)
        side.host.run(*hand_over, *WITHOUT_PRIVILEGE)


def cable(hub: Namespace, host: Namespace, name: str, network: str) -> None:
    veth = ["type", "veth", "peer", "name", "cable", "netns", host.name]
    hub.run("ip", "link", "add", name, *veth)
    for end, device, number in ((hub, name, 1), (host, "cable", 2)):
        end.run("ip", "address", "add", f"{network}.{number}/24", "dev", device)
        end.run("ip", "link", "set", device, "up")


@pytest.fixture(params=[True, False], ids=["large buffer", "buffer as it is allowed"])
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
        start(peer, True)
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


def test_an_overloaded_slow_peer_holds_up_neither_the_others_nor_the_end(
    star: tuple[Side, Side, Side],
) -> None:
    hub, slow, free = star
    (daemon,) = hub.host.pids()
    flood = hub.host.popen(sys.executable, "-c", FLOOD, slow.inner4, "20")
    try:
        eventually(lambda: backlog(hub.host) > 2 << 20, "a queue in front of the slow link")
        pings = ["ping", "-c", "20", "-i", "0.05", "-W", "2", free.inner4]
        assert " 20 received" in hub.host.run(*pings, check=False)
        transfer(hub.host, free.host, free.inner4, 1 << 20)
        os.kill(daemon, signal.SIGTERM)
        eventually(lambda: daemon not in hub.host.pids(), "the end of the daemon", 3)
    finally:
        flood.kill()
        flood.communicate()
