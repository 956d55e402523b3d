# SPDX-License-Identifier: MIT
"""`wgpyctl doctor CONF`: what is wrong with a file of wg-quick before it is up."""

import os
import re
import socket
from base64 import b64encode
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from wgpy.ctl.cli import main
from wgpy.wgquick import FILE_MAX

PRIVATE = X25519PrivateKey.generate()
OURS = b64encode(PRIVATE.public_key().public_bytes_raw()).decode()
SECRET = b64encode(PRIVATE.private_bytes_raw()).decode()
PEER, OTHER = (b64encode(bytes([n] * 32)).decode() for n in (1, 2))
HEALTHY = f"""[Interface]
PrivateKey = {SECRET}
Address = 10.0.0.1/24

[Peer]
PublicKey = {PEER}
AllowedIPs = 10.0.0.2/32
Endpoint = 192.0.2.1:51820
"""
# A change of the healthy file, and what is said about it.
FAULTS = {
    "no private key": ("PrivateKey = .*\n", "", "error: there is no PrivateKey"),
    "no section": (r"\[Interface\]\n.*\n.*\n", "", "error: there is no [Interface]"),
    "no peer": (r"\[Peer\][^$]*", "", "warning: there is no [Peer]"),
    "no address": ("Address = .*\n", "", "note: there is no Address"),
    "no public key": ("PublicKey = .*\n", "", "error: the [Peer] of line 5 has no PublicKey"),
    "our own key": (PEER, OURS, "error: the [Peer] of line 5 has the public key of this very"),
    "no allowed IPs": ("AllowedIPs.*\n", "", "warning: the [Peer] of line 5 has no AllowedIPs"),
    "nobody begins": ("Endpoint.*\n", "", "warning: no peer has an Endpoint, and without"),
    "a typing error": ("Address", "Adress", "error: wg0.conf, line 3: no such setting"),
    "half a key": (re.escape(PEER), PEER[:20], "error: wg0.conf, line 6: PublicKey: no key of 32"),
    "no text": (r"\Z", "\0", "error: wg0.conf, line 9: a NUL"),
    "no end": (r"\Z", "#" * FILE_MAX, "error: wg0.conf: longer than 8 MiB"),
    "a list with nothing at its end": (
        "10.0.0.2/32",
        "10.0.0.2/32,",
        "error: wg0.conf, line 7: AllowedIPs: no list of addresses",
    ),
    "a loop": (
        "10.0.0.2/32",
        "192.0.2.0/24, 10.0.0.2/32",
        "error: the Endpoint of the [Peer] of line 5 is in AllowedIPs 192.0.2.0/24: its route",
    ),
    "a small MTU": (
        "Address = .*",
        "Address = fd00::1/64\nMTU = 1200",
        "error: an MTU below 1280 takes no IPv6 address",
    ),
    "no such host": (
        "192.0.2.1:51820",
        f"{'x' * 64}.invalid:1",
        "error: the Endpoint of the [Peer] of line 5 is not found",
    ),
    "one peer twice": (
        r"\Z",
        f"[Peer]\nPublicKey = {PEER}\nAllowedIPs = 10.0.0.3\n",
        "warning: the [Peer] of line 5 and the [Peer] of line 9 have one PublicKey",
    ),
    "one prefix twice": (
        r"\Z",
        f"[Peer]\nPublicKey = {OTHER}\nAllowedIPs = 10.0.0.2\n",
        "warning: the [Peer] of line 5 and the [Peer] of line 9 both have 10.0.0.2/32: it goes",
    ),
}


def examine(path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    path.write_text(text)
    path.chmod(0o600)
    outcome = main(["doctor", str(path)])
    out, err = capsys.readouterr()
    assert err == ""
    assert SECRET not in out
    return outcome, out.splitlines()


def test_a_healthy_file_is_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert examine(tmp_path / "wg0.conf", HEALTHY, capsys) == (
        0,
        ["ok: every line is one of wg-quick's, and they fit together"],
    )


def test_so_is_one_whose_way_is_the_default_route(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = HEALTHY.replace("10.0.0.2/32", "0.0.0.0/0, ::/0")
    assert examine(tmp_path / "wg0.conf", text, capsys)[0] == 0


@pytest.mark.parametrize(
    "line",
    ["PostUp = wg set %i private-key /etc/wireguard/%i.key", "preup = wg set a private-key b"],
)
def test_a_command_may_set_the_key(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = HEALTHY.replace(f"PrivateKey = {SECRET}", line)
    assert examine(tmp_path / "wg0.conf", text, capsys)[0] == 0


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told(fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pattern, replacement, said = FAULTS[fault]
    text = re.sub(pattern, lambda _: replacement, HEALTHY, count=1)
    assert text != HEALTHY
    outcome, lines = examine(tmp_path / "wg0.conf", text, capsys)
    assert any(line.startswith(said) for line in lines), lines
    assert outcome == (0 if said.startswith("note") else 1)


def test_a_name_that_wg_quick_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, (first, *_) = examine(tmp_path / "my tunnel.conf", HEALTHY, capsys)
    assert first.startswith("error: wg-quick makes no interface of that name")


def test_a_file_that_everybody_may_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "wg0.conf"
    path.write_text(HEALTHY)
    path.chmod(0o644)
    assert main(["doctor", str(path)]) == 1
    assert "everybody may read or write the file" in capsys.readouterr().out


def test_a_port_that_somebody_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        port = udp.getsockname()[1]
        text = HEALTHY.replace("Address", f"ListenPort = {port}\nAddress")
        path = tmp_path / f"x{os.getpid()}.conf"
        assert examine(path, text, capsys) == (
            1,
            [
                "ok: every line is one of wg-quick's, and they fit together",
                f"error: somebody has UDP port {port}: look at `ss -ulnp`",
            ],
        )


def test_a_file_that_is_not_there_is_a_wrong_call(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", str(tmp_path / "wg0.conf")]) == 2
    assert main(["doctor", f"{tmp_path}/"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("wg0.conf: No such file or directory")
    assert second.endswith("Is a directory")
