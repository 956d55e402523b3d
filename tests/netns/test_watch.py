# SPDX-License-Identifier: MIT
"""`wgpyctl watch` of a real daemon, on terminals of two sizes."""

import pytest
from netns.lab import ENVIRONMENT, Side, ping
from terminal import on_terminal

from wgpy.ctl.printing import shorten_key
from wgpy.keys import parse_key


@pytest.mark.parametrize("size", [(80, 24), (200, 50)])
def test_each_peer_has_a_line_that_is_no_wider_than_the_terminal(
    tunnel: tuple[Side, Side], size: tuple[int, int]
) -> None:
    left, right = tunnel
    columns, lines = size
    keys = [right.with_new_keys().public_key for _ in range(3)]
    for number, key in enumerate(keys):
        left.set("peer", key, "allowed-ips", f"fd77:{number}::/64")
    ping(left.host, right.inner4)
    command = left.host.argv("wgpyctl", "watch", left.interface)
    talker = shorten_key(parse_key(right.public_key))
    with on_terminal(command, size, ENVIRONMENT) as terminal:
        screen = terminal.wait_for(lambda screen: any(talker in line for line in screen))
        title, heading, *rows = [line for line in screen if line.strip()][-6:]
        assert title.startswith(f"{left.interface}  port {left.port}  up  mtu ")
        assert title.split("  ")[4] == "4 peers"
        assert heading.split()[0] == "peer"
        assert ("allowed ips" in heading) == (columns == 200)
        assert rows[0].startswith(talker)
        assert right.host.outer4 in rows[0]
        assert {row[:9] for row in rows[1:]} == {shorten_key(parse_key(key)) for key in keys}
        assert max(map(len, screen)) <= columns
        assert len(screen) <= lines
        assert terminal.interrupt() == 0
