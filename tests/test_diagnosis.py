# SPDX-License-Identifier: MIT
"""Each diagnosis is made of its facts, and of nothing less, older or refuted."""

import errno
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from statuses import statuses

from wgpy.config import Endpoint
from wgpy.diagnosis import RECENT_S, Code, diagnose
from wgpy.ports import BUFFER_LEN
from wgpy.protocol.handshake import Handshake
from wgpy.status import DeviceStatus, Diagnosis, PeerStatus, Severity, Tally

ROOT = Path(__file__).resolve().parent.parent
KEY, OTHER = bytes(range(32)), bytes(32)
KEY_TEXT = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
ENDPOINT = Endpoint(bytes([192, 0, 2, 1]), 51820)
E = "192.0.2.1:51820"
STRANGER = "198.51.100.9:4000"
INNER = "10.0.0.2"

GOOD_PEER = PeerStatus(
    public_key=OTHER,
    endpoint=ENDPOINT,
    handshake=Handshake.ESTABLISHED,
    attempts=0,
    last_handshake_age_s=30.0,
    session_age_s=30.0,
    last_received_age_s=0.5,
    last_sent_age_s=0.4,
    rx_bytes=1000,
    tx_bytes=1000,
)
GOOD = DeviceStatus(
    "wg0",
    public_key=KEY,
    listen_port=51820,
    up=True,
    listening=True,
    workers=1,
    features=("VNET_HDR", "TUN_TSO", "UDP_GSO", "UDP_GRO"),
    receive_buffer=BUFFER_LEN,
    send_buffer=BUFFER_LEN,
    under_load=False,
    peers=(GOOD_PEER,),
)
# It was up, and asks in vain.
ASKING = replace(
    GOOD_PEER,
    handshake=Handshake.INITIATED,
    attempts=4,
    attempts_age_s=20.0,
    last_handshake_age_s=None,
    session_age_s=None,
    last_received_age_s=None,
)


# It is answered, and does not hear it.
ASKED = replace(
    GOOD_PEER,
    handshake=Handshake.RESPONDED,
    responses=3,
    responses_age_s=12.0,
    last_handshake_age_s=None,
    session_age_s=None,
)


def with_peer(peer: PeerStatus, **changes: object) -> DeviceStatus:
    return replace(GOOD, peers=(replace(peer, **changes),))  # type: ignore[arg-type]


def refused(reason: str, age_s: float = 3, **details: object) -> DeviceStatus:
    """By the interface, from a stranger."""
    tally = Tally(reason, 2, age_s, address=STRANGER, **details)  # type: ignore[arg-type]
    return replace(GOOD, refusals=(tally,))


def refused_of(peer: PeerStatus, reason: str, age_s: float = 3) -> DeviceStatus:
    return with_peer(peer, refusals=(Tally(reason, 2, age_s, address=E),))


def dropped_of(peer: PeerStatus, reason: str, age_s: float = 3, **details: object) -> DeviceStatus:
    tally = Tally(reason, 7, age_s, **details)  # type: ignore[arg-type]
    return with_peer(peer, drops=(tally,))


def no_peer(age_s: float = 3, address: str = INNER) -> DeviceStatus:
    return replace(GOOD, drops=(Tally("no-peer", 7, age_s, address=address),))


FAILED = Tally("send-error", 3, 2.0, address=E, errno=errno.ENETUNREACH)
SILENT = {"last_received_age_s": 60.0, "last_handshake_age_s": 60.0}

# By code: statuses that have it and nothing else, with what the sentence has to name.
BROKEN: list[tuple[Code, DeviceStatus, tuple[str, ...]]] = [
    (Code.NO_PRIVATE_KEY, replace(GOOD, public_key=None), ("wg set wg0 private-key",)),
    (Code.NO_PRIVATE_KEY, replace(GOOD, public_key=None, up=False), ("private key",)),
    (Code.PORT_IN_USE, replace(GOOD, listening=False), ("51820", "ss -ulnp")),
    (Code.ROUTING_LOOP, with_peer(GOOD_PEER, looped=True), (E, "into wg0 itself")),
    (Code.ROUTING_LOOP, with_peer(ASKING, looped=True), (E, "ip route get")),
    (
        Code.UNREACHABLE,
        with_peer(ASKING, drops=(FAILED,), last_sent_age_s=None),
        (E, "Network is unreachable", "ip route get"),
    ),
    (Code.UNREACHABLE, with_peer(ASKING, drops=(FAILED,), last_sent_age_s=2.5), ("2 s ago",)),
    (Code.PSK_MISMATCH, refused_of(ASKING, "bad-response"), (E, "preshared keys differ")),
    (
        Code.PSK_MISMATCH,
        refused_of(replace(GOOD_PEER, last_received_age_s=60.0), "bad-response"),
        ("PresharedKey",),
    ),
    (
        Code.CLOCK_BACK,
        refused_of(replace(GOOD_PEER, **SILENT), "old-timestamp"),  # type: ignore[arg-type]
        (E, "its clock went back", "or somebody repeats"),
    ),
    (
        Code.NO_ANSWER,
        with_peer(ASKING),
        (
            "4 handshakes",
            "20 s ago",
            E,
            "is lost",
            "nobody listens",
            KEY_TEXT,
            "another key",
            "clock",
        ),
    ),
    (Code.NO_ANSWER, with_peer(ASKING, handshake=Handshake.GIVEN_UP), ("given up",)),
    (Code.NO_ANSWER, with_peer(ASKING, last_received_age_s=3.0), ("messages of the peer come",)),
    (
        Code.NO_ANSWER,
        replace(GOOD, workers=None, listening=None, peers=(PeerStatus(OTHER, tx_bytes=296),)),
        ("296 bytes",),
    ),
    (
        Code.UNCONFIRMED,
        with_peer(ASKED),
        ("3 answers", "12 s ago", E, "lost on the way", "preshared keys differ"),
    ),
    (
        Code.UNKNOWN_INITIATOR,
        refused("unknown-initiator", public_key=bytes(31) + b"\1"),
        ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=", STRANGER, "no peer here"),
    ),
    (Code.WRONG_IDENTITY, refused("bad-mac1"), (STRANGER, KEY_TEXT, "PublicKey")),
    (Code.NOT_ALLOWED, dropped_of(GOOD_PEER, "not-allowed", address=INNER), (INNER, "AllowedIPs")),
    (
        Code.NO_ENDPOINT,
        dropped_of(replace(GOOD_PEER, endpoint=None), "no-endpoint"),
        ("no Endpoint", "never called"),
    ),
    (Code.NO_PEER_FOR, no_peer(), (INNER, "nobody's AllowedIPs", "ip route get")),
    (Code.NO_PEER_FOR, no_peer(address="fd00::2"), ("fd00::2",)),
    (Code.UNDER_LOAD, replace(GOOD, under_load=True), ("tcpdump", "or a flood")),
    (Code.UNDER_LOAD, refused("under-load"), (STRANGER, "or a flood")),
    (Code.UNDER_LOAD, refused("rate-limited"), (STRANGER,)),
    (
        Code.SMALL_BUFFERS,
        replace(GOOD, receive_buffer=212992, rmem_max=212992),
        ("208 KiB", "net.core.rmem_max is 212992"),
    ),
    (Code.NO_OFFLOAD, replace(GOOD, features=("UDP_GSO",)), ("TUN_TSO, UDP_GRO", "uname -r")),
]
STALE = RECENT_S + 0.001
LATER = 2.9  # than a refusal 3 s ago

# What looks like one, and is none.
FINE = {
    "a tunnel that works": GOOD,
    "a peer that nobody has written to": with_peer(PeerStatus(OTHER, handshake=Handshake.IDLE)),
    "a link that is down": replace(
        with_peer(ASKING, looped=True), up=False, listening=False, under_load=True
    ),
    "one handshake on its way": with_peer(ASKING, attempts=1, attempts_age_s=3.0),
    "two right after another, on a long way": with_peer(ASKING, attempts=2, attempts_age_s=4.9),
    "a response that waits to be confirmed": with_peer(ASKING, handshake=Handshake.RESPONDED),
    "an answer after a failed send": with_peer(GOOD_PEER, drops=(FAILED,)),
    "a failed send to another endpoint": with_peer(
        GOOD_PEER, drops=(replace(FAILED, address=STRANGER),), last_sent_age_s=None
    ),
    "an old failed send": with_peer(
        GOOD_PEER, drops=(replace(FAILED, age_s=STALE),), last_sent_age_s=None
    ),
    "an answer that opens": refused_of(
        replace(GOOD_PEER, last_received_age_s=LATER), "bad-response"
    ),
    "an old answer that did not open": refused_of(
        replace(GOOD_PEER, last_received_age_s=None), "bad-response", STALE
    ),
    "a message that came twice": refused_of(
        replace(GOOD_PEER, last_received_age_s=LATER), "old-timestamp"
    ),
    "an old replay": refused_of(
        replace(GOOD_PEER, last_received_age_s=None), "old-timestamp", STALE
    ),
    "a stranger who has become a peer": refused("unknown-initiator", public_key=OTHER),
    "an old stranger": refused("unknown-initiator", STALE, public_key=KEY),
    "an old message for somebody else": refused("bad-mac1", STALE),
    "a peer that has our right key now": replace(
        with_peer(GOOD_PEER, last_received_age_s=LATER),
        refusals=(Tally("bad-mac1", 1, 3.0, address=E),),
    ),
    "an old wrong source": dropped_of(GOOD_PEER, "not-allowed", STALE, address=INNER),
    "a peer that has called since": dropped_of(GOOD_PEER, "no-endpoint"),
    "an old packet without an endpoint": dropped_of(
        replace(GOOD_PEER, endpoint=None), "no-endpoint", STALE
    ),
    "an old packet to nobody": no_peer(STALE),
    "a packet to a group": replace(GOOD, drops=(Tally("multicast", 1, 1.0, address="ff02::2"),)),
    "an old flood": refused("under-load", STALE),
    "a tally that was never": refused("bad-mac1", float("nan")),
    "the kernel's with a first message out": DeviceStatus(
        "wg0", public_key=KEY, peers=(PeerStatus(OTHER, tx_bytes=148),)
    ),
    "the kernel's with traffic": DeviceStatus(
        "wg0",
        public_key=KEY,
        peers=(PeerStatus(OTHER, tx_bytes=999, rx_bytes=92, last_handshake_age_s=9.0),),
    ),
    "a first answer": with_peer(ASKED, responses=1),
    "answers just now": with_peer(ASKED, responses_age_s=4.9),
    "answers to who asks no more": with_peer(ASKED, last_received_age_s=RECENT_S + 1),
    "sockets that are not there yet": replace(GOOD, listening=None, features=()),
}


def codes(status: DeviceStatus) -> list[str]:
    return [diagnosis.code for diagnosis in diagnose(status)]


@pytest.mark.parametrize(("code", "status", "named"), BROKEN)
def test_what_is_broken_has_this_diagnosis_and_no_other(
    code: Code, status: DeviceStatus, named: tuple[str, ...]
) -> None:
    [found] = diagnose(status)
    assert (found.code, found.severity) == (code, code.severity)
    for text in named:
        assert text in found.text


@pytest.mark.parametrize("case", FINE)
def test_what_is_fine_has_none(case: str) -> None:
    assert diagnose(FINE[case]) == ()


def test_every_code_is_made_here() -> None:
    assert {code for code, _, _ in BROKEN} == set(Code)


AT_THE_LIMIT = [
    refused("unknown-initiator", RECENT_S, public_key=KEY),
    refused("bad-mac1", RECENT_S),
    refused("under-load", RECENT_S),
    refused_of(replace(GOOD_PEER, last_received_age_s=None), "bad-response", RECENT_S),
    refused_of(replace(GOOD_PEER, last_received_age_s=None), "old-timestamp", RECENT_S),
    dropped_of(GOOD_PEER, "not-allowed", RECENT_S, address=INNER),
    dropped_of(replace(GOOD_PEER, endpoint=None), "no-endpoint", RECENT_S),
    dropped_of(replace(GOOD_PEER, last_sent_age_s=None), "send-error", RECENT_S),
    no_peer(RECENT_S),
    with_peer(ASKING, attempts=2, attempts_age_s=5.0),
]


@pytest.mark.parametrize("status", AT_THE_LIMIT)
def test_at_the_limit_it_is_a_fact_of_now(status: DeviceStatus) -> None:
    assert len(diagnose(status)) == 1


@pytest.mark.parametrize("tally", [FAILED, Tally("bad-response", 1, address=E)])
def test_why_it_was_given_up_is_told_for_as_long_as_it_is(tally: Tally) -> None:
    """Else it would turn into "no answer" after three minutes, and that would not be true."""
    old = replace(tally, age_s=7000.0)
    given_up = replace(ASKING, handshake=Handshake.GIVEN_UP, last_sent_age_s=None)
    kind = "drops" if tally is FAILED else "refusals"
    before = replace(given_up, attempts_age_s=7090.0, **{kind: (old,)})  # type: ignore[arg-type]
    assert codes(with_peer(before)) in ([Code.UNREACHABLE], [Code.PSK_MISMATCH])
    assert codes(with_peer(before, attempts_age_s=100.0)) == [Code.NO_ANSWER]


def test_the_worst_comes_first_and_peers_keep_their_order() -> None:
    keys = [bytes([number]) * 32 for number in (3, 1, 2)]
    peers = tuple(
        replace(ASKING, public_key=key, drops=(Tally("not-allowed", 1, 1.0, address=INNER),))
        for key in keys
    )
    status = replace(GOOD, peers=peers, listening=False, under_load=True, features=("TUN_TSO",))
    found = [(found.code, found.peer) for found in diagnose(status)]
    assert found == [
        (Code.PORT_IN_USE, None),
        *((Code.NO_ANSWER, key) for key in keys),
        *((Code.NOT_ALLOWED, key) for key in keys),
        (Code.UNDER_LOAD, None),
    ]


def test_codes_are_in_the_order_of_their_severities() -> None:
    severities = [list(Severity).index(code.severity) for code in Code]
    assert severities == sorted(severities)


def test_codes_and_severities_are_text_as_they_are() -> None:
    assert f"{Code.NO_ANSWER} {Severity.ERROR}" == "no-answer error"
    assert json.dumps([Code.NO_ANSWER, Severity.ERROR]) == '["no-answer", "error"]'


# ---- whatever the status ----

REASONS = st.sampled_from(
    [
        "no-peer",
        "no-endpoint",
        "send-error",
        "not-allowed",
        "bad-mac1",
        "unknown-initiator",
        "under-load",
        "rate-limited",
        "old-timestamp",
        "bad-response",
        "something-new",
    ]
)
STATUSES = statuses(
    st.floats() | st.sampled_from([0.0, 4.9, 5.0, 180.0]),
    st.sampled_from(["", E, INNER]) | st.text(max_size=20),
    REASONS,
)


@given(STATUSES)
def test_any_status_has_diagnoses_of_it_alone(status: DeviceStatus) -> None:
    found = diagnose(status)
    assert all(isinstance(one, Diagnosis) and one.text for one in found)
    assert {one.peer for one in found} <= {None, *(peer.public_key for peer in status.peers)}
    order = [[*map(str, Code)].index(one.code) for one in found]
    assert order == sorted(order)
    assert diagnose(status) == found


# ---- as written ----


def test_the_page_on_troubleshooting_has_every_code_in_order() -> None:
    page = (ROOT / "docs/troubleshooting.md").read_text()
    table = page.partition("## What the status says")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([\w-]+)` \| (\w+) \| (.+) \| (.+) \|$", table, re.MULTILINE)
    assert [row[:2] for row in rows] == [(code.value, code.severity.value) for code in Code]
