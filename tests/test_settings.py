# SPDX-License-Identifier: MIT
"""Tunnels as typed data, and what a file of wg-quick makes of them."""

import doctest
from base64 import b64encode
from dataclasses import fields, replace
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from wgpy import settings
from wgpy.config import AllowedIP, DeviceChange, Endpoint, PeerChange
from wgpy.errors import ConfigError, ConfigFileError
from wgpy.settings import Config, PeerConfig
from wgpy.wgquick import Host

SECRET, ONE, OTHER, PSK = (bytes([n] * 32) for n in (1, 2, 3, 4))
TEXT = {key: b64encode(key).decode() for key in (SECRET, ONE, OTHER, PSK)}
INTERFACE = f"[Interface]\nPrivateKey = {TEXT[SECRET]}\n"


def read(text: str) -> Config:
    return Config.from_bytes(text.encode(), "home.conf")


def refusal(text: str) -> str:
    with pytest.raises(ConfigFileError) as caught:
        read(text)
    return str(caught.value)


def peer(key: bytes, *lines: str) -> str:
    return "\n".join(("[Peer]", f"PublicKey = {TEXT[key]}", *lines, ""))


def prefixes(config: Config) -> dict[bytes, list[str]]:
    return {one.public_key: [str(prefix) for prefix in one.allowed_ips] for one in config.peers}


def test_a_file_is_a_config(tmp_path: Path) -> None:
    path = tmp_path / "home.conf"
    path.write_text(
        INTERFACE
        + "Address = 10.0.0.2/24, fd00::2\nDNS = 10.0.0.1, corp.example\nDNS = fd00::1\n"
        + "MTU = 1400\nListenPort = 51820\nFwMark = 7\nTable = off\nSaveConfig = true\n"
        + peer(ONE, f"PresharedKey = {TEXT[PSK]}", "AllowedIPs = 10.0.0.9/24, ::/0")
        + "Endpoint = vpn.example:51821\nPersistentKeepalive = 25\n"
    )
    assert Config.from_file(path) == Config(
        SECRET,
        addresses=(ip_interface("10.0.0.2/24"), ip_interface("fd00::2/128")),
        peers=(
            PeerConfig(
                ONE,
                preshared_key=PSK,
                endpoint=Host("vpn.example", 51821),
                allowed_ips=(ip_network("10.0.0.0/24"), ip_network("::/0")),
                persistent_keepalive_s=25,
            ),
        ),
        dns=(ip_address("10.0.0.1"), ip_address("fd00::1")),
        search_domains=("corp.example",),
        mtu=1400,
        listen_port=51820,
        fwmark=7,
    )


def test_the_least_file_has_a_private_key_and_nothing_else() -> None:
    assert read(INTERFACE) == Config(SECRET)
    assert read(INTERFACE + "MTU =\nAddress =\nDNS =\n") == Config(SECRET)


def test_the_last_of_several_lines_counts() -> None:
    config = read(INTERFACE + "MTU = 1400\nMTU = 1300\n" + peer(ONE, f"PublicKey = {TEXT[OTHER]}"))
    assert config.mtu == 1300
    assert [one.public_key for one in config.peers] == [OTHER]


def test_no_key_is_in_the_repr() -> None:
    shown = repr(read(INTERFACE + peer(ONE, f"PresharedKey = {TEXT[PSK]}")))
    assert repr(SECRET)[2:-1] not in shown
    assert repr(PSK)[2:-1] not in shown


# ---- peers of one key ----


def test_sections_of_one_key_are_one_peer() -> None:
    config = read(
        INTERFACE
        + peer(ONE, "Endpoint = 192.0.2.1:1", f"PresharedKey = {TEXT[PSK]}", "AllowedIPs = ::/0")
        + peer(OTHER)
        + peer(ONE, "PersistentKeepalive = 9", "AllowedIPs = 10.0.0.0/8")
    )
    merged = PeerConfig(ONE, PSK, Host("192.0.2.1", 1), (ip_network("10.0.0.0/8"),), 9)
    assert config.peers == (merged, PeerConfig(OTHER))


def test_a_later_section_without_allowed_ips_takes_them_all_away() -> None:
    assert prefixes(read(INTERFACE + peer(ONE, "AllowedIPs = ::/0") + peer(ONE))) == {ONE: []}


def test_a_prefix_is_the_last_peers_that_has_it() -> None:
    text = (
        INTERFACE + peer(ONE, "AllowedIPs = 10.0.0.0/8, ::/0") + peer(OTHER, "AllowedIPs = ::1/0")
    )
    assert prefixes(read(text)) == {ONE: ["10.0.0.0/8"], OTHER: ["::/0"]}
    again = text + peer(ONE, "AllowedIPs = ::/0")
    assert prefixes(read(again)) == {ONE: ["::/0"], OTHER: []}


def test_prefixes_with_signs_add_and_take_away() -> None:
    text = INTERFACE + peer(ONE, "AllowedIPs = 10.0.0.0/8, ::/0")
    added = text + peer(ONE, "AllowedIPs = +11.0.0.0/8, -::/0, -12.0.0.0/8")
    assert prefixes(read(added)) == {ONE: ["10.0.0.0/8", "11.0.0.0/8"]}
    of_another = text + peer(OTHER, "AllowedIPs = -::/0")
    assert prefixes(read(of_another)) == {ONE: ["10.0.0.0/8", "::/0"], OTHER: []}


def test_the_last_line_decides_whether_prefixes_are_added() -> None:
    text = INTERFACE + peer(ONE, "AllowedIPs = ::/0")
    replaced = text + peer(ONE, "AllowedIPs = +11.0.0.0/8", "AllowedIPs = 12.0.0.0/8")
    assert prefixes(read(replaced)) == {ONE: ["11.0.0.0/8", "12.0.0.0/8"]}
    added = text + peer(ONE, "AllowedIPs = 11.0.0.0/8", "AllowedIPs = +12.0.0.0/8")
    assert prefixes(read(added)) == {ONE: ["::/0", "11.0.0.0/8", "12.0.0.0/8"]}


# ---- what is refused ----


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "home.conf: there is no [Interface]"),
        ("\n[Interface]\n", "home.conf, line 2: this [Interface] has no PrivateKey"),
        (INTERFACE + "[Peer]\n", "home.conf, line 3: this [Peer] has no PublicKey"),
        (INTERFACE + "Port = 1\n", "home.conf, line 3: no such setting"),
        (INTERFACE + "\0", "home.conf, line 3: a NUL"),
        (
            f"[Interface]\nPrivateKey = {b64encode(bytes(32)).decode()}\n",
            "home.conf, line 2: a private key of zeros is none",
        ),
        (INTERFACE + "MTU = 67\n", "home.conf, line 3: an MTU is 68 to 65535 bytes here"),
        (
            INTERFACE + "MTU = 1279\nAddress = fd00::1\n",
            "home.conf, line 3: an MTU is 1280 to 65535 bytes here",
        ),
    ],
)
def test_the_reason_is_told_with_file_and_line(text: str, said: str) -> None:
    assert refusal(text) == said


@pytest.mark.parametrize("key", ["PreUp", "PostUp", "PreDown", "PostDown"])
def test_commands_are_refused_unless_they_are_to_be_ignored(key: str) -> None:
    text = f"{INTERFACE}{key} = reboot\nPreUp = reboot\n"
    assert refusal(text) == f"home.conf, line 3: {key} is a command, and none is run here"
    assert Config.from_bytes(text.encode(), "", ignore_commands=True) == Config(SECRET)


def test_an_error_has_its_parts() -> None:
    with pytest.raises(ConfigError) as caught:
        read(INTERFACE + "FwMark = x\n")
    error = caught.value
    assert isinstance(error, ConfigFileError)
    assert (error.path, error.line_number, error.line) == ("home.conf", 3, None)
    assert error.reason == "FwMark: neither off nor a number of 32 bits"


def test_no_error_has_a_key_not_even_in_what_caused_it() -> None:
    spoilt = TEXT[SECRET].replace("=", "")
    with pytest.raises(ConfigFileError) as caught:
        read(f"[Interface]\nPrivateKey = {spoilt}\n")
    error: BaseException | None = caught.value
    while error is not None:
        assert spoilt not in f"{error}{error!r}{error.args}"
        error = error.__cause__ or error.__context__


def test_the_name_of_a_file_cannot_speak_to_a_terminal() -> None:
    with pytest.raises(ConfigFileError, match=r"^a\\x1b\[2J\\nb: there is no"):
        Config.from_bytes(b"", "a\x1b[2J\nb")


def test_a_file_that_cannot_be_read_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Config.from_file(tmp_path / "none.conf")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"private_key": b"short"}, "a key is 32 bytes"),
        ({"private_key": bytes(32)}, "a private key of zeros is none"),
        ({"listen_port": 65536}, "a port is 0 to 65535"),
        ({"fwmark": -1}, "a mark has 32 bits"),
        ({"mtu": 0}, "an MTU is 68 to 65535 bytes here"),
        ({"search_domains": ("a.example\nnameserver 192.0.2.1",)}, "no search domain"),
        ({"dns": (ip_address("fe80::1%a"),)}, "a DNS server in a zone"),
        ({"peers": (PeerConfig(ONE), PeerConfig(ONE))}, "two peers have one public key"),
    ],
)
def test_data_that_make_no_tunnel_are_refused(bad: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=f"^{reason}$"):
        replace(Config(SECRET), **bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "bad", [{"public_key": b""}, {"preshared_key": b""}, {"persistent_keepalive_s": 65536}]
)
def test_data_that_make_no_peer_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        replace(PeerConfig(ONE), **bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "port"), [("", 1), ("a b", 1), ("a\n", 1), ("a", 65536), ("a", -1)]
)
def test_what_is_no_host_is_refused(host: str, port: int) -> None:
    with pytest.raises(ConfigError):
        Host(host, port)


# ---- and what becomes of it ----


def test_a_config_is_a_whole_change_of_a_device() -> None:
    config = read(
        INTERFACE
        + "FwMark = 7\nListenPort = 9\n"
        + peer(ONE, "AllowedIPs = 10.0.0.9/24", "Endpoint = vpn.example:1")
        + peer(OTHER, f"PresharedKey = {TEXT[PSK]}", "PersistentKeepalive = 25")
    )
    endpoint = Endpoint(bytes([192, 0, 2, 1]), 1)
    change = DeviceChange(
        private_key=SECRET,
        listen_port=9,
        replace_peers=True,
        peers=(
            PeerChange(
                ONE,
                endpoint=endpoint,
                persistent_keepalive_s=0,
                replace_allowed_ips=True,
                allowed_ips=(AllowedIP(bytes([10, 0, 0, 0]), 24),),
            ),
            PeerChange(
                OTHER, preshared_key=PSK, persistent_keepalive_s=25, replace_allowed_ips=True
            ),
        ),
    )
    assert config.change({ONE: endpoint}) == change
    assert config.change({ONE: endpoint}, with_fwmark=True) == replace(change, fwmark=7)


def test_a_change_leaves_out_nothing_that_a_config_has() -> None:
    known = {"private_key", "peers", "listen_port", "fwmark"}
    of_the_link = {"addresses", "dns", "search_domains", "mtu"}
    assert {one.name for one in fields(Config)} == known | of_the_link


def test_the_examples_run() -> None:
    assert doctest.testmod(settings).attempted > 0
    assert doctest.testmod(settings).failed == 0
