"""Files of wg-quick: what each line says, and what is wrong with it."""

from base64 import b64encode
from pathlib import PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wgpy.config import AllowedIP
from wgpy.wgquick import Host, Problem, interface_of, parse_untrusted

SECRET, KEY = bytes([1] * 32), bytes([2] * 32)
FILE = f"""
# a comment
[interface]
PrivateKey={b64encode(SECRET).decode()}   # and here
Address = 10.0.0.1/24, fd00::1/64
address = 10.1.0.1
ListenPort = 51820
FwMark = 0xca6c
MTU = 1400
PostUp = iptables -A FORWARD -i %i -j ACCEPT
SaveConfig = true
Table = off

[Peer]
# friendly_name = the other side
PublicKey = {b64encode(KEY).decode()}
AllowedIPs = 10.0.0.2/32,
AllowedIPs =
Endpoint = [2001:db8::1]:51820
PersistentKeepalive = off
[PEER]
Endpoint = vpn.example:1
"""


def test_every_line_is_understood() -> None:
    parsed = parse_untrusted(FILE)
    assert parsed.problems == []
    (interface,), (peer, other) = parsed.interfaces, parsed.peers
    assert parsed.last("privatekey") == SECRET
    assert [prefix.cidr for prefix in interface.prefixes("address")] == [24, 64, 32]
    assert [parsed.last(name) for name in ("listenport", "fwmark", "mtu", "table")] == [
        51820,
        0xCA6C,
        1400,
        "off",
    ]
    assert peer.last("publickey") == KEY
    assert (peer.line, peer.friendly_name) == (14, "the other side")
    assert list(peer.prefixes("allowedips")) == [AllowedIP(bytes([10, 0, 0, 2]), 32)]
    assert peer.last("endpoint") == Host("2001:db8::1", 51820)
    assert other.last("endpoint") == Host("vpn.example", 1)
    assert other.last("publickey") is None


def test_no_key_is_in_the_repr() -> None:
    parsed = parse_untrusted(FILE)
    assert repr(SECRET) not in repr(parsed)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("[Interfaces]", "neither [Interface] nor [Peer]"),
        ("PrivateKey = AAAA", "PrivateKey: no key of 32 bytes in base64"),
        ("PrivateKey", "a line without ="),
        ("Adress = 10.0.0.1", "no such setting"),
        ("PublicKey = x", "it belongs in the other kind of section"),
        ("Address = 10.0.0.1/33", "Address: no list of addresses with prefix lengths"),
        ("ListenPort = 65536", "ListenPort: no number from 0 to 65535"),
        ("FwMark = 0x100000000", "FwMark: neither off nor a number of 32 bits"),
        ("SaveConfig = yes", "SaveConfig: neither true nor false"),
        ("MTU = large", "MTU: no number of bytes"),
    ],
)
def test_what_is_wrong_is_told_by_its_line(line: str, text: str) -> None:
    (problem,) = parse_untrusted(f"[Interface]\n{line}\n").problems
    assert problem.line == 2
    assert problem.text.startswith(text)


@pytest.mark.parametrize(
    "line", ["Endpoint = 192.0.2.1", "Endpoint = :1", "PersistentKeepalive = x", "AllowedIPs = a"]
)
def test_so_it_is_in_a_peer(line: str) -> None:
    (problem,) = parse_untrusted(f"[Peer]\n{line}\n").problems
    assert problem.text.startswith(line.split()[0])


def test_a_line_before_any_section_is_wrong() -> None:
    assert parse_untrusted("MTU = 1400\n").problems == [Problem(1, "a line in no section")]


@given(st.text(alphabet=st.characters(), max_size=300), st.sampled_from(["", "[Peer]\n", FILE]))
def test_any_text_is_a_file_with_problems_at_most(text: str, before: str) -> None:
    problems = parse_untrusted(before + text).problems
    assert all(0 < problem.line <= (before + text).count("\n") + 1 for problem in problems)


@given(st.sampled_from(FILE.splitlines()), st.integers(0, 60))
def test_no_problem_tells_a_value(line: str, cut: int) -> None:
    marker = "hunter2"
    spoilt = f"[Interface]\n{line[:cut]}{marker}\n[Peer]\n{line[:cut]} = {marker}\n"
    assert not any(marker in problem.text for problem in parse_untrusted(spoilt).problems)


@pytest.mark.parametrize(
    ("name", "interface"),
    [
        ("/etc/wireguard/wg0.conf", "wg0"),
        ("a_=+.-.conf", "a_=+.-"),
        ("wg0", None),
        ("much-too-long-a-name.conf", None),
        ("a b.conf", None),
    ],
)
def test_the_name_of_the_file_is_the_interface(name: str, interface: str | None) -> None:
    assert interface_of(PurePath(name)) == interface
