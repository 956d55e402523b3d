# SPDX-License-Identifier: MIT
"""Somebody without privileges, with wgpy in a venv, meets the peer, as the documents begin."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from threading import Thread

import pytest
from examples import example
from interop.conftest import IN_VM
from interop.lab import Tunnel
from interop.network import TIMEOUT_S, Host
from interop.wireguard import Interface, Peer
from netns.lab import run
from rootless.conftest import what_is_missing
from rootless.execs import place
from rootless.lab import as_nobody
from rootless.test_proxy import needs_curl

SERVER, CLIENT = "10.0.0.1", "10.0.0.2"  # of the documents
HELLO = "hello\n"
# One script, for becoming somebody else takes an emulated machine seconds each time.  $0: where
# home.conf is; its arguments: Python, the example and what that takes.
BY_EACH_WAY = """
export XDG_RUNTIME_DIR="$0"
wgpyctl exec "$0/home.conf" -- curl -sS http://10.0.0.1/
"$1" -c "$2" "$3" "$4" "$5" "$6"
mkfifo "$0/said"
wgpyctl proxy "$0/home.conf" --socks5 1080 >"$0/said" &
trap 'kill $!' EXIT
read -r line <"$0/said"
curl -sS --socks5-hostname 127.0.0.1:1080 http://10.0.0.1/
trap - EXIT
kill $!
wait $!
"""


class Greeter(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(HELLO.encode())


@contextmanager
def greeting(host: Host) -> Iterator[None]:
    """A web server."""
    with host.inside(ThreadingTCPServer, (SERVER, 80), Greeter) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def known(user: Interface, peer: Interface) -> Iterator[Interface]:
    """The peer with the address of the documents, when it knows the user in place of wgpy."""
    peer.speak_over(4)
    for end in (user, peer):
        end.renew_keys()
    peer.configure(Peer(user, None))
    peer.host.ip(f"address add {SERVER}/24 dev {peer.name}")
    try:
        yield replace(peer, inner4=SERVER)
    finally:
        peer.host.ip(f"address delete {SERVER}/24 dev {peer.name}")


@needs_curl
def test_who_has_no_privilege_gets_in_by_a_command_a_program_and_a_proxy(tunnel: Tunnel) -> None:
    missing = None if IN_VM else what_is_missing()
    if missing is not None:
        pytest.skip(missing)
    user = Interface("nobody", tunnel.wgpy.host, "", CLIENT, "fd77:9::2")
    with known(user, tunnel.peer) as peer, greeting(peer.host), place() as here:
        head = f"[Interface]\nPrivateKey = {user.private_key}\nAddress = {CLIENT}/24\n"
        Path(here.path, "home.conf").write_text(head + Peer(peer).section())
        program = (sys.executable, example("wgpy inside a program"))
        ends = (user.private_key, peer.public_key, peer.host.outer4, str(peer.port))
        script = ("sh", "-euc", BY_EACH_WAY, str(here.path), *program, *ends)
        said = user.host.inside(run, as_nobody(*script), timeout_s=12 * TIMEOUT_S)
    assert said.startswith(HELLO), "the command's comes first"
    assert said.endswith(f"ping: 0\n{HELLO}"), "the proxy's comes last"
    by_program = said.removeprefix(HELLO).removesuffix(HELLO)  # what ping says is before or within
    assert "HTTP/1.0 200 OK" in by_program
    assert f"\n\n{HELLO}\n" in by_program
