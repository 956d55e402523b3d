# SPDX-License-Identifier: MIT
"""A tunnel comes to be, whoever begins; and again after a restart."""

import pytest
from interop.capture import INITIATION
from interop.lab import Tunnel
from interop.network import TIMEOUT_S
from interop.traffic import is_answered, ping
from interop.wireguard import Peer, new_psk
from netns.lab import eventually

NEW_HANDSHAKE_S = 15  # on silence: KEEPALIVE_TIMEOUT + REKEY_TIMEOUT


@pytest.mark.parametrize("outside", [4, 6])
@pytest.mark.parametrize("psk", ["none", "one"])
@pytest.mark.parametrize("initiator", ["wgpy", "peer"])
def test_a_handshake_makes_a_tunnel_for_both_families(
    tunnel: Tunnel, initiator: str, psk: str, outside: int
) -> None:
    tunnel.connect(outside, new_psk() if psk == "one" else "")
    with tunnel.capture() as capture:
        first, second = tunnel.pair(initiator)
        ping(first.host, second.inner4)
        ping(second.host, first.inner6)
        started = [one for one in capture.datagrams() if one.kind == INITIATION]
    assert [one.source for one in started] == [(first.outer(outside), first.port)]
    for end, other in ((first, second), (second, first)):
        assert end.has_handshake(other)


def test_different_preshared_keys_make_no_tunnel(tunnel: Tunnel) -> None:
    tunnel.connect(psk=new_psk())
    psk = ("preshared-key", "/dev/stdin")
    tunnel.wgpy.set("peer", tunnel.peer.public_key, *psk, stdin=new_psk())
    for first, second in (tunnel.ends, tunnel.ends[::-1]):
        assert not is_answered(first.host, second.inner4)
        assert not first.has_handshake(second)


@pytest.mark.parametrize("first_to_talk", ["wgpy", "peer"])
@pytest.mark.parametrize("restarted", ["wgpy", "peer"])
def test_a_restart_that_nobody_was_told_of_is_overcome(
    tunnel: Tunnel, restarted: str, first_to_talk: str
) -> None:
    """At once if the one that restarted has something to say, else on the other's suspicion."""
    tunnel.connect()
    ping(tunnel.wgpy.host, tunnel.peer.inner4)
    end, other = tunnel.pair(restarted)
    end.vanish()
    end.start()
    end.ready()
    end.configure(Peer(other))
    first, second = tunnel.pair(first_to_talk)
    if first is end:
        ping(first.host, second.inner4)
        return
    eventually(
        lambda: is_answered(first.host, second.inner4),
        "an answer",
        NEW_HANDSHAKE_S + TIMEOUT_S,
    )
