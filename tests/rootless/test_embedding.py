# SPDX-License-Identifier: MIT
"""The examples of docs/embedding.md, by somebody without privileges."""

import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from examples import example
from rootless.lab import as_nobody, environment, result, running, scenario, tunnel_scenario

from wgpy.protocol.noise import StaticKey

FILE = """[Interface]
PrivateKey = {}
Address = 10.0.0.2/24
DNS = 10.0.0.1
[Peer]
PublicKey = {}
AllowedIPs = 10.0.0.1
Endpoint = 127.0.0.1:{}
"""


def keys(number: int) -> tuple[str, str]:
    """A private key and its public key, as wg writes them."""
    key = StaticKey(bytes([number]) * 32)
    return b64encode(bytes([number]) * 32).decode(), b64encode(key.public_key).decode()


@contextmanager
def served() -> Iterator[tuple[list[str], str]]:
    """What the first example takes as arguments, and a file of wg-quick of the same tunnel."""
    server, client = keys(1), keys(2)
    with running(as_nobody(*tunnel_scenario("serve_example", server[0], client[1]))) as (_, port):
        arguments = [client[0], server[1], "127.0.0.1", str(port)]
        yield arguments, FILE.format(client[0], server[1], port)


def output(*command: str) -> str:
    """What it prints as nobody."""
    done = subprocess.run(
        as_nobody(*command),
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.replace("\r\n", "\n")


def with_file(file: str, title: str) -> list[str]:
    """The program below this heading, where that file is home.conf."""
    return scenario("with_file", file, example(title), file="blocking_scenarios.py")


def test_the_example_runs_as_it_is_written() -> None:
    with served() as (arguments, _):
        said = output(sys.executable, "-c", example("wgpy inside a program"), *arguments)
    assert "200 OK\n\nhello\n" in said
    assert "1 received, 0% packet loss" in said
    assert said.endswith("ping: 0\n")


def test_the_example_without_an_event_loop_runs_as_it_is_written() -> None:
    with served() as (_, file):
        said = output(*with_file(file, "Without an event loop"))
    assert said == "HTTP/1.0 200 OK\n\nhello\nping: 0\n"


@pytest.mark.parametrize(
    ("title", "said"), [("aiohttp", "hello"), ("httpx", "hello"), ("Databases", "SELECT 1")]
)
def test_a_library_reaches_by_its_hooks_what_has_a_name_in_the_tunnel(
    title: str, said: str
) -> None:
    with served() as (_, file):
        assert output(*with_file(file, title)) == f"{said}\n"


def test_httpx_over_a_tunnel_checks_certificates() -> None:
    told = result(as_nobody(*tunnel_scenario("https", example("httpx"))))
    assert told == ["hello", "ConnectError"]
