# SPDX-License-Identifier: MIT
"""What is told of packets that were dropped and messages that were refused: why, and what about."""

import errno

import pytest
from core_numbers import REJECT_AFTER_TIME_S
from hostile.duel import INDEX, Duel
from loopback import packet
from seen import peer_status

from wgpy.config import ZERO_KEY, AllowedIP, Endpoint, PeerChange
from wgpy.dataplane._core import lib
from wgpy.status import Tally

pytestmark = pytest.mark.threads

NOBODY = bytes([10, 9, 9, 9])
STRANGER = b"\x77" * 32


def drops(duel: Duel) -> dict[str, tuple[int, str]]:
    """Of the peer's packets: how many, and what the last was about."""
    return told(peer_status(duel.host.device).drops)


def told(tallies: tuple[Tally, ...]) -> dict[str, tuple[int, str]]:
    assert all(tally.age_s is not None and tally.age_s >= 0 for tally in tallies)
    return {tally.reason: (tally.count, tally.address) for tally in tallies}


def peer_address(duel: Duel) -> str:
    return f"127.0.0.1:{duel.peer.port()}"


# ---- a peer's packets ----


def test_a_session_that_goes_well_drops_nothing_and_counts_inner_packets(duel: Duel) -> None:
    link = duel.session()
    duel.deliver(link)
    duel.hear(link, b"one")
    duel.peer.send(link.seal())
    status = peer_status(duel.host.device)
    assert (status.drops, status.refusals) == ((), ())
    assert (status.rx_packets, status.tx_packets) == (2, 1)
    assert status.session_age_s is not None
    assert status.session_age_s < 10


def test_an_inner_source_that_is_not_allowed_is_named(duel: Duel) -> None:
    link = duel.session()
    for number, source in enumerate((NOBODY, bytes([10, 9, 9, 8])), start=1):
        duel.peer.send(link.seal(duel.inner(b"forged", source)))
        duel.until_counted("rx_not_allowed", number)
    assert drops(duel) == {"not-allowed": (2, "10.9.9.8")}


def test_each_way_in_which_a_message_is_no_good_is_told_apart(duel: Duel) -> None:
    link = duel.session()
    duel.peer.send(link.seal(b"no IP packet at all"))
    duel.until_counted("rx_malformed", 1)
    duel.peer.send(duel.sealed(link, 0))
    duel.until_counted("rx_replayed", 1)
    duel.peer.send(link.seal(duel.inner(b"forged"))[:-1] + b"\0")
    duel.until_counted("rx_bad_tag", 1)
    duel.loop.advance(REJECT_AFTER_TIME_S)
    duel.peer.send(link.seal(duel.inner(b"too old")))
    duel.until_counted("rx_expired", 1)
    expected = dict.fromkeys(("malformed", "replayed", "bad-tag", "expired"), (1, ""))
    assert drops(duel) == expected
    assert peer_status(duel.host.device).session_age_s is None


def test_packets_that_wait_too_long_are_pushed_out_and_counted(duel: Duel) -> None:
    for number in range(lib.WG_STAGED_MAX + 3):
        duel.send(b"%d" % number)
    duel.until_counted("tx_staged_dropped", 3)
    assert drops(duel) == {"staged": (3, "")}
    assert peer_status(duel.host.device).staged == lib.WG_STAGED_MAX


def test_a_peer_without_an_endpoint_is_known_as_such(duel: Duel) -> None:
    other = PeerChange(STRANGER, allowed_ips=(AllowedIP(NOBODY, 32),))
    duel.host.configure(other)
    duel.host.tun.send(packet(duel.host.address, NOBODY, b"whereto"))
    duel.until_counted("tx_no_endpoint", 1)
    assert told(peer_status(duel.host.device, 1).drops) == {"no-endpoint": (1, "")}
    assert drops(duel) == {}


def test_what_the_kernel_says_of_a_failed_send_is_told(duel: Duel) -> None:
    broadcast = Endpoint(b"\xff\xff\xff\xff", 7)
    duel.configure(endpoint=broadcast)
    duel.send(b"ping")
    duel.loop.until(lambda: duel.counter("tx_send_errors"))
    [tally] = peer_status(duel.host.device).drops
    assert (tally.reason, tally.count) == ("send-error", 1)
    assert (tally.address, tally.errno) == ("255.255.255.255:7", errno.EACCES)


# ---- nobody's ----


def test_a_destination_that_is_nobodys_is_named(duel: Duel) -> None:
    duel.host.tun.send(packet(duel.host.address, NOBODY, b"whereto"))
    duel.until_counted("tx_no_peer", 1)
    duel.host.tun.send(b"\x45 no frame")
    duel.until_counted("tx_invalid", 1)
    expected = {"no-peer": (1, "10.9.9.9"), "invalid-frame": (1, "")}
    assert told(duel.host.device.status_head("wg0").drops) == expected


def test_rubbish_and_messages_for_nobody_have_a_source(duel: Duel) -> None:
    duel.peer.send(b"rubbish")
    duel.until_counted("rx_invalid", 1)
    duel.peer.send(b"\x04\0\0\0" + bytes(60))
    duel.until_counted("rx_unknown_index", 1)
    expected = dict.fromkeys(("invalid", "unknown-index"), (1, peer_address(duel)))
    assert told(duel.host.device.status_head("wg0").drops) == expected


def test_handshakes_for_another_key_are_told_from_those_for_none(duel: Duel) -> None:
    message, _ = duel.peer.initiate(INDEX)
    duel.peer.send(message[:116] + bytes(32))
    duel.until_counted("rx_bad_mac1", 1)
    duel.host.configure(private_key=ZERO_KEY)
    duel.peer.send(message)
    duel.until_counted("rx_bad_mac1", 2)
    expected = dict.fromkeys(("bad-mac1", "no-private-key"), (1, peer_address(duel)))
    assert told(duel.host.device.status_head("wg0").refusals) == expected


def test_a_stranger_is_named_by_key_and_source(duel: Duel) -> None:
    duel.host.configure(replace_peers=True)
    message, _ = duel.peer.initiate(INDEX)
    duel.peer.send(message)
    duel.until_bad(1)
    [tally] = duel.host.device.status_head("wg0").refusals
    assert (tally.reason, tally.address) == ("unknown-initiator", peer_address(duel))
    assert tally.public_key == duel.peer.public_key


def test_a_flood_of_refusals_is_counted_to_the_last_and_fills_nothing(duel: Duel) -> None:
    message, _ = duel.peer.initiate(INDEX)
    wrong = message[:116] + bytes(32)
    for number in range(1, 2001):
        duel.peer.send(wrong)
        if not number % 100:
            duel.until_counted("rx_bad_mac1", number)
    [tally] = duel.host.device.status_head("wg0").refusals
    assert (tally.reason, tally.count) == ("bad-mac1", 2000)
