# SPDX-License-Identifier: MIT
"""What a device tells of itself, for tests."""

from collections import Counter
from itertools import chain

from wgpy.device import Device
from wgpy.status import PeerStatus


def refusals(device: Device) -> dict[str, int]:
    """How many handshake messages, by the reason, be they of its peers or of nobody."""
    counts: Counter[str] = Counter()
    peers = chain.from_iterable(device.peer_statuses())
    for tally in chain(device.status_head("").refusals, *(peer.refusals for peer in peers)):
        counts[tally.reason] += tally.count
    return dict(counts)


def peer_status(device: Device, number: int = 0) -> PeerStatus:
    """What is told of a peer, in order of creation."""
    return list(chain.from_iterable(device.peer_statuses()))[number]
