# SPDX-License-Identifier: MIT
"""Several commands in one tunnel: `wgpyctl exec --join NAME`."""

import os
import signal
import socket
from collections.abc import Iterator

import pytest
from rootless.execs import JOIN, NOBODY, READY, WAIT, Place, first, is_over, name_of, place
from rootless.lab import eventually, inhabitants, network_of

from wgpy.ctl import named

NONE = (
    "wgpyctl: home: no tunnel of yours is called so: "
    "`wgpyctl exec --name home CONF -- COMMAND` makes one\n"
)


@pytest.fixture
def here() -> Iterator[Place]:
    with place() as one:
        yield one


@pytest.mark.parametrize("is_root", [False, True])
def test_another_command_lives_in_the_same_network_and_ends_as_the_first_would(
    is_root: bool,
) -> None:
    name = f"test{os.getpid()}"
    with place(is_root=is_root) as here, first(here, "--name", name) as one:
        script = "pwd; cat; readlink /proc/self/ns/net; exit 6"
        status, output, errors = here.run("--join", name, "--", "sh", "-c", script)
        assert (status, output.split(), errors) == (6, [str(here.path), one.network()], "")


def test_signals_reach_a_command_that_joined(here: Place) -> None:
    wait = "while :; do sleep 1000 >/dev/null 2>&1 & wait; done"
    script = f"trap 'echo got; exit 3' TERM; echo {READY}; {wait}"
    with first(here), here.started(*JOIN, "sh", "-c", script) as other:
        other.process.send_signal(signal.SIGTERM)
        assert other.end() == (3, "got\n", "")


def test_who_joined_ends_with_the_tunnel_and_that_is_said(here: Place) -> None:
    with first(here) as one, here.started(*JOIN, *WAIT) as other:
        network = one.network()
        one.process.send_signal(signal.SIGTERM)
        assert one.end() == (-signal.SIGTERM, "", "")
        said = "wgpyctl: the tunnel has ended, and sh with it\n"
        assert other.end() == (-signal.SIGKILL, "", said)
        assert not inhabitants(network)


def test_the_command_of_who_joined_and_is_killed_ends_and_the_tunnel_goes_on(here: Place) -> None:
    with first(here) as one:
        with here.started(*JOIN, *WAIT) as other:
            (job,) = other.children()
            other.process.kill()
            eventually(lambda: is_over(job), "the end of its command")
        assert here.run(*JOIN, "true") == (0, "", "")
        assert name_of(one.job()) == "sleep"


def test_a_tunnel_that_is_not_there_is_told_with_the_way_to_one(here: Place) -> None:
    assert here.run(*JOIN, "true") == (125, "", NONE)


def test_a_name_that_is_taken_is_told_with_what_to_do(here: Place) -> None:
    with first(here):
        status, output, errors = here.run(here.conf(), "--", "true")
    assert (status, output) == (125, "")
    assert errors == (
        "wgpyctl: a tunnel called home runs: "
        "join it by `--join home`, or give this one another by --name\n"
    )


def test_what_a_killed_tunnel_left_is_in_nobodys_way(here: Place) -> None:
    with first(here) as one:
        network, tunnel = one.network(), one.tunnel()
        os.kill(tunnel, signal.SIGKILL)
        one.end()
        eventually(lambda: not inhabitants(network), "the end of all")
    assert (here.path / "wgpy/home.exec").is_socket()
    assert here.run(*JOIN, "true") == (125, "", NONE)
    assert here.run(here.conf(), "--", "true") == (0, "", "")


def test_a_directory_that_others_may_enter_is_refused(here: Place) -> None:
    directory = here.path / "wgpy"
    directory.mkdir()
    os.chown(directory, NOBODY, -1)
    directory.chmod(0o755)
    for arguments in (["--name", "x", here.conf()], ["--join", "x"]):
        status, _, errors = here.run(*arguments, "--", "true")
        assert status == 125
        assert f"{directory} is not a directory that only you may enter: remove it\n" in errors
    assert here.run(here.conf(), "--", "true") == (0, "", ""), "nobody asked for a name"


def test_nobody_of_another_user_is_let_in() -> None:
    ours, theirs = socket.socketpair()
    named.require_same_user(ours)
    address = f"\0wgpy-test-{os.getpid()}"
    with ours, theirs, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        child = os.fork()
        if child == 0:
            os.setuid(NOBODY)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(address)
                client.recv(1)
            os._exit(0)
        with listener.accept()[0] as accepted, pytest.raises(PermissionError, match="65534"):
            named.require_same_user(accepted)
        os.waitpid(child, 0)


def test_many_who_join_at_once_leave_no_descriptor_open(here: Place) -> None:
    with first(here) as one:
        held = f"/proc/{one.tunnel()}/fd"
        here.run(*JOIN, "true")
        before = len(os.listdir(held))
        path = str(here.path / "wgpy/home.exec")
        for _ in range(200):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
        assert here.run(*JOIN, "true") == (0, "", "")
        assert len(os.listdir(held)) == before
        assert network_of(one.job()) == one.network()
