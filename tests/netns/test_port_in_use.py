# SPDX-License-Identifier: MIT
"""A listen port that somebody else has: it is told, and the port is taken when it is free."""

import subprocess
from collections.abc import Iterator

import pytest
from netns.lab import Side, ping, taken


@pytest.fixture
def logging(sides: tuple[Side, Side]) -> Iterator[subprocess.Popen[str]]:
    """The left daemon, in the foreground, at the default level.  The right one runs too."""
    left, right = sides
    process = left.host.popen("wgpy", "-f", left.interface)
    assert "ready" in next_line(process)
    right.host.run("wgpy", right.interface)
    right.configure(right.settings(left))
    yield process
    process.terminate()
    process.communicate(timeout=30)


def go_up(side: Side) -> None:
    side.host.run("ip", "address", "add", f"{side.inner4}/24", "dev", side.interface)
    side.host.run("ip", "link", "set", side.interface, "up")


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    return process.stderr.readline()


def test_it_is_refused_while_the_link_is_down(sides: tuple[Side, Side]) -> None:
    left = sides[0]
    left.host.run("wgpy", left.interface)
    left.set("listen-port", "51821")
    command = "wg", "set", left.interface, "listen-port", "51820"
    with taken(left.host, 51820):
        assert "Address already in use" in left.host.refusal(*command)
        assert left.show("listen-port") == "51821"
        assert left.host.run("ss", "-uln").count(":518") == 1
    left.host.run(*command)
    assert left.show("listen-port") == "51820"


def test_the_log_tells_when_the_link_goes_up_and_it_is_taken_when_it_is_free(
    sides: tuple[Side, Side], logging: subprocess.Popen[str]
) -> None:
    left, right = sides
    left.setconf(left.settings(right))
    with taken(left.host, left.port):
        go_up(left)
        assert "ERROR" in (line := next_line(logging))
        assert "cannot listen on UDP port 51820: Address already in use" in line
        assert left.show("listen-port") == "51820"
    ping(left.host, right.inner4)


def test_meanwhile_another_may_be_set(
    sides: tuple[Side, Side], logging: subprocess.Popen[str]
) -> None:
    left, right = sides
    left.setconf(left.settings(right))
    with taken(left.host, left.port):
        go_up(left)
        assert "cannot listen on UDP port 51820" in next_line(logging)
        left.set("listen-port", "51821")
        ping(left.host, right.inner4)
