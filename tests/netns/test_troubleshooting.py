# SPDX-License-Identifier: MIT
"""Tunnels broken in one way each show what docs/troubleshooting.md says, and where it says."""

from netns import broken
from netns.broken import Host, configure
from netns.lab import eventually, ping

REFUSED = "handshake message refused: "


def test_a_healthy_tunnel_refuses_nothing(pair: tuple[Host, Host]) -> None:
    here, there = pair
    configure(here, there)
    ping(here.side.host, there.side.inner4)
    assert here.says("session established")
    for host in pair:
        assert not host.says(REFUSED)
        assert min(host.transfer()) > 0


def test_a_destination_of_nobody_is_unreachable(pair: tuple[Host, Host]) -> None:
    here, there = pair
    broken.by_no_allowed_ips(here, there)
    assert "Destination Host Unreachable" in here.speak(there.side.inner4)
    assert here.transfer() == (0, 0)


def test_so_is_a_peer_without_an_endpoint(pair: tuple[Host, Host]) -> None:
    here, there = pair
    broken.by_no_endpoint(here, there)
    assert "Destination Host Unreachable" in here.speak(there.side.inner4)
    assert here.transfer() == (0, 0)


def test_a_missing_private_key_is_told_at_debug(pair: tuple[Host, Host]) -> None:
    here, there = pair
    broken.by_no_private_key(here, there)
    assert "Unreachable" not in here.speak(there.side.inner4)
    eventually(lambda: here.says("no handshake: no private key is set"), "the line")
    assert here.transfer() == (0, 0)


def test_a_network_that_is_not_there_is_told_at_debug(pair: tuple[Host, Host]) -> None:
    here, there = pair
    broken.by_an_endpoint_without_a_route(here, there)
    here.speak(there.side.inner4)
    line = "handshake message not sent: [Errno 101] Network is unreachable"
    eventually(lambda: here.says(line), "the line")


def test_who_is_not_known_there_is_told_of_there(pair: tuple[Host, Host]) -> None:
    here, there = pair
    broken.by_being_unknown_there(here, there)
    here.speak(there.side.inner4)
    eventually(lambda: there.says(f"{REFUSED}initiation from an unknown peer"), "the line")
    received, sent = here.transfer()
    assert (received, sent % 148) == (0, 0)


def test_a_wrong_public_key_is_told_of_nowhere(pair: tuple[Host, Host]) -> None:
    here, there = pair
    broken.by_a_wrong_public_key(here, there)
    here.speak(there.side.inner4)
    eventually(lambda: here.transfer()[1] >= 148, "an initiation")
    assert here.transfer()[0] == 0
    there.speak(here.side.inner4)  # its log is behind what it has heard
    eventually(lambda: there.says("sending an initiation"), "one of its own")
    assert "refused" not in there.log.read_text()


def test_preshared_keys_that_differ_are_told_of_here(pair: tuple[Host, Host]) -> None:
    here, there = pair
    broken.by_another_preshared_key(here, there)
    here.speak(there.side.inner4)
    line = f"{REFUSED}handshake message that does not authenticate"
    eventually(lambda: here.says(line), "the line")
    assert not there.says(REFUSED)


def test_who_gets_packets_from_a_wrong_source_drops_them(pair: tuple[Host, Host]) -> None:
    here, there = pair
    broken.by_a_source_that_is_not_allowed_there(here, there)
    assert "0 received" in here.speak(there.side.inner4)
    eventually(here.side.handshake_time, "a handshake")
    eventually(lambda: there.transfer()[0] > 148, "a packet after it")
    received = there.side.host.run(
        "cat", f"/sys/class/net/{there.side.interface}/statistics/rx_packets"
    )
    assert int(received) == 0
