# SPDX-License-Identifier: MIT
"""With no more privileges than containers and supervisors give: what works, and what gives way."""

import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote

import pytest
from netns.lab import HAND_OVER, Namespace, Side, eventually, ping, transfer

import wgpy

# What a container has unless it is told otherwise.
DEFAULT_CAPABILITIES = (
    "+chown,+dac_override,+fsetid,+fowner,+mknod,+net_raw,+setgid,+setuid,+setfcap,+setpcap,"
    "+net_bind_service,+sys_chroot,+kill,+audit_write"
)
USER = "setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--no-new-privs"

RIGHTS = {
    "root with CAP_NET_ADMIN alone": (
        "setpriv",
        "--bounding-set=-all,+net_admin",
        "--inh-caps=-all",
    ),
    "root of a container with CAP_NET_ADMIN": (
        "setpriv",
        f"--bounding-set=-all,{DEFAULT_CAPABILITIES},+net_admin",
        "--inh-caps=-all",
    ),
    "a user with CAP_NET_ADMIN alone": (
        *USER,
        "--bounding-set=-all,+net_admin",
        "--inh-caps=-all,+net_admin",
        "--ambient-caps=-all,+net_admin",
    ),
}
# Files of its own for a user ("$0"); `ip netns exec` gives a mount namespace, so others see none.
OPEN_TO_USER = """
mount -t tmpfs -o mode=755 tmpfs /run
install -d -o "$0" /run/wireguard
mknod -m 666 /run/tun c 10 200
mount --bind /run/tun /dev/net/tun
"""


def open_python() -> str:
    """A script that lets users get to what we run, should it be in directories that are closed."""
    needed = {Path(sys.base_prefix), Path(sys.prefix), Path(wgpy.__file__).parents[1]}
    closed = {above for path in needed for above in path.parents if not above.stat().st_mode & 1}
    hidden = [path for path in closed if not closed & set(path.parents)]
    script, moves = "", [path for path in needed if closed & set(path.parents)]
    for number, path in enumerate(moves):
        script += f"mkdir /run/{number}\nmount --bind {quote(str(path))} /run/{number}\n"
    for path in hidden:
        script += f"mount -t tmpfs -o mode=755 tmpfs {quote(str(path))}\n"
    for number, path in enumerate(moves):
        script += f"mkdir -p {quote(str(path))}\nmount --bind /run/{number} {quote(str(path))}\n"
    return script


@dataclass(frozen=True)
class Inside(Namespace):
    """A host as a process on it sees it, with that one's files."""

    pid: int = 0

    def argv(self, *command: str) -> list[str]:
        return ["nsenter", f"--target={self.pid}", "--mount", "--net", *command]


def start(side: Side, *command: str) -> Side:
    """Runs the command where a user may open the TUN device; -> the side as the daemon sees it."""
    owner = "1000" if USER[1] in command else "0"
    script = OPEN_TO_USER + open_python() + 'exec "$@"'
    side.host.run("sh", "-ec", script, owner, *command)
    (pid,) = side.host.pids()
    return replace(side, host=Inside(side.host.name, side.host.outer4, side.host.outer6, pid))


@pytest.fixture(params=RIGHTS)
def rights(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return RIGHTS[request.param]


def test_cap_net_admin_is_enough_for_a_tunnel(
    sides: tuple[Side, Side], rights: tuple[str, ...]
) -> None:
    left, right = sides
    left = start(left, *rights, "wgpy", left.interface)
    right.host.run("wgpy", right.interface)
    left.configure(left.settings(right))
    right.configure(right.settings(left))
    left.set("fwmark", "0x2a")
    ping(left.host, right.inner4)
    transfer(left.host, right.host, right.inner4, 4 << 20)
    left.host.run("ip", "link", "set", left.interface, "mtu", "1380")
    left.host.run("ip", "link", "set", left.interface, "down")
    eventually(lambda: ":51820" not in left.host.run("ss", "-uln"), "a closed port")
    left.host.run("ip", "link", "set", left.interface, "up")
    ping(left.host, right.inner4)
    right.host.run("ip", "link", "set", right.interface, "down")
    sides[0].host.run("ip", "link", "delete", left.interface)
    eventually(lambda: not sides[0].host.pids(), "the end of the daemon", 3)


def test_an_interface_in_another_namespace_is_looked_after(
    sides: tuple[Side, Side], namespace: Callable[[], Namespace]
) -> None:
    inside, further = namespace(), namespace()
    rights = RIGHTS["root with CAP_NET_ADMIN alone"]
    side = start(sides[0], *rights, "wgpy", sides[0].interface)

    def has_port() -> bool:
        return ":51820" in side.host.run("ss", "-uln")

    side.setconf(f"[Interface]\nListenPort = {side.port}\n")
    for source, target in ((sides[0].host, inside), (inside, further), (further, sides[0].host)):
        source.run("ip", "link", "set", side.interface, "netns", target.name)
        target.run("ip", "link", "set", side.interface, "up")
        eventually(has_port, "an open port")
        target.run("ip", "link", "set", side.interface, "down")
        eventually(lambda: not has_port(), "a closed port")
    sides[0].host.run("ip", "link", "set", side.interface, "netns", inside.name)
    inside.run("ip", "link", "delete", side.interface)
    eventually(lambda: not sides[0].host.pids(), "the end of the daemon", 3)


def test_a_user_without_any_serves_an_interface_that_it_is_handed(
    sides: tuple[Side, Side],
) -> None:
    left, right = sides
    left = start(left, sys.executable, "-c", HAND_OVER, "0x1001", left.interface, *USER, "wgpy")
    right.host.run("wgpy", right.interface)
    left.configure(left.settings(right))
    right.configure(right.settings(left))
    ping(left.host, right.inner4)
    left.host.run("ip", "link", "set", left.interface, "down")
    eventually(lambda: ":51820" not in left.host.run("ss", "-uln"), "a closed port")
    sides[0].host.run("ip", "link", "delete", left.interface)
    eventually(lambda: not sides[0].host.pids(), "the end of the daemon", 3)


def test_what_is_given_up_is_told_at_the_level_info(sides: tuple[Side, Side]) -> None:
    side = sides[0]
    rights = RIGHTS["root with CAP_NET_ADMIN alone"]
    process = side.host.popen(*rights, "env", "LOG_LEVEL=info", "wgpy", "-f", side.interface)
    assert process.stderr is not None
    line = next(line for line in process.stderr if "not permitted" in line)
    assert line.endswith("to listen in all namespaces: in others it looks every 1 s\n")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
