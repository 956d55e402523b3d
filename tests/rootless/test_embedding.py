"""The example of docs/embedding.md, by somebody without privileges."""

import subprocess
import sys
from base64 import b64encode

from examples import example
from rootless.lab import as_nobody, environment, running, tunnel_scenario

from wgpy.protocol.noise import StaticKey


def keys(number: int) -> tuple[str, str]:
    """A private key and its public key, as wg writes them."""
    key = StaticKey(bytes([number]) * 32)
    return b64encode(bytes([number]) * 32).decode(), b64encode(key.public_key).decode()


def test_the_example_runs_as_it_is_written() -> None:
    server, client = keys(1), keys(2)
    with running(as_nobody(*tunnel_scenario("serve_example", server[0], client[1]))) as (_, port):
        arguments = (client[0], server[1], "127.0.0.1", str(port))
        done = subprocess.run(
            as_nobody(sys.executable, "-c", example("wgpy inside a program"), *arguments),
            capture_output=True,
            text=True,
            timeout=60,
            env=environment(),
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert "200 OK\n\nhello\n" in done.stdout.replace("\r\n", "\n")
    assert "1 received, 0% packet loss" in done.stdout
    assert done.stdout.endswith("ping: 0\n")
