# SPDX-License-Identifier: MIT
"""What is at the other end of the tunnels of `wgpyctl exec`; as in scenarios.py."""

import asyncio
import socket
from ipaddress import ip_interface, ip_network

from rootless.scenarios import run_named, tell, told
from rootless.tunnel_scenarios import Answering, say_hello

from wgpy import Config, PeerConfig, Tunnel
from wgpy.protocol.noise import StaticKey

ADDRESS, CLIENT = "10.9.0.1", "10.9.0.2"
ANSWER = "10.9.0.7"  # whatever is asked
KEY, KEY_OF_CLIENT = bytes([1]) * 32, bytes([2]) * 32


async def serve() -> None:
    """Be a peer with a name server, which knows every name, and another server."""
    client = PeerConfig(StaticKey(KEY_OF_CLIENT).public_key, allowed_ips=(ip_network(CLIENT),))
    config = Config(KEY, addresses=(ip_interface(f"{ADDRESS}/24"),), peers=(client,))
    loop = asyncio.get_running_loop()
    async with Tunnel(config) as tunnel:
        names = tunnel.socket(socket.AF_INET, socket.SOCK_DGRAM)
        names.bind((ADDRESS, 53))
        names.setblocking(False)
        transport, _ = await loop.create_datagram_endpoint(lambda: Answering(ANSWER), sock=names)
        async with await tunnel.start_server(say_hello, ADDRESS, 80):
            tell((await tunnel.status()).listen_port)
            await told("close")
        transport.close()


if __name__ == "__main__":
    run_named(globals())
