# SPDX-License-Identifier: MIT
"""Odd places to start in: what others take for granted is not there."""

import pytest
from netns.lab import Side

# Each makes something of the files that only the command sees: `ip netns exec` gives a mount
# namespace of its own.
PRIVATE_RUN = "mount -t tmpfs -o mode=755 tmpfs /run"
PRIVATE_NET = "mount -t tmpfs tmpfs /dev/net"
FIT = {
    "no /proc": "mount -t tmpfs tmpfs /proc",
    "no /sys": "mount -t tmpfs tmpfs /sys",
    "no /proc and no /sys": "mount -t tmpfs tmpfs /proc; mount -t tmpfs tmpfs /sys",
    "an empty /run": PRIVATE_RUN,
    "nothing to write to but /run": (  # what is in there stays in sight: it may be the checkout
        f"{PRIVATE_RUN}; for d in /tmp /var/tmp /dev/shm; do"
        " mount --rbind $d $d; mount -o remount,bind,ro $d; done"
    ),
}
UNFIT = {
    "a read-only /run": (
        f"{PRIVATE_RUN}; mount -o remount,ro /run",
        "cannot listen on /run/wireguard: Read-only file system",
    ),
    "a read-only directory of sockets": (
        f"{PRIVATE_RUN}; mkdir /run/wireguard; mount -o remount,ro /run",
        "cannot listen on /var/run/wireguard/{name}.sock: Read-only file system",
    ),
    "no /dev/net/tun": (PRIVATE_NET, "there is no /dev/net/tun: load the module tun"),
    "a /dev/net/tun that may not be opened": (
        "mount -t tmpfs -o nodev tmpfs /dev/net; mknod /dev/net/tun c 10 200",
        "no permission for /dev/net/tun: run as root, or let the container have the device",
    ),
    "a /dev/net/tun without a driver": (
        f"{PRIVATE_NET}; mknod /dev/net/tun c 10 254",
        "there is no TUN driver: load the module tun",
    ),
    "a file for /dev/net/tun": (
        f"{PRIVATE_NET}; touch /dev/net/tun",
        "what is at /dev/net/tun is no TUN device",
    ),
    "a directory for /dev/net/tun": (
        f"{PRIVATE_NET}; mkdir /dev/net/tun",
        "what is at /dev/net/tun is no TUN device",
    ),
    "no /dev/null": (
        "mount -t tmpfs tmpfs /dev; mkdir /dev/net; mknod /dev/net/tun c 10 200",
        "cannot open /dev/null: No such file or directory",
    ),
}

# Serves, is configured and ends; all in one mount namespace.  "$0" is the name of the interface.
LIFE = """
wgpy "$0"
wg set "$0" listen-port 51820 fwmark 7
ip link set "$0" up
wg show "$0" listen-port
ip link delete "$0"
i=0
while [ -e "/var/run/wireguard/$0.sock" ]; do
    i=$((i + 1))
    [ $i -lt 500 ]
    sleep 0.02
done
"""


@pytest.mark.parametrize("place", FIT)
def test_it_lives_and_ends_in(place: str, sides: tuple[Side, Side]) -> None:
    side = sides[0]
    said = side.host.run("sh", "-ec", f"{FIT[place]}; {LIFE}", side.interface)
    assert said == "51820\n"


@pytest.mark.parametrize("foreground", ["0", "1"])
@pytest.mark.parametrize("place", UNFIT)
def test_one_line_refuses(place: str, foreground: str, sides: tuple[Side, Side]) -> None:
    side = sides[0]
    prepare, reason = UNFIT[place]
    done = side.host.attempt(
        *("sh", "-ec", f'{prepare}; exec wgpy "$0"', side.interface),
        environment={"WG_PROCESS_FOREGROUND": foreground},
    )
    assert done.returncode == 1
    assert done.stderr == f"wgpy: {reason.format(name=side.interface)}\n"
    assert not side.host.has_interface(side.interface)
