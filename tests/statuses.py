# SPDX-License-Identifier: MIT
"""Statuses of all kinds, for tests that hold whatever the status."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final, get_args

from hypothesis import strategies as st

from wgpy.config import AllowedIP, Endpoint
from wgpy.protocol.handshake import Handshake
from wgpy.status import DeviceStatus, Diagnosis, PeerStatus, Severity, Tally

KEYS: Final = st.binary(min_size=32, max_size=32)
COUNTS: Final = st.integers(0, 2**64 - 1)
NAMES: Final = st.text("abc-", min_size=1, max_size=9)
ADDRESSES: Final = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16).filter(
    lambda address: not address.startswith(bytes(10))  # IPv4 inside IPv6 comes back as IPv4
)
ENDPOINTS: Final = st.builds(Endpoint, ADDRESSES, st.integers(0, 0xFFFF))
PREFIXES: Final = ADDRESSES.flatmap(
    lambda address: st.integers(0, 8 * len(address)).map(lambda cidr: AllowedIP(address, cidr))
)

Strategy = st.SearchStrategy[Any]


def statuses(
    ages: st.SearchStrategy[float], texts: st.SearchStrategy[str], reasons: st.SearchStrategy[str]
) -> st.SearchStrategy[DeviceStatus]:
    """Every field of every part has some value of its type."""
    by_type: dict[object, Strategy] = {
        str: texts,
        int: COUNTS,
        float: ages,
        bool: st.booleans(),
        bytes: KEYS,
        Endpoint: ENDPOINTS,
        Handshake: st.sampled_from(Handshake),
        Severity: st.sampled_from(Severity),
        tuple[str, ...]: _some(NAMES),
        tuple[AllowedIP, ...]: _some(PREFIXES),
        Mapping[str, int]: st.dictionaries(NAMES, COUNTS, max_size=3),
    }
    tally = _anything_of(Tally, by_type, reason=reasons, public_key=st.just(b"") | KEYS)
    by_type[tuple[Tally, ...]] = _some(tally)
    by_type[tuple[Diagnosis, ...]] = _some(_anything_of(Diagnosis, by_type))
    by_type[tuple[PeerStatus, ...]] = _some(_anything_of(PeerStatus, by_type))
    return _anything_of(DeviceStatus, by_type)


def _some(strategy: Strategy) -> Strategy:
    return st.lists(strategy, max_size=3).map(tuple)


def _anything_of(kind: Any, by_type: Mapping[object, Strategy], **others: Strategy) -> Strategy:
    own = {field.name: _of_type(field.type, by_type) for field in fields(kind)}
    return st.builds(kind, **(own | others))


def _of_type(type_: Any, by_type: Mapping[object, Strategy]) -> Strategy:
    if type(None) in (options := get_args(type_)):
        return st.none() | by_type[options[0]]
    return by_type[type_]
