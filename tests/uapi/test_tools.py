# SPDX-License-Identifier: MIT
"""The configuration socket and the real tools."""

import asyncio
import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from serving import KEY_HEX, Connect, FakeDevice, run
from wireguard_tools import WireguardConfig, WireguardKey, WireguardPeer
from wireguard_tools.wireguard_uapi import WireguardUAPIDevice

from wgpy.errors import ConfigError
from wgpy.uapi.server import UapiServer
from wgpy.uapi.socket_file import DIRECTORY, SocketFile, open_socket

needs_wg = pytest.mark.skipif(
    shutil.which("wg") is None or os.geteuid() != 0, reason="needs root and the wg tool"
)

CONFIGURATION = """\
[Interface]
ListenPort = 51820
FwMark = 0xca6c
PrivateKey = oK56DE9Ue9zK76rAc8pBl6opph+1v36lm7cXXsQKrQM=

[Peer]
PublicKey = GtL7fZc/bLnqZldpVofMCD6hDjrK28SsdLxevJ+qtKU=
PresharedKey = /UwcSPg38hW/D9Y3tcS1FOV0K1wuURMbS0sesJEP5ak=
AllowedIPs = 10.0.0.0/24, 2001:db8::/32
Endpoint = 192.0.2.1:51821
PersistentKeepalive = 25

[Peer]
PublicKey = nLiu0wrgNyi4/6oEOEU8xSCSGlYjHPs2JE7R8/R7Vkc=
AllowedIPs = 0.0.0.0/0, ::/0
Endpoint = [2001:db8::1]:51822
"""
PUBLIC = "GtL7fZc/bLnqZldpVofMCD6hDjrK28SsdLxevJ+qtKU="


class Tools:
    """Runs wg against our socket, where it looks for it."""

    def __init__(self, interface: str) -> None:
        self.interface = interface
        self.path = DIRECTORY / f"{interface}.sock"

    async def wg(self, verb: str, *arguments: str) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            "wg", verb, self.interface, *arguments, stdout=-1, stderr=-1
        )
        out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def ok(self, verb: str, *arguments: str) -> str:
        code, out, err = await self.wg(verb, *arguments)
        assert (code, err) == (0, "")
        return out


def run_tools(device: FakeDevice, test: Callable[[Tools], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        tools = Tools(f"wgt{os.getpid()}")
        server = UapiServer(device.changing, device.snapshot)
        with contextlib.ExitStack() as stack:
            sock = open_socket(tools.interface)
            stack.callback(SocketFile.of(sock).remove)
            stack.callback(server.close)
            server.serve(sock)
            await test(tools)

    asyncio.run(asyncio.wait_for(main(), 20))


@needs_wg
def test_wg_showconf_gives_what_wg_setconf_set(device: FakeDevice, tmp_path: Path) -> None:
    path = tmp_path / "wg.conf"
    path.write_text(CONFIGURATION)

    async def test(tools: Tools) -> None:
        await tools.ok("setconf", str(path))
        assert (await tools.ok("showconf")).split() == CONFIGURATION.split()
        await tools.ok("syncconf", str(path))
        assert (await tools.ok("showconf")).split() == CONFIGURATION.split()

    run_tools(device, test)


@needs_wg
def test_wg_set_changes_what_wg_show_shows(device: FakeDevice) -> None:
    async def test(tools: Tools) -> None:
        await tools.ok("set", "listen-port", "7", "fwmark", "0x10")
        assert await tools.ok("show", "listen-port") == "7\n"
        assert await tools.ok("show", "fwmark") == "0x10\n"
        await tools.ok("set", "peer", PUBLIC, "endpoint", "[fe80::1%lo]:9", "allowed-ips", "::1")
        assert await tools.ok("show", "endpoints") == f"{PUBLIC}\t[fe80::1%lo]:9\n"
        assert await tools.ok("show", "allowed-ips") == f"{PUBLIC}\t::1/128\n"
        assert PUBLIC in await tools.ok("show")
        await tools.ok("set", "fwmark", "off", "peer", PUBLIC, "remove")
        assert await tools.ok("show", "fwmark") == "off\n"
        assert await tools.ok("show", "peers") == ""

    run_tools(device, test)


@needs_wg
def test_wg_tells_the_error_of_a_refused_change(device: FakeDevice) -> None:
    async def test(tools: Tools) -> None:
        code, _, err = await tools.wg("set", "listen-port", "7")
        assert code == 1
        assert os.strerror(errno.EADDRINUSE) in err

    device.fail = ConfigError(errno.EADDRINUSE, "taken")
    run_tools(device, test)


@needs_wg
def test_wg_lists_the_interface_and_leaves_no_error(
    device: FakeDevice, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(tools: Tools) -> None:
        process = await asyncio.create_subprocess_exec("wg", "show", "interfaces", stdout=-1)
        out, _ = await process.communicate()
        assert tools.interface in out.decode().split()

    run_tools(device, test)
    assert [record for record in caplog.records if record.name.startswith("wgpy.uapi")] == []


def test_the_pypi_client_sets_and_gets(device: FakeDevice, directory: Path) -> None:
    key, public = WireguardKey(KEY_HEX), WireguardKey(PUBLIC)
    peer = WireguardPeer(
        public, endpoint_host="192.0.2.1", endpoint_port=51820, persistent_keepalive=25
    )
    peer.allowed_ips += WireguardPeer(public, allowed_ips=["10.0.0.0/24", "fd00::/64"]).allowed_ips

    def set_and_get() -> WireguardConfig:
        client = WireguardUAPIDevice(directory / "wg-test.sock")
        with contextlib.closing(client):
            config = WireguardConfig(private_key=key, listen_port=7, fwmark=8)
            config.add_peer(peer)
            client.set_config(config)
            return client.get_config()

    async def test(connect: Connect) -> None:
        config = await asyncio.to_thread(set_and_get)
        assert (config.private_key, config.listen_port, config.fwmark) == (key, 7, 8)
        (got,) = config.peers.values()
        assert (got.public_key, got.persistent_keepalive) == (public, 25)
        assert (str(got.endpoint_host), got.endpoint_port) == ("192.0.2.1", 51820)
        assert [str(prefix) for prefix in got.allowed_ips] == ["10.0.0.0/24", "fd00::/64"]

    run(device, directory, test)
