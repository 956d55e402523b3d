# SPDX-License-Identifier: MIT
"""Several data threads per direction, on queues of one TUN and sockets of one port."""

import json
import sys

import pytest
from netns.lab import Namespace, Side, eventually, ping, taken, transfer

WORKERS = 3
LANES = 2

# Datagrams of several flows to the port in argv 2 of the address in argv 1, each numbered.
SEND_FLOWS = """
import socket, sys
flows = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(int(sys.argv[3]))]
for flow in flows:
    flow.connect((sys.argv[1], int(sys.argv[2])))
for number in range(int(sys.argv[4])):
    for flow in flows:
        flow.send(number.to_bytes(4, "big"))
for flow in flows:
    flow.send(b"end")
"""
# What came of each flow is printed as: how many, how many of them behind a later one.
RECEIVE_FLOWS = """
import json, socket, sys
with socket.socket(type=socket.SOCK_DGRAM) as udp:
    udp.setsockopt(socket.SOL_SOCKET, 33, 1 << 23)  # SO_RCVBUFFORCE
    udp.bind((sys.argv[1], int(sys.argv[2])))
    print("listening", flush=True)
    udp.settimeout(20)
    flows, ended = {}, set()
    while len(ended) < int(sys.argv[3]):
        data, flow = udp.recvfrom(64)
        if data == b"end":
            ended.add(flow)
            continue
        number = int.from_bytes(data, "big")
        came, behind, newest = flows.get(flow, (0, 0, -1))
        flows[flow] = came + 1, behind + (number < newest), max(number, newest)
    print(json.dumps([[came, behind] for came, behind, _ in flows.values()]))
"""


def start(side: Side, peer: Side) -> None:
    threads = f"WGPY_WORKERS={WORKERS}", f"WGPY_PIPELINE={LANES}"
    side.host.run("env", *threads, "wgpy", side.interface)
    side.configure(side.settings(peer))


@pytest.fixture
def pair(sides: tuple[Side, Side]) -> tuple[Side, Side]:
    left, right = sides
    start(left, right)
    start(right, left)
    return left, right


def sockets_of(side: Side) -> int:
    return side.host.run("ss", "-uln").count(f":{side.port} ")


def queues_of(host: Namespace, interface: str) -> int:
    return len(host.run("sh", "-c", f"ls -d /sys/class/net/{interface}/queues/tx-*").split())


def test_each_worker_has_a_queue_and_a_socket_of_each_family(pair: tuple[Side, Side]) -> None:
    for side in pair:
        assert sockets_of(side) == 2 * WORKERS
        assert queues_of(side.host, side.interface) == WORKERS


def test_streams_pass_both_ways_side_by_side(pair: tuple[Side, Side]) -> None:
    left, right = pair
    server = right.host.popen("iperf3", "--server", "--one-off", "--bind", right.inner6)
    eventually(lambda: right.inner6 in right.host.run("ss", "-ltn"), "a listening iperf3")
    flags = ["--client", right.inner6, "--time", "1", "--parallel", "5", "--bidir", "--json"]
    result = json.loads(left.host.run("iperf3", *flags))
    server.communicate(timeout=10)
    for direction in "sum_received", "sum_received_bidir_reverse":
        assert result["end"][direction]["bytes"] > 1 << 20
    transfer(left.host, right.host, right.inner4, 1 << 23)


def test_datagrams_of_a_flow_keep_their_order(pair: tuple[Side, Side]) -> None:
    left, right = pair
    ping(left.host, right.inner4)
    flows, numbers = "8", "1500"
    left.host.run("ip", "link", "set", left.interface, "txqueuelen", "12500")  # for all of them
    receiver = right.host.popen(sys.executable, "-c", RECEIVE_FLOWS, right.inner4, "7777", flows)
    assert receiver.stdout is not None
    assert receiver.stdout.readline() == "listening\n", receiver.communicate(timeout=30)
    left.host.run(sys.executable, "-c", SEND_FLOWS, right.inner4, "7777", flows, numbers)
    report, errors = receiver.communicate(timeout=30)
    came = json.loads(report)
    assert [behind for _, behind in came] == [0] * int(flows), errors
    assert all(count > int(numbers) // 2 for count, _ in came)


def test_a_port_in_use_is_still_refused_and_the_old_one_goes_on(pair: tuple[Side, Side]) -> None:
    left, right = pair
    other = f"{left.interface}o"
    left.host.run("env", f"WGPY_WORKERS={WORKERS}", "wgpy", other)
    left.host.run("ip", "link", "set", other, "up")
    refused = left.host.refusal("wg", "set", other, "listen-port", str(left.port))
    assert "Address already in use" in refused
    with taken(left.host, 4999):
        refused = left.host.refusal("wg", "set", left.interface, "listen-port", "4999")
    assert "Address already in use" in refused
    ping(left.host, right.inner4)
    left.set("listen-port", "4998")
    assert left.host.run("ss", "-uln").count(":4998 ") == 2 * WORKERS
    ping(left.host, right.inner4)


def test_the_mark_is_on_what_every_worker_sends(pair: tuple[Side, Side]) -> None:
    left, right = pair
    ping(left.host, right.inner4)
    rules = "table inet marks { chain out { type filter hook output priority 0; "
    rules += f"udp sport {left.port} meta mark != 7 counter drop; }}; }}"
    left.set("fwmark", "7")
    left.host.run("nft", "-f", "-", stdin=rules)
    transfer(left.host, right.host, right.inner4, 1 << 20)
    transfer(right.host, left.host, left.inner4, 1 << 20)
    assert "packets 0 " in left.host.run("nft", "list", "table", "inet", "marks")


def test_a_tun_of_one_queue_is_taken_over_with_one_worker(sides: tuple[Side, Side]) -> None:
    left, right = sides
    left.host.run("ip", "tuntap", "add", "mode", "tun", "name", left.interface)
    start(left, right)
    start(right, left)
    assert sockets_of(left) == 2
    ping(left.host, right.inner4)


def test_the_interface_can_go_down_and_up_and_away(pair: tuple[Side, Side]) -> None:
    left, right = pair
    ping(left.host, right.inner4)
    left.host.run("ip", "link", "set", left.interface, "down")
    eventually(lambda: sockets_of(left) == 0, "closed sockets")
    left.host.run("ip", "link", "set", left.interface, "up")
    eventually(lambda: sockets_of(left) == 2 * WORKERS, "open sockets")
    ping(left.host, right.inner4)
    left.host.run("ip", "link", "delete", left.interface)
    eventually(lambda: not left.host.pids(), "the end of the daemon")
    assert not left.socket.exists()


def test_wg_quick_brings_it_up_and_down(sides: tuple[Side, Side]) -> None:
    left, right = sides
    for side, peer in (left, right), (right, left):
        side.write_config(peer)
        side.host.run("env", f"WGPY_WORKERS={WORKERS}", "wg-quick", "up", str(side.config))
    ping(left.host, right.inner4)
    assert queues_of(left.host, left.interface) == WORKERS
    left.quick("down")
    eventually(lambda: not left.host.pids(), "the end of the daemon")
