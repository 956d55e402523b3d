# SPDX-License-Identifier: MIT
"""A host hears at once that its tunnel leads nowhere, as from the kernel module."""

import sys
from collections.abc import Callable

import pytest
from netns.lab import Namespace, Side

# Both print the error's name, or "none".  argv: address.  To a UDP socket Linux reports an
# unreachable host only when asked to.
UDP = """
import errno, socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as s:
    s.settimeout(3)
    ipv4, ipv6 = (socket.IPPROTO_IP, 11), (socket.IPPROTO_IPV6, 25)  # IP_RECVERR, IPV6_RECVERR
    s.setsockopt(*(ipv4 if family == socket.AF_INET else ipv6), 1)
    s.connect((sys.argv[1], 9))
    s.send(b"anybody there?")
    try:
        s.recv(1)
    except OSError as error:
        print(errno.errorcode.get(error.errno, "none"))
"""
TCP = """
import errno, socket, sys
try:
    socket.create_connection((sys.argv[1], 9), 3).close()
except OSError as error:
    print(errno.errorcode.get(error.errno, "none"))
"""
NOWHERE = {4: "10.77.0.99", 6: "fd77::99"}  # in the tunnel's network, but nobody's
NO_ENDPOINT = {4: "10.77.0.2", 6: "fd77::2"}


@pytest.fixture
def lonely(sides: tuple[Side, Side]) -> Namespace:
    """A host with a tunnel whose only peer has no endpoint."""
    side, other = sides
    side.host.run("wgpy", side.interface)
    settings = side.settings(other).splitlines()
    side.configure("\n".join(line for line in settings if not line.startswith("Endpoint")))
    return side.host


@pytest.fixture(params=[NOWHERE, NO_ENDPOINT], ids=["no peer", "no endpoint"])
def address(request: pytest.FixtureRequest) -> Callable[[int], str]:
    addresses: dict[int, str] = request.param
    return addresses.__getitem__


@pytest.mark.parametrize("version", [4, 6])
def test_ping_says_so(lonely: Namespace, address: Callable[[int], str], version: int) -> None:
    said = lonely.run("ping", "-n", "-c", "1", "-W", "3", address(version), check=False)
    reason = {4: "Destination Host Unreachable", 6: "Destination unreachable: Address unreachable"}
    assert f"From {address(version)} icmp_seq=1 {reason[version]}" in said


@pytest.mark.parametrize("program", [UDP, TCP], ids=["udp", "tcp"])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("rp_filter", [0, 1])
def test_a_socket_gets_an_error_instead_of_silence(
    lonely: Namespace,
    address: Callable[[int], str],
    version: int,
    program: str,
    rp_filter: int,
) -> None:
    lonely.run("sysctl", "-q", "-w", f"net.ipv4.conf.all.rp_filter={rp_filter}")
    said = lonely.run(sys.executable, "-c", program, address(version))
    assert said == "EHOSTUNREACH\n"
