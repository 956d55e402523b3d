# SPDX-License-Identifier: MIT
"""wgpy.Interface: an interface of the system that a program has, and how that ends."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from examples import example
from netns.lab import ENVIRONMENT, Side, eventually, ping

# argv: interface, file, "routes" or "bare".  SIGTERM ends it.
PROGRAM = """
import asyncio, logging, signal, sys
import wgpy

async def main(name, file, routes):
    loop, ended = asyncio.get_running_loop(), None
    config = wgpy.Config.from_file(file)
    try:
        async with wgpy.Interface(name, config, routes=routes == "routes") as interface:
            stopped = loop.create_future()
            loop.add_signal_handler(signal.SIGTERM, stopped.set_result, "stopped")
            events = interface.events()
            peers = len((await interface.status()).peers)
            print("ready", peers, flush=True)
            ended = asyncio.ensure_future(interface.until_end())
            await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
            events.close()
        print(await ended)
    except wgpy.WgpyError as error:
        print(type(error).__name__, str(error), flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


def command(side: Side, routes: str = "routes") -> list[str]:
    return [sys.executable, "-W", "error", "-c", PROGRAM, side.interface, str(side.config), routes]


@contextmanager
def program(side: Side, routes: str = "routes") -> Iterator[subprocess.Popen[str]]:
    """One that has the interface when this begins."""
    process = subprocess.Popen(
        side.host.argv(*command(side, routes)), stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready 1\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    """What it says as it ends, which it does by itself."""
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    return output.strip()


def assert_nothing_is_left(side: Side) -> None:
    assert not side.host.has_interface(side.interface)
    assert not side.socket.exists()


@pytest.fixture
def left(sides: tuple[Side, Side]) -> Side:
    """Has a file of wg-quick, and so has its peer."""
    left, right = sides
    left.write_config(right, allowed=f"{right.inner4}, {right.inner6}, 10.78.0.0/16")
    right.write_config(left)
    return left


def test_two_programs_have_interfaces_that_wg_and_wgpyctl_know(
    sides: tuple[Side, Side], left: Side
) -> None:
    right = sides[1]
    with program(left) as one, program(right):
        ping(left.host, right.inner4)
        ping(right.host, left.inner6)
        left.set("fwmark", "7")
        assert left.show("fwmark") == "0x7"
        assert left.handshake_time() > 0
        assert f"interface: {left.interface}" in left.host.run("wgpyctl", "status", left.interface)
        assert " mtu 1420 " in left.host.run("ip", "link", "show", left.interface)
        routes = left.host.run("ip", "route", "show", "dev", left.interface).split("\n")
        assert [line.split()[0] for line in routes if line] == [right.inner4, "10.78.0.0/16"]
        one.terminate()
        assert said(one) == "closed"
    assert_nothing_is_left(left)


def test_the_example_of_the_documents_runs_until_its_interface_is_deleted(left: Side) -> None:
    text = example("An interface of the system").replace("wg0", left.interface)
    process = subprocess.Popen(
        left.host.argv(sys.executable, "-W", "error", "-c", text),
        stdout=subprocess.PIPE,
        text=True,
        cwd=left.directory,
        env=ENVIRONMENT,
    )
    try:
        eventually(left.socket.exists, "the interface")
        left.socket.unlink()
        assert said(process) == "it ended: socket removed"
    finally:
        process.kill()
        process.communicate()


def test_without_routes_nothing_is_led_into_it(left: Side) -> None:
    with program(left, "bare"):
        assert left.host.run("ip", "route", "show", "dev", left.interface) == ""
        assert left.inner4 in left.host.run("ip", "address", "show", "dev", left.interface)


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (lambda side: side.host.run("ip", "link", "delete", side.interface), "LinkDeletedError"),
        (lambda side: side.socket.unlink(), "socket removed"),
    ],
    ids=["by its deletion", "by its socket"],
)
def test_others_may_end_it_and_the_program_hears_why(
    end: Callable[[Side], object], reason: str, left: Side
) -> None:
    with program(left) as process:
        end(left)
        assert said(process) == reason
    assert_nothing_is_left(left)


def test_a_route_that_others_have_is_refused_and_nothing_is_left(left: Side) -> None:
    left.host.run("ip", "route", "add", "10.78.0.0/16", "dev", "cable")
    assert left.host.run(*command(left)) == (
        f"StartError {left.interface} cannot have the route to 10.78.0.0/16: File exists\n"
    )
    assert_nothing_is_left(left)


def test_an_interface_in_use_is_refused_and_stays(left: Side) -> None:
    left.host.run("wgpy", left.interface)
    assert left.host.run(*command(left)) == (
        f"StartError the interface {left.interface} exists and is in use\n"
    )
    assert left.host.run("wg", "show", left.interface)


def test_without_permission_a_sentence_says_what_it_takes(left: Side) -> None:
    without = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"]
    assert left.host.run(*without, *command(left)) == (
        "StartError no permission to make an interface: run as root (it takes CAP_NET_ADMIN)\n"
    )


def test_a_killed_program_leaves_no_interface(left: Side) -> None:
    with program(left) as process:
        process.kill()
        eventually(lambda: not left.host.has_interface(left.interface), "the end of the interface")
    with program(left):  # which clears the socket that was left
        assert left.show()
