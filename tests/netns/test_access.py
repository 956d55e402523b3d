# SPDX-License-Identifier: MIT
"""Who may configure the interface, and who may look into the daemon."""

import subprocess
from pathlib import Path

import pytest
from netns.lab import SOCKETS, Side, eventually

NOBODY = "setpriv", "--reuid=65534", "--regid=65534"  # and no capabilities
GROUP, GID = "daemon", 1  # of every Debian
UNTRACED = "setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-all"


@pytest.fixture
def side(sides: tuple[Side, Side]) -> Side:
    return sides[0]


def tried(side: Side, *command: str) -> subprocess.CompletedProcess[str]:
    return side.host.attempt(*command)


# ---- the socket ----


def test_other_users_may_neither_look_nor_change(side: Side) -> None:
    side.host.run("wgpy", side.interface)
    for command in (["show", side.interface], ["set", side.interface, "fwmark", "7"]):
        done = tried(side, *NOBODY, "--clear-groups", "wg", *command)
        assert done.returncode != 0
        assert done.stdout == ""
    assert side.host.run("wg", "show", side.interface, "fwmark") == "off\n"


def test_members_of_the_socket_group_may_do_both_and_others_neither(side: Side) -> None:
    side.host.run("env", f"WGPY_SOCKET_GROUP={GROUP}", "wgpy", side.interface)
    member = *NOBODY, f"--groups={GID}"
    side.host.run(*member, "wg", "set", side.interface, "fwmark", "7")
    assert side.host.run(*member, "wg", "show", side.interface, "fwmark") == "0x7\n"
    stranger = tried(side, *NOBODY, "--clear-groups", "wg", "show", side.interface)
    assert stranger.returncode != 0
    assert stranger.stdout == ""


def test_an_unknown_socket_group_is_refused_in_one_line(side: Side) -> None:
    done = tried(side, "env", "WGPY_SOCKET_GROUP=no-such", "wgpy", side.interface)
    assert done.returncode == 2
    assert done.stderr.startswith("wgpy: WGPY_SOCKET_GROUP: there is no group 'no-such'")
    assert done.stderr.count("\n") == 1


# Each makes something bad of an empty /run; "$0" is the name of the interface, "$1" a directory.
HOSTILE = {
    "a directory of somebody else": (
        "install -d -o 1 /run/wireguard",
        "/run/wireguard is owned by somebody else (user 1)",
    ),
    "a directory for all": ("install -d -m 1777 /run/wireguard", "writable by others"),
    "a directory for a group": ("install -d -m 775 /run/wireguard", "writable by others"),
    "a link to a directory for all": (
        'chmod 777 "$1"; ln -s "$1" /run/wireguard',
        "/elsewhere is writable by others",
    ),
    "a link to itself": ("ln -s wireguard /run/wireguard", "Too many levels of symbolic links"),
    "a file": ("touch /run/wireguard", "not a directory"),
    "a link for the socket": (
        'mkdir /run/wireguard; ln -s "$1/nowhere" "/run/wireguard/$0.sock"',
        "in use by another kind of file",
    ),
    "a file for the socket": (
        'mkdir /run/wireguard; touch "/run/wireguard/$0.sock"',
        "in use by another kind of file",
    ),
    "a directory closed to the group": (
        f"install -d -m 700 /run/wireguard; export WGPY_SOCKET_GROUP={GROUP}",
        "closed to the group",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_somebody_put_in_the_sockets_place_is_refused_in_one_line(
    case: str, side: Side, tmp_path: Path
) -> None:
    assert SOCKETS.resolve() == Path("/run/wireguard")
    prepare, reason = HOSTILE[case]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    # `ip netns exec` gives a mount namespace of its own: nobody else sees this /run.
    script = f'mount -t tmpfs -o mode=755 tmpfs /run; {prepare}; exec wgpy "$0"'
    done = tried(side, "sh", "-ec", script, side.interface, str(elsewhere))
    assert done.returncode == 1
    assert done.stderr.startswith("wgpy: cannot listen on /var/run/wireguard")
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
    assert not side.host.has_interface(side.interface)
    assert list(elsewhere.iterdir()) == []


# In the words of the shell, as above.
FIT = {
    "nothing at all": "mount -t tmpfs tmpfs /var",  # where /var/run is
    "a link": 'ln -s "$1" /run/wireguard',
    "a volume that others share": (
        "install -d -m 1777 -o 1 /run/wireguard; export WGPY_TRUST_SOCKET_DIR=1"
    ),
}


@pytest.mark.parametrize("case", FIT)
def test_wg_finds_the_socket_where_there_is(case: str, side: Side, tmp_path: Path) -> None:
    script = f'mount -t tmpfs -o mode=755 tmpfs /run; {FIT[case]}; wgpy "$0"; wg show "$0" fwmark'
    assert side.host.run("sh", "-ec", script, side.interface, str(tmp_path)) == "off\n"
    side.host.run("ip", "link", "delete", side.interface)
    eventually(lambda: not side.host.pids(), "the end of the daemon")


# ---- the process ----


def test_it_leaves_no_core_file_and_nobody_looks_into_it(side: Side) -> None:
    """Linux forbids both at once (PR_SET_DUMPABLE), and the second can be seen harmlessly.

    Without CAP_SYS_PTRACE root may look into its other processes, but not into such a one.
    """
    side.host.run(*UNTRACED, "wgpy", side.interface)
    (daemon,) = side.host.pids()
    other = side.host.popen(*UNTRACED, "sleep", "30")
    eventually(lambda: Path(f"/proc/{other.pid}/comm").read_text() == "sleep\n", "sleep")
    try:
        assert side.host.run(*UNTRACED, "readlink", f"/proc/{other.pid}/exe")
        done = tried(side, *UNTRACED, "ls", "-l", f"/proc/{daemon}/exe")
        assert "Permission denied" in done.stderr
    finally:
        other.kill()
        other.communicate()
