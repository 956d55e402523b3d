# SPDX-License-Identifier: MIT
"""Files of wg-quick: what each line says, and what is wrong with it."""

from base64 import b64encode
from ipaddress import ip_address
from pathlib import PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wgpy.config import AllowedIP
from wgpy.wgquick import (
    FILE_MAX,
    LINE_MAX,
    PROBLEMS_MAX,
    AllowedIPs,
    Host,
    Problem,
    interface_of,
    parse_untrusted,
)

SECRET, KEY = bytes([1] * 32), bytes([2] * 32)
KEY_TEXT = b64encode(KEY).decode()
FILE = f"""
# a comment
[interface]
PrivateKey={b64encode(SECRET).decode()}   # and here
Address = 10.0.0.1/24, fd00::1/64
address = 10.1.0.1 10.2.0.1/016
DNS = 10.0.0.53, corp.example fd00::53
ListenPort = 51820
FwMark = 0xca6c
MTU = 1400
PostUp = iptables -A FORWARD -i %i -j ACCEPT
SaveConfig = True
Table =

[ Pe er ]
# friendly_name = the other side
Public Key = {KEY_TEXT[:7]} {KEY_TEXT[7:]}
AllowedIPs = 10.0.0.2/32 , 10.0.1.3/24
allowedips = -10.0.0.2, +fd00::2
Endpoint = [2001:db8::1]:51820
PersistentKeepalive = OFF
[PEER]
Endpoint = vpn.example:1
[Interface]
ListenPort = 51821
"""


def problems_of(text: str) -> list[Problem]:
    return parse_untrusted(text.encode()).problems


def value_of(section: str, line: str) -> object:
    """What a line says in a file of its own."""
    parsed = parse_untrusted(f"[{section}]\n{line}\n".encode())
    assert parsed.problems == []
    (settings,) = (parsed.interfaces + parsed.peers)[0].settings.values()
    return settings[0].value


def test_every_line_is_understood() -> None:
    parsed = parse_untrusted(FILE.encode())
    assert parsed.problems == []
    (interface, second), (peer, other) = parsed.interfaces, parsed.peers
    assert (interface.line, second.line) == (3, 24)
    assert parsed.last("privatekey") == SECRET
    assert [prefix.cidr for prefix in interface.prefixes("address")] == [24, 64, 32, 16]
    assert interface.last("dns") == (
        ip_address("10.0.0.53"),
        "corp.example",
        ip_address("fd00::53"),
    )
    names = ("listenport", "fwmark", "mtu", "table", "saveconfig")
    assert [parsed.last(name) for name in names] == [51821, 0xCA6C, 1400, "auto", True]
    assert [setting.line for setting in parsed.all("listenport")] == [8, 25]
    assert peer.last("publickey") == KEY
    assert (peer.line, peer.friendly_name) == (15, "the other side")
    assert [prefix.cidr for prefix in peer.prefixes("allowedips")] == [32, 24, 128]
    assert peer.last("endpoint") == Host("2001:db8::1", 51820)
    assert peer.last("persistentkeepalive") == 0
    assert other.last("endpoint") == Host("vpn.example", 1)
    assert other.last("publickey") is None


def test_no_key_is_in_the_repr() -> None:
    assert repr(SECRET) not in repr(parse_untrusted(FILE.encode()))


def test_a_sign_makes_allowed_ips_add_and_take_away() -> None:
    ten, eleven = bytes([10, 0, 0, 0]), bytes([11, 0, 0, 0])
    both = (AllowedIP(ten, 8), AllowedIP(eleven, 8))
    assert value_of("Peer", "AllowedIPs = 10.0.0.0/8, 11.0.0.0/8") == AllowedIPs(both)
    assert value_of("Peer", "AllowedIPs = +10.0.0.0/8, -11.0.0.0/8") == AllowedIPs(
        (AllowedIP(ten, 8), AllowedIP(eleven, 8, remove=True)), replace=False
    )


def test_windows_files_are_read() -> None:
    text = b"\xef\xbb\xbf" + FILE.replace("\n", "\r\n").encode()
    parsed = parse_untrusted(text)
    assert parsed.problems == []
    assert parsed.interfaces == parse_untrusted(FILE.encode()).interfaces


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("[Interfaces]", "neither [Interface] nor [Peer]"),
        ("PrivateKey = AAAA", "PrivateKey: no key of 32 bytes in base64"),
        ("PrivateKey = " + KEY_TEXT[:42] + "J=", "PrivateKey: no key of 32 bytes in base64"),
        ("PrivateKey =", "PrivateKey: no key of 32 bytes in base64"),
        ("PrivateKey", "a line without ="),
        ("Adress = 10.0.0.1", "no such setting"),
        ("Addr ess = 10.0.0.1", "no such setting"),
        ("PublicKey = x", "it belongs in the other kind of section"),
        ("Address = 10.0.0.1/33", "Address: no list of addresses with prefix lengths"),
        ("Address = fd00::1/129", "Address: no list of addresses with prefix lengths"),
        ("Address = 10.0.0.1/", "Address: no list of addresses with prefix lengths"),
        ("Address = fe80::1%lo/64", "Address: no list of addresses with prefix lengths"),
        ("ListenPort = 65536", "ListenPort: no number from 0 to 65535"),
        ("ListenPort = ntp", "ListenPort: no number from 0 to 65535"),
        ("ListenPort = \N{ARABIC-INDIC DIGIT ONE}", "ListenPort: no number from 0 to 65535"),
        ("FwMark = 0x100000000", "FwMark: neither off nor a number of 32 bits"),
        ("FwMark = 0X1", "FwMark: neither off nor a number of 32 bits"),
        ("FwMark = 0x", "FwMark: neither off nor a number of 32 bits"),
        ("FwMark = 0x-1", "FwMark: neither off nor a number of 32 bits"),
        ("FwMark = 0x1_0", "FwMark: neither off nor a number of 32 bits"),
        ("SaveConfig = yes", "SaveConfig: neither true nor false"),
        ("SaveConfig =", "SaveConfig: neither true nor false"),
        ("MTU = large", "MTU: no number of bytes"),
        ("Table = a table", "Table: neither off nor auto nor a table"),
        ("DNS = 10.0.0", "DNS: no list of addresses of servers and of search domains"),
        ("DNS = fe80::1%eth0", "DNS: no list of addresses of servers and of search domains"),
        ("DNS = corp.example;", "DNS: no list of addresses of servers and of search domains"),
    ],
)
def test_what_is_wrong_is_told_by_its_line(line: str, text: str) -> None:
    (problem,) = problems_of(f"[Interface]\n{line}\n")
    assert problem.line == 2
    assert problem.text.startswith(text)


@pytest.mark.parametrize(
    "line",
    [
        "Endpoint = 192.0.2.1",
        "Endpoint = :1",
        "Endpoint = []:1",
        "Endpoint = [::1]1",
        "Endpoint = [::1]:",
        "Endpoint = b\N{LATIN SMALL LETTER U WITH DIAERESIS}ro.example:1",
        "Endpoint = vpn.example:65536",
        f"Endpoint = {'a' * 256}:1",
        "PersistentKeepalive = x",
        "PersistentKeepalive = 65536",
        "PersistentKeepalive = -1",
        "AllowedIPs = a",
        "AllowedIPs =",
        "AllowedIPs = 10.0.0.0/8,",
        "AllowedIPs = 10.0.0.0/+8",
        "AllowedIPs = ++10.0.0.0/8",
        "AllowedIPs = 10.0.0.0/8 10.1.0.0/16",
    ],
)
def test_so_it_is_in_a_peer(line: str) -> None:
    (problem,) = problems_of(f"[Peer]\n{line}\n")
    assert problem.text.startswith(f"{line.split()[0]}: ")


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("192.0.2.1:51820", Host("192.0.2.1", 51820)),
        ("2001:db8::1:51820", Host("2001:db8::1", 51820)),
        ("[fe80::1%eth0]:51820", Host("fe80::1%eth0", 51820)),
        ("[vpn.example]:051820", Host("vpn.example", 51820)),
        ("vpn.example : 0", Host("vpn.example", 0)),
    ],
)
def test_endpoints_are_addresses_and_names(text: str, host: Host) -> None:
    assert value_of("Peer", f"Endpoint = {text}") == host


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"PostUp = echo \xff", "not UTF-8"),
        (b"# \xe9", "not UTF-8"),
        (b"MTU = 14\x0000", "a NUL"),
        (b"#" * (LINE_MAX + 1), "longer than 1 MiB"),
        ("\N{NO-BREAK SPACE}MTU = 1400".encode(), "no such setting"),
    ],
)
def test_what_is_no_text_is_refused(line: bytes, text: str) -> None:
    assert parse_untrusted(b"[Interface]\n" + line).problems == [Problem(2, text)]


def test_utf_16_is_refused() -> None:
    assert parse_untrusted(FILE.encode("utf-16")).problems[0].line == 1


def test_a_file_without_end_is_refused() -> None:
    assert parse_untrusted(bytes(FILE_MAX + 1)).problems == [Problem(0, "longer than 8 MiB")]


def test_problems_without_end_are_not_kept() -> None:
    assert len(problems_of("x\n" * (PROBLEMS_MAX + 7))) == PROBLEMS_MAX


def test_a_line_before_any_section_is_wrong() -> None:
    assert problems_of("MTU = 1400\n") == [Problem(1, "a line in no section")]


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode), st.sampled_from(["", FILE]))
def test_any_bytes_are_a_file_with_problems_at_most(data: bytes, before: str) -> None:
    whole = before.encode() + data
    problems = parse_untrusted(whole).problems
    assert all(0 < problem.line <= whole.count(b"\n") + 1 for problem in problems)


@given(st.sampled_from(FILE.splitlines()), st.integers(0, 60))
def test_no_problem_tells_a_value(line: str, cut: int) -> None:
    marker = "hunter2"
    spoilt = f"[Interface]\n{line[:cut]}{marker}\n[Peer]\n{line[:cut]} = {marker}\n"
    assert not any(marker in problem.text for problem in problems_of(spoilt))


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
