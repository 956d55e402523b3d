# SPDX-License-Identifier: MIT
"""Clients of the configuration socket other than wg, good and bad, talk to a running daemon."""

import re
import resource
import secrets
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from netns.lab import Side, ask, connect, eventually, ping, read_reply, taken
from wireguard_tools import WireguardKey, WireguardPeer
from wireguard_tools.wireguard_uapi import WireguardUAPIDevice

OK = "errno=0\n\n"
GET = b"get=1\n\n"


@pytest.fixture
def side(tunnel: tuple[Side, Side]) -> Side:
    return tunnel[0]


@pytest.fixture
def client(side: Side) -> Iterator[socket.socket]:
    with connect(side) as client:
        yield client


def to_hex(base64: str) -> str:
    return WireguardKey(base64).keydata.hex()


def daemon(side: Side) -> int:
    (pid,) = side.host.pids()
    return pid


def resident_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1])


# ---- what one connection may do ----


def test_a_connection_carries_many_operations(side: Side, client: socket.socket) -> None:
    for mark in range(1, 50):
        client.sendall(b"set=1\nfwmark=%d\n\n" % mark)
        assert read_reply(client) == OK
        client.sendall(GET)
        assert f"fwmark={mark}\n" in read_reply(client)


def replies(client: socket.socket, count: int) -> list[str]:
    """Those of requests that were sent all at once."""
    received = ""
    while received.count("\n\n") < count:
        received += client.recv(1 << 16).decode()
    *parts, rest = received.split("\n\n")
    assert rest == ""
    return parts


def test_operations_may_be_sent_all_at_once(client: socket.socket) -> None:
    client.sendall(GET + b"set=1\nfwmark=7\n\n" + GET + b"set=1\nfwmark=x\n\n" + GET)
    first, second, third, fourth, fifth = replies(client, 5)
    assert "fwmark" not in first
    assert second == "errno=0"
    assert fourth == "errno=-22"
    assert third == fifth
    assert "fwmark=7\n" in third


def test_an_operation_may_come_byte_by_byte(side: Side, client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    for byte in b"set=1\nfwmark=4660\n\n":
        client.send(bytes([byte]))
    assert read_reply(client) == OK
    assert side.show("fwmark") == "0x1234"


def test_blank_lines_between_operations_mean_nothing(client: socket.socket) -> None:
    client.sendall(b"\n\nset=1\nfwmark=7\n\n\n\n\nget=1\n\n\nget=1\n\n")
    first, second, third = replies(client, 3)
    assert first == "errno=0"
    assert second == third
    assert second.endswith("errno=0")


def test_the_end_of_the_stream_will_do_for_the_blank_line(side: Side) -> None:
    for request in ("set=1\nfwmark=7\n", "get=1\n"):
        with connect(side) as client:
            client.sendall(request.encode())
            client.shutdown(socket.SHUT_WR)
            assert read_reply(client).endswith(OK)
    assert side.show("fwmark") == "0x7"


# ---- lines ----


def test_a_get_has_its_lines_in_order(tunnel: tuple[Side, Side]) -> None:
    left, right = tunnel
    ping(left.host, right.inner4)
    left.set("fwmark", "7")
    reply = ask(left, "get=1\n\n")
    handshake_s = left.handshake_time()
    assert re.sub(r"(_nsec)=\d+", r"\1=N", reply).splitlines() == [
        f"private_key={to_hex(left.private_key)}",
        "listen_port=51820",
        "fwmark=7",
        f"public_key={to_hex(right.public_key)}",
        f"preshared_key={'00' * 32}",
        "protocol_version=1",
        f"endpoint={right.host.outer4}:51820",
        f"last_handshake_time_sec={handshake_s}",
        "last_handshake_time_nsec=N",
        "tx_bytes=532",
        "rx_bytes=476",
        "persistent_keepalive_interval=0",
        f"allowed_ip={right.inner4}/32",
        f"allowed_ip={right.inner6}/128",
        "errno=0",
        "",
    ]


def test_what_is_not_set_has_no_line(side: Side) -> None:
    key = secrets.token_hex(32)
    change = f"private_key={'00' * 32}\nreplace_peers=true\npublic_key={key}\n"
    assert ask(side, f"set=1\n{change}\n") == OK
    reply = ask(side, "get=1\n\n")
    names = [line.partition("=")[0] for line in reply.splitlines()]
    assert names[:4] == ["listen_port", "public_key", "preshared_key", "protocol_version"]
    assert names[4:6] == ["last_handshake_time_sec", "last_handshake_time_nsec"]


def test_the_same_key_twice_in_a_request_is_one_peer(side: Side) -> None:
    peer = f"public_key={secrets.token_hex(32)}\n"
    first, second = "allowed_ip=10.8.0.0/16\n", "allowed_ip=10.9.0.0/16\n"
    sections = f"{peer}{first}{peer}persistent_keepalive_interval=9\n{second}"
    assert ask(side, f"set=1\nreplace_peers=true\n{sections}\n") == OK
    assert allowed_ips(side) == ["10.8.0.0/16", "10.9.0.0/16"]
    assert side.show("persistent-keepalive").endswith("\t9")


def test_an_ipv4_address_in_ipv6_guise_is_reached(tunnel: tuple[Side, Side]) -> None:
    left, right = tunnel
    peer = f"public_key={to_hex(right.public_key)}\n"
    endpoint = f"endpoint=[::ffff:{right.host.outer4}]:{right.port}\n"
    assert ask(left, f"set=1\n{peer}{endpoint}\n") == OK
    ping(left.host, right.inner4)


# ---- what wg of this version does not send ----


def allowed_ips(side: Side) -> list[str]:
    return re.findall(r"^allowed_ip=(.*)$", ask(side, "get=1\n\n"), re.MULTILINE)


def test_an_allowed_ip_can_be_removed_alone(tunnel: tuple[Side, Side]) -> None:
    left, right = tunnel
    stranger = secrets.token_hex(32)
    for key, kept in ((stranger, ["10.77.0.2/32", "fd77::2/128"]), (right.public_key, [])):
        key = key if key == stranger else to_hex(key)
        lines = "allowed_ip=-10.77.0.2/32\nallowed_ip=-fd77::2\nallowed_ip=-10.77.0.0/24\n"
        assert ask(left, f"set=1\npublic_key={key}\n{lines}\n") == OK
        assert allowed_ips(left) == kept


def test_update_only_makes_no_peer_and_changes_one_that_is_there(
    tunnel: tuple[Side, Side],
) -> None:
    left, right = tunnel
    keys = secrets.token_hex(32), to_hex(right.public_key)
    sections = "".join(
        f"public_key={key}\nupdate_only=true\npersistent_keepalive_interval=9\n" for key in keys
    )
    assert ask(left, f"set=1\n{sections}\n") == OK
    assert left.show("persistent-keepalive") == f"{right.public_key}\t9"


def test_the_pypi_client_sees_and_changes_a_tunnel_in_use(tunnel: tuple[Side, Side]) -> None:
    left, right = tunnel
    ping(left.host, right.inner4)
    with closing(WireguardUAPIDevice(left.socket)) as device:
        config = device.get_config()
        assert str(config.private_key) == left.private_key
        (peer,) = config.peers.values()
        assert str(peer.public_key) == right.public_key
        assert (str(peer.endpoint_host), peer.endpoint_port) == (right.host.outer4, right.port)
        assert peer.last_handshake is not None
        assert peer.last_handshake > 0
        assert (peer.rx_bytes, peer.tx_bytes) == (476, 532)

        added = WireguardPeer(
            WireguardKey.generate().public_key(),
            endpoint_host="192.0.2.9",
            endpoint_port=7,
            allowed_ips=["10.9.0.0/16"],
        )
        config.fwmark = 5
        config.add_peer(added)
        for each in (peer, added):
            each.preshared_key = None  # this client would send base64, which nobody takes
        device.set_config(config)
    assert left.show("peers").splitlines() == [right.public_key, str(added.public_key)]
    assert left.show("fwmark") == "0x5"
    ping(left.host, right.inner4)


# ---- errors ----

# One bad line each, in a request that would change much if it was applied line by line.
BAD_OF_DEVICE = {
    "private_key=12": 22,
    "listen_port=65536": 22,
    "listen_port=-1": 22,
    "listen_port=": 22,
    "fwmark=0x1": 22,
    "fwmark=4294967296": 22,
    "replace_peers=1": 22,
    "no equals sign": 71,
    "unknown=1": 22,
    "endpoint=192.0.2.1:1": 22,
    "public_key=12": 22,
}
BAD_OF_PEER = {
    "preshared_key=12": 22,
    "endpoint=host.example:1": 22,
    "endpoint=192.0.2.1": 22,
    "endpoint=[fe80::1%no-such]:1": 22,
    "persistent_keepalive_interval=65536": 22,
    "persistent_keepalive_interval=off": 22,
    "allowed_ip=10.0.0.0/33": 22,
    "allowed_ip=10.0.0/8": 22,
    "allowed_ip=": 22,
    "remove=false": 22,
    "replace_allowed_ips=TRUE": 22,
    "protocol_version=2": 22,
    "listen_port=1": 22,
    "=": 22,
}


@pytest.mark.parametrize("line", BAD_OF_DEVICE | BAD_OF_PEER)
def test_an_error_leaves_the_device_as_it_was(tunnel: tuple[Side, Side], line: str) -> None:
    left, right = tunnel
    before = ask(left, "get=1\n\n")
    bad_peer = f"{line}\n" if line in BAD_OF_PEER else ""
    request = (
        f"set=1\nfwmark=7\nlisten_port=7\n{'' if bad_peer else line}\n".replace("\n\n", "\n")
        + f"public_key={to_hex(right.public_key)}\nremove=true\n"
        + f"public_key={secrets.token_hex(32)}\nallowed_ip=10.9.0.0/16\n{bad_peer}\n"
    )
    code = (BAD_OF_DEVICE | BAD_OF_PEER)[line]
    assert ask(left, request) == f"errno={-code}\n\n"
    assert ask(left, "get=1\n\n") == before
    assert not [port for port in left.host.run("ss", "-ulnH").splitlines() if ":7 " in port]


def test_a_port_in_use_leaves_all_else_as_it_was(tunnel: tuple[Side, Side]) -> None:
    left, right = tunnel
    before = ask(left, "get=1\n\n")
    peer = f"public_key={to_hex(right.public_key)}\nremove=true\n"
    with taken(left.host, 7):
        assert ask(left, f"set=1\nfwmark=7\nlisten_port=7\n{peer}\n") == "errno=-98\n\n"
    assert ask(left, "get=1\n\n") == before


@pytest.fixture
def logged(sides: tuple[Side, Side], tmp_path: Path) -> Callable[[], str]:
    """The log of a daemon in the foreground, to be asked for when it has ended."""
    side, log = sides[0], tmp_path / "log"
    command = f"exec env LOG_LEVEL=error wgpy -f {side.interface} 2>{log}"
    process = side.host.popen("sh", "-c", command)
    eventually(side.socket.exists, "the socket")

    def end() -> str:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        return log.read_text()

    return end


def test_the_reason_of_an_error_is_logged_with_its_line_but_never_a_key(
    sides: tuple[Side, Side], logged: Callable[[], str]
) -> None:
    side = sides[0]
    key = secrets.token_hex(32)
    bad = "allowed_ip=1", f"fwmark={key}", f"preshared_key={key}0", "fwmark=9", f"no sign {key}"
    codes = [ask(side, f"set=1\npublic_key={key}\n{line}\n\n").strip() for line in bad]
    assert codes == 4 * ["errno=-22"] + ["errno=-71"]
    assert ask(side, f"set=1\nprivate_key={key}\nfwmark=5\nlisten_port=0\n\n") == OK
    ask(side, "get=1\n\n")
    lines = logged().splitlines()
    assert [line.partition(f" ERROR {side.interface}: ")[2] for line in lines] == [
        "refused a request: bad value (EINVAL): 'allowed_ip=1'",
        "refused a request: unknown or misplaced key (EINVAL)",
        "refused a request: bad value (EINVAL)",
        "refused a request: unknown or misplaced key (EINVAL): 'fwmark=9'",
        "refused a request: a line without '=' (EPROTO)",
    ]


# ---- many and bad clients ----


def test_silent_and_slow_clients_hold_up_nobody(side: Side) -> None:
    with ExitStack() as stack:
        for start in (b"", b"g", b"set=1\n", b"set=1\nfwmark=9\n", b"get=1\n") * 8:
            stack.enter_context(connect(side)).sendall(start)
        assert side.show("fwmark") == "off"
        side.set("fwmark", "7")
        assert ask(side, "get=1\n\n").endswith(OK)
        assert side.show("fwmark") == "0x7"


def test_a_client_that_reads_nothing_holds_up_nobody(side: Side) -> None:
    peers = "".join(f"public_key={secrets.token_hex(32)}\n" for _ in range(2000))
    assert ask(side, f"set=1\n{peers}\n") == OK
    with connect(side) as client:
        client.setblocking(False)
        with suppress(BlockingIOError):
            for _ in range(1 << 16):
                client.send(GET * 64)
        assert len(side.show("peers").splitlines()) == 2001


def test_64_clients_at_a_time_are_answered(side: Side) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(side)) for _ in range(64)]
        for mark, client in enumerate(clients):
            client.sendall(b"set=1\nfwmark=%d\n\n" % (mark + 1))
        assert {read_reply(client) for client in clients} == {OK}
        for client in clients:
            client.sendall(GET)
        (answer,) = {read_reply(client) for client in clients}
        assert answer.endswith(OK)
    assert 1 <= int(side.show("fwmark"), 16) <= 64


def test_clients_that_leave_within_a_reply_take_no_memory(side: Side) -> None:
    peers = "".join(f"public_key={secrets.token_hex(32)}\n" for _ in range(2000))
    assert ask(side, f"set=1\n{peers}\n") == OK
    ask(side, "get=1\n\n")
    before_kib = resident_kib(daemon(side))
    for _ in range(200):
        with connect(side) as client:
            client.sendall(GET)
            client.recv(1)
    assert ask(side, "get=1\n\n").endswith(OK)
    assert resident_kib(daemon(side)) - before_kib < 4096


def free_descriptor(pid: int) -> int:
    """The number that the process would get next."""
    taken = {int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()}
    return min(set(range(len(taken) + 1)) - taken)


def test_a_daemon_out_of_descriptors_answers_as_soon_as_it_can(side: Side) -> None:
    pid = daemon(side)
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (free_descriptor(pid), before[1]))
        clients = [stack.enter_context(connect(side)) for _ in range(20)]
        for client in clients:
            client.sendall(GET)
        clients[0].settimeout(1)
        with pytest.raises(TimeoutError):
            clients[0].recv(1)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        assert all(read_reply(client).endswith(OK) for client in clients[1:])


def test_clients_that_hold_all_descriptors_keep_nobody_out(side: Side) -> None:
    pid = daemon(side)
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        idle = [stack.enter_context(connect(side)) for _ in range(20)]
        for client in idle:
            client.sendall(GET)
            assert read_reply(client).endswith(OK)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (free_descriptor(pid), before[1]))
        assert ask(side, "get=1\n\n").endswith(OK)
        assert idle[0].recv(1) == b""
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        for client in idle[1:]:
            client.sendall(GET)
            assert read_reply(client).endswith(OK)


def is_cut_off(client: socket.socket, data: bytes) -> bool:
    """Whether the daemon ends the connection as we send and send."""
    try:
        for _ in range(1 << 10):
            client.sendall(data)
    except ConnectionError:
        return True
    return False


def test_a_line_without_end_takes_no_memory(side: Side) -> None:
    before_kib = resident_kib(daemon(side))
    for start in (b"", b"set=1\n", b"set=1\nallowed_ip="):
        with connect(side) as client:
            client.sendall(start)
            assert is_cut_off(client, b"x" * (1 << 18))
    assert resident_kib(daemon(side)) - before_kib < 4096
    assert ask(side, "get=1\n\n").endswith(OK)


def test_a_request_without_end_takes_no_memory(side: Side) -> None:
    before_kib = resident_kib(daemon(side))
    with connect(side) as client:
        client.sendall(b"set=1\n")
        assert is_cut_off(client, b"fwmark=%01000d\n" * 128 % ((7,) * 128))
    assert resident_kib(daemon(side)) - before_kib < 4096


# ---- very much ----


def test_131000_allowed_ips_are_set_shown_and_removed(tunnel: tuple[Side, Side]) -> None:
    left, right = tunnel
    ping(left.host, right.inner4)
    prefixes = [f"10.{n >> 16 | 128}.{n >> 8 & 255}.{n & 255}/32" for n in range(131_000)]
    lines = "".join(f"allowed_ip={prefix}\n" for prefix in prefixes)
    key = secrets.token_hex(32)
    assert ask(left, f"set=1\npublic_key={key}\n{lines}\n") == OK
    assert allowed_ips(left) == ["10.77.0.2/32", "fd77::2/128", *prefixes]
    shown = left.show("allowed-ips").splitlines()[1].split("\t")[1].split(" ")
    assert shown == prefixes
    ping(left.host, right.inner4)
    assert ask(left, f"set=1\npublic_key={key}\nreplace_allowed_ips=true\n{lines}\n") == OK
    assert ask(left, f"set=1\npublic_key={key}\nremove=true\n\n") == OK
    assert allowed_ips(left) == ["10.77.0.2/32", "fd77::2/128"]


def test_10000_peers_are_set_shown_and_removed(tunnel: tuple[Side, Side]) -> None:
    left, right = tunnel
    ping(left.host, right.inner4)
    keys = [secrets.token_hex(32) for _ in range(10_000)]
    sections = "".join(
        f"public_key={key}\nendpoint=192.0.2.7:7\nallowed_ip=10.128.{n >> 8}.{n & 255}/32\n"
        for n, key in enumerate(keys)
    )
    assert ask(left, f"set=1\n{sections}\n") == OK
    shown = re.findall("^public_key=(.*)$", ask(left, "get=1\n\n"), re.MULTILINE)
    assert shown == [to_hex(right.public_key), *keys]
    assert len(left.show("dump").splitlines()) == 10_002
    ping(left.host, right.inner4)
    left.host.run("wg", "syncconf", left.interface, "/dev/stdin", stdin=left.settings(right))
    assert left.show("peers") == right.public_key
    ping(left.host, right.inner4)
