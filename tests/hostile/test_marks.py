# SPDX-License-Identifier: MIT
"""Marks of congestion on the way through the tunnel (RFC 6040)."""

import socket
from socket import AddressFamily

import pytest
from hostile.duel import INDEX, V4, V6, Duel
from hostile.peer import INITIATION
from loopback import LOOPBACK

from wgpy.config import Endpoint

pytestmark = pytest.mark.threads

NOT_ECT, ECT1, ECT0, CE = range(4)  # RFC 3168
EXPEDITED = 0xB8

# RFC 6040, figure 4: by what the packet had and what its message has on arrival.  But for one: of
# congestion on a packet that cannot carry the mark it says to drop; the kernel module does not.
DECAPSULATED = {
    (NOT_ECT, NOT_ECT): NOT_ECT,
    (NOT_ECT, ECT0): NOT_ECT,
    (NOT_ECT, ECT1): NOT_ECT,
    (NOT_ECT, CE): NOT_ECT,
    (ECT0, NOT_ECT): ECT0,
    (ECT0, ECT0): ECT0,
    (ECT0, ECT1): ECT1,
    (ECT0, CE): CE,
    (ECT1, NOT_ECT): ECT1,
    (ECT1, ECT0): ECT1,
    (ECT1, ECT1): ECT1,
    (ECT1, CE): CE,
    (CE, NOT_ECT): CE,
    (CE, ECT0): CE,
    (CE, ECT1): CE,
    (CE, CE): CE,
}
MARKS = {
    V4: (socket.IPPROTO_IP, socket.IP_TOS, socket.IP_RECVTOS),
    V6: (socket.IPPROTO_IPV6, socket.IPV6_TCLASS, socket.IPV6_RECVTCLASS),
}


@pytest.mark.parametrize("family", [V4, V6], ids=["ipv4", "ipv6"])
def test_marks_on_the_way_come_in_as_rfc_6040_has_it(duel: Duel, family: AddressFamily) -> None:
    link = duel.session()
    level, option, _ = MARKS[family]
    for (inner, outer), expected in DECAPSULATED.items():
        duel.peer.sockets[family].setsockopt(level, option, outer)
        duel.peer.send(link.seal(duel.inner(b"payload", tos=EXPEDITED | inner)), family)
        wanted = duel.inner(b"payload", tos=EXPEDITED | expected)
        assert duel.next_frame() == wanted, (inner, outer)
    duel.until_counted("rx_ecn_ignored", 1)


@pytest.mark.parametrize("family", [V4, V6], ids=["ipv4", "ipv6"])
def test_each_packet_of_a_batch_leaves_with_its_own_mark_and_no_dscp(
    duel: Duel, family: AddressFamily
) -> None:
    level, _, option = MARKS[family]
    duel.configure(endpoint=Endpoint(LOOPBACK[4 if family == V4 else 6], duel.peer.port(family)))
    marks = [NOT_ECT, NOT_ECT, ECT0, ECT0, ECT0, CE, ECT1, ECT1, NOT_ECT, ECT0]
    for mark in marks:
        duel.send(bytes(100), tos=EXPEDITED | mark)
    initiation = duel.receive(INITIATION, family)
    duel.loop.until(lambda: duel.host.stats.staged == len(marks))
    duel.peer.sockets[family].setsockopt(level, option, 1)
    response, link = duel.peer.respond(initiation, INDEX)
    duel.peer.send(response, family)
    for mark in marks:
        message, tos = duel.receive_marked(family)
        assert link.open(message)[1] == EXPEDITED | mark
        assert tos == mark
