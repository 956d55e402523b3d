# SPDX-License-Identifier: MIT
"""Route netlink: the few requests that a tunnel makes, and what the kernel answers.

They are made here because each daemon and each tunnel needs them, and a library for all of netlink
is more than all else that those load: a third of their start and of their memory.

The kernel works on a request while it is sent, and the one answer is there when that returns. So
nobody waits in here but for the kernel's own lock.  See netlink(7), rtnetlink(7).
"""

import contextlib
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from typing import Final

from wgpy.config import Endpoint

ANSWER_LEN: Final = 1 << 15  # bytes; the kernel's longest message
KERNEL: Final = (0, 0)  # port and groups

# <linux/netlink.h>
NLM_F_REQUEST: Final = 0x01
NLM_F_ACK: Final = 0x04
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400
NLMSG_ERROR: Final = 2
NLA_TYPE_MASK: Final = 0x3FFF

# <linux/rtnetlink.h>
RTM_GETLINK, RTM_SETLINK = 18, 19
RTM_NEWADDR: Final = 20
RTM_NEWROUTE, RTM_GETROUTE = 24, 26
RTM_NEWNSID, RTM_GETNSID = 88, 90
RTA_DST, RTA_SRC, RTA_OIF, RTA_MARK, RTA_IP_PROTO, RTA_SPORT, RTA_DPORT = 1, 2, 4, 16, 27, 28, 29
RT_TABLE_MAIN: Final = 254
RTPROT_STATIC: Final = 4
RT_SCOPE_UNIVERSE: Final = 0
RTN_UNICAST: Final = 1

# <linux/if.h>, <linux/if_link.h>, <linux/if_tun.h>, <linux/if_addr.h>, <linux/net_namespace.h>
IFF_UP: Final = 1
IFLA_IFNAME, IFLA_MTU, IFLA_TXQLEN, IFLA_LINKINFO = 3, 4, 13, 18
IFLA_STATS64, IFLA_TARGET_NETNSID = 23, 46
IFLA_INFO_DATA: Final = 2
IFLA_TUN_PI: Final = 4
IFA_ADDRESS, IFA_LOCAL = 1, 2
NETNSA_NSID, NETNSA_FD = 1, 3
NETNSA_NSID_NOT_ASSIGNED: Final = -1

MESSAGE: Final = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
ATTRIBUTE: Final = struct.Struct("=HH")  # nlattr: length, type
LINK: Final = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
ADDRESS: Final = struct.Struct("=4BI")  # ifaddrmsg: family, prefix length, flags, scope, index
# rtmsg: family, lengths of destination and source, TOS, table, protocol, scope, type, flags
ROUTE: Final = struct.Struct("=8BI")
NAMESPACE: Final = struct.pack("=B3x", socket.AF_UNSPEC)  # rtgenmsg
ERROR: Final = struct.Struct("=i")  # nlmsgerr
COUNTERS: Final = struct.Struct("=8Q")  # the first of rtnl_link_stats64
U8, U16, U32, S32 = (struct.Struct(code) for code in ("=B", "=H", "=I", "=i"))
PORT: Final = struct.Struct("!H")

Network = IPv4Network | IPv6Network


class Refused(OSError):
    """What the kernel answered in place of what it was asked for."""


@dataclass(frozen=True, slots=True)
class LinkState:
    """An interface, and what became of the frames that it was to send."""

    index: int
    up: bool  # administratively
    mtu: int  # bytes
    queue_len: int  # frames that may wait in each queue (txqueuelen)
    sent: int  # frames
    dropped: int  # frames, for want of room
    has_packet_information: bool  # each frame of the TUN has a header before it (tun_pi)


class Netlink:
    """A socket for requests in the namespace where it was opened; it hears no notifications.

    What the kernel does not do raises Refused, and what fails here OSError.
    """

    def __init__(self, netlink: socket.socket | None = None) -> None:
        """Open a socket in our namespace, or take over one of another.  Raises OSError."""
        if netlink is None:
            netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket = netlink
        self._socket.setblocking(False)
        self._sequence = 0

    def close(self) -> None:
        """Close it.  More than once is fine."""
        self._socket.close()

    # ---- interfaces ----

    def link(self, name: str, namespace_id: int | None = None) -> LinkState:
        """Return the state of an interface, which may be in a namespace that has an id here."""
        asked = _attribute(IFLA_IFNAME, name.encode() + b"\0")
        if namespace_id is not None:
            asked += _attribute(IFLA_TARGET_NETNSID, S32.pack(namespace_id))
        return _link_state(self._ask(RTM_GETLINK, LINK.pack(0, 0, 0, 0, 0) + asked))

    def set_link(
        self, name: str, *, up: bool = False, mtu: int | None = None, queue_len: int | None = None
    ) -> None:
        """Bring an interface up, set its MTU (bytes) or its queue's length (frames)."""
        flags = IFF_UP if up else 0
        wanted = _attribute(IFLA_IFNAME, name.encode() + b"\0")
        for kind, value in ((IFLA_MTU, mtu), (IFLA_TXQLEN, queue_len)):
            if value is not None:
                wanted += _attribute(kind, U32.pack(value))
        self._ask(RTM_SETLINK, LINK.pack(0, 0, 0, flags, flags) + wanted, NLM_F_ACK)

    def namespace_id(self, namespace: int) -> int:
        """Return the id here of the namespace with this descriptor; it gets one if it has none."""
        asked = NAMESPACE + _attribute(NETNSA_FD, U32.pack(namespace))
        unset = _attribute(NETNSA_NSID, S32.pack(NETNSA_NSID_NOT_ASSIGNED))
        with contextlib.suppress(Refused):  # it has one, and whoever may not give it asks for that
            self._ask(RTM_NEWNSID, asked + unset, NLM_F_ACK)
        answer = self._ask(RTM_GETNSID, asked)
        return _number(S32, _attributes(answer[len(NAMESPACE) :]), NETNSA_NSID)

    # ---- addresses and routes ----

    def add_address(self, index: int, address: IPv4Interface | IPv6Interface) -> None:
        """Give an interface an address with the network around it."""
        header = ADDRESS.pack(_family(address.packed), address.network.prefixlen, 0, 0, index)
        attributes = (_attribute(kind, address.packed) for kind in (IFA_LOCAL, IFA_ADDRESS))
        self._ask(RTM_NEWADDR, header + b"".join(attributes), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)

    def add_route(self, index: int, network: Network) -> None:
        """Lead what is for a network into an interface."""
        to = network.network_address.packed
        place = (RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_UNIVERSE, RTN_UNICAST)
        header = ROUTE.pack(_family(to), network.prefixlen, 0, 0, *place, 0)
        attributes = _attribute(RTA_DST, to) + _attribute(RTA_OIF, U32.pack(index))
        self._ask(RTM_NEWROUTE, header + attributes, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)

    def way_out(self, to: Endpoint, listen_port: int, fwmark: int, source: bytes = b"") -> int:
        """Return the index of the interface by which a tunnel's own messages leave, 0 for none.

        They may have to leave from this address.
        """
        bits = len(to.address) * 8
        header = ROUTE.pack(_family(to.address), bits, len(source) * 8, 0, 0, 0, 0, 0, 0)
        attributes = {
            RTA_DST: to.address,
            RTA_IP_PROTO: U8.pack(socket.IPPROTO_UDP),
            RTA_SPORT: PORT.pack(listen_port),
            RTA_DPORT: PORT.pack(to.port),
            RTA_MARK: U32.pack(fwmark),
        }
        if source:
            attributes[RTA_SRC] = source
        asked = b"".join(_attribute(kind, value) for kind, value in attributes.items())
        answer = self._ask(RTM_GETROUTE, header + asked)
        return _number(U32, _attributes(answer[ROUTE.size :]), RTA_OIF)

    def _ask(self, kind: int, body: bytes, flags: int = 0) -> bytes:
        """Return the body of the answer, which says nothing to what only was to be done."""
        self._sequence = self._sequence + 1 & 0xFFFFFFFF
        length = MESSAGE.size + len(body)
        header = MESSAGE.pack(length, kind, NLM_F_REQUEST | flags, self._sequence, 0)
        self._socket.sendto(header + body, KERNEL)
        while True:
            answer, sender = self._socket.recvfrom(ANSWER_LEN)
            length, kind, _, sequence, _ = MESSAGE.unpack_from(answer)
            if sender == KERNEL and sequence == self._sequence:  # not of one that failed here
                break
        body = answer[MESSAGE.size : length]
        if kind == NLMSG_ERROR and (code := -ERROR.unpack_from(body)[0]):
            raise Refused(code, os.strerror(code))
        return body


def _family(address: bytes) -> int:
    return socket.AF_INET if len(address) == 4 else socket.AF_INET6


def _attribute(kind: int, value: bytes) -> bytes:
    padding = bytes(-len(value) % ATTRIBUTE.size)
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(value), kind) + value + padding


def _attributes(data: bytes) -> dict[int, bytes]:
    """Return what is in there by its kind; what is cut off is left out."""
    found = {}
    start = 0
    while len(data) - start >= ATTRIBUTE.size:
        length, kind = ATTRIBUTE.unpack_from(data, start)
        if not ATTRIBUTE.size <= length <= len(data) - start:
            break
        found[kind & NLA_TYPE_MASK] = data[start + ATTRIBUTE.size : start + length]
        start += length + -length % ATTRIBUTE.size
    return found


def _number(form: struct.Struct, attributes: Mapping[int, bytes], kind: int) -> int:
    """Return one, 0 if it is missing."""
    number: int = form.unpack(attributes.get(kind, bytes(form.size)))[0]
    return number


def _link_state(message: bytes) -> LinkState:
    _, _, index, flags, _ = LINK.unpack_from(message)
    found = _attributes(message[LINK.size :])
    counters = COUNTERS.unpack_from(found.get(IFLA_STATS64, bytes(COUNTERS.size)))
    kind = _attributes(_attributes(found.get(IFLA_LINKINFO, b"")).get(IFLA_INFO_DATA, b""))
    return LinkState(
        index=index,
        up=bool(flags & IFF_UP),
        mtu=_number(U32, found, IFLA_MTU),
        queue_len=_number(U32, found, IFLA_TXQLEN),
        sent=counters[1],
        dropped=counters[7],
        has_packet_information=bool(_number(U8, kind, IFLA_TUN_PI)),
    )
