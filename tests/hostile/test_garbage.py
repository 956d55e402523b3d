# SPDX-License-Identifier: MIT
"""What is no message, or not the peer's: forged, cut off, made up."""

import pytest
from core_numbers import INITIATION_LEN, RESPONSE_LEN, TRANSPORT_OVERHEAD
from hostile.duel import INDEX, Duel
from hostile.peer import INITIATION, RESPONSE, TRANSPORT

pytestmark = pytest.mark.threads


def test_messages_of_wrong_length_or_type_are_dropped(duel: Duel) -> None:
    link = duel.session()
    handshakes = {1: INITIATION_LEN, 2: RESPONSE_LEN, 3: 64}
    number = 0
    duel.peer.send(b"")
    for kind in range(6):
        for length in range(1, 160):
            right = length == handshakes.get(kind)
            if right or (kind == TRANSPORT and length >= TRANSPORT_OVERHEAD):
                continue
            duel.peer.send(bytes([kind]).ljust(length, b"\0"))
            number += 1
            if number % 50 == 0:  # the socket's buffer is bounded
                duel.until_counted("rx_invalid", number)
    duel.until_counted("rx_invalid", number)
    duel.deliver(link)


@pytest.mark.parametrize("byte", [1, 2, 3])
def test_reserved_bytes_must_be_zero(duel: Duel, byte: int) -> None:
    link = duel.session()
    initiation, _ = duel.peer.initiate(INDEX)
    for number, message in enumerate((link.seal(duel.inner(b"x")), initiation), start=1):
        changed = bytearray(message)
        changed[byte] = 1
        duel.peer.send(duel.peer.with_macs(bytes(changed[:-32])) if number == 2 else bytes(changed))
        duel.until_counted("rx_invalid", number)
    duel.deliver(link)


def test_every_byte_of_an_initiation_is_authenticated(duel: Duel) -> None:
    message, finish = duel.peer.initiate(INDEX)
    body = message[:116]
    for number, at in enumerate(range(8, len(body)), start=1):  # the sender's index is its own
        changed = bytearray(body)
        changed[at] ^= 1
        duel.peer.send(duel.peer.with_macs(bytes(changed)))
        duel.until_bad(number)
    duel.peer.send(message)
    duel.deliver(finish(duel.receive(RESPONSE)))


def test_every_byte_of_a_response_is_authenticated(duel: Duel) -> None:
    duel.send(b"staged")
    message, link = duel.peer.respond(duel.receive(INITIATION), INDEX)
    body = message[:60]
    for number, at in enumerate(range(12, len(body)), start=1):
        changed = bytearray(body)
        changed[at] ^= 1
        duel.peer.send(duel.peer.with_macs(bytes(changed)))
        duel.until_bad(number)
    duel.peer.send(message)
    assert link.open(duel.receive(TRANSPORT))


def test_a_wrong_mac1_is_refused_before_all_else(duel: Duel) -> None:
    message, finish = duel.peer.initiate(INDEX)
    for number, at in enumerate(range(116, 132), start=1):
        changed = bytearray(message)
        changed[at] ^= 0x80
        duel.peer.send(bytes(changed))
        duel.until_counted("rx_bad_mac1", number)
    assert duel.bad() == 0
    duel.peer.send(message)
    duel.deliver(finish(duel.receive(RESPONSE)))


@pytest.mark.parametrize("ephemeral", [bytes(32), b"\x01" + bytes(31)], ids=["zero", "one"])
def test_an_ephemeral_key_of_low_order_is_refused(duel: Duel, ephemeral: bytes) -> None:
    message, finish = duel.peer.initiate(INDEX)
    duel.peer.send(duel.peer.with_macs(message[:8] + ephemeral + message[40:116]))
    duel.until_bad(1)
    duel.peer.send(message)
    duel.deliver(finish(duel.receive(RESPONSE)))


def test_a_forged_cookie_reply_changes_nothing(duel: Duel) -> None:
    duel.send(b"staged")
    initiation = duel.receive(INITIATION)
    duel.peer.send(b"\x03\0\0\0" + initiation[4:8] + bytes(56))
    duel.until_bad(1)
    response, link = duel.peer.respond(initiation, INDEX)
    duel.peer.send(response)
    assert link.open(duel.receive(TRANSPORT))


def malformed(packet_: bytes) -> dict[str, bytes]:
    """Payloads that are no whole IP packet."""
    too_long = packet_[:2] + (len(packet_) + 17).to_bytes(2, "big") + packet_[4:]
    return {
        "no version": b"\0" * 16,
        "version 5": b"\x55" + packet_[1:],
        "half a header": packet_[:16],
        "longer than the payload": too_long,
        "shorter than its header": packet_[:2] + b"\0\x05" + packet_[4:],
        "IPv6 cut off": b"\x60" + bytes(31),
        "IPv6 longer than the payload": b"\x60\0\0\0\xff\xff" + bytes(42),
    }


def test_payload_that_is_no_packet_is_dropped_and_the_session_goes_on(duel: Duel) -> None:
    link = duel.session()
    before = duel.host.stats.rx_bytes
    bad = malformed(duel.inner(b"payload")).values()
    for number, payload in enumerate(bad, start=1):
        duel.peer.send(link.seal(payload))
        duel.until_counted("rx_malformed", number)
    assert duel.host.stats.rx_bytes > before
    duel.deliver(link)


def test_a_source_that_is_not_the_peers_is_dropped(duel: Duel) -> None:
    link = duel.session()
    duel.peer.send(link.seal(duel.inner(b"forged", source=bytes([10, 0, 0, 3]))))
    duel.until_counted("rx_not_allowed", 1)
    duel.deliver(link)


def test_the_largest_datagram_is_survived(duel: Duel) -> None:
    link = duel.session()
    message = link.seal(duel.inner(b"genuine"))
    for number, length in enumerate((65507, 65506, 16384), start=1):
        duel.peer.send(message[:16] + bytes(length - 16))
        duel.until_counted("rx_bad_tag", number)
    duel.deliver(link, message)
