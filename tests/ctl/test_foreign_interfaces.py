# SPDX-License-Identifier: MIT
"""Interfaces that are not wgpy's, by what `wg show NAME dump` tells of them."""

import contextlib
from base64 import b64encode
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from status_daemon import fake_wg

from wgpy.config import AllowedIP, Endpoint
from wgpy.ctl.dump import parse_dump_untrusted
from wgpy.ctl.interfaces import Interfaces
from wgpy.ctl.outcome import NoInterfaceError
from wgpy.errors import StatusError
from wgpy.status import DeviceStatus, PeerStatus

SECRET = b64encode(bytes([1] * 32)).decode()
OUR_KEY, PEER_KEY = bytes([2] * 32), bytes([3] * 32)
OURS, PEERS = b64encode(OUR_KEY).decode(), b64encode(PEER_KEY).decode()
HEAD = f"{SECRET}\t{OURS}\t51820\t0xca6c\n"
LINE = f"{PEERS}\t{SECRET}\t[2001:db8::1]:7\t10.0.0.0/8,::/0\t1000\t5\t6\t25\n"
NOW_S = 1010.5


def test_all_that_it_tells_is_in_the_status() -> None:
    assert parse_dump_untrusted("wg0", HEAD + LINE, NOW_S) == DeviceStatus(
        "wg0",
        public_key=OUR_KEY,
        listen_port=51820,
        fwmark=0xCA6C,
        peers=(
            PeerStatus(
                PEER_KEY,
                endpoint=Endpoint(bytes.fromhex("20010db8000000000000000000000001"), 7),
                allowed_ips=(AllowedIP(bytes([10, 0, 0, 0]), 8), AllowedIP(bytes(16), 0)),
                persistent_keepalive_s=25,
                last_handshake_age_s=10.5,
                rx_bytes=5,
                tx_bytes=6,
            ),
        ),
    )


def test_what_is_not_there_is_none() -> None:
    text = f"(none)\t(none)\t0\toff\n{PEERS}\t(none)\t(none)\t(none)\t0\t0\t0\toff\n"
    status = parse_dump_untrusted("wg0", text, NOW_S)
    assert status == DeviceStatus("wg0", peers=(PeerStatus(PEER_KEY),))


def test_a_zone_that_has_gone_leaves_the_address() -> None:
    text = HEAD + LINE.replace("[2001:db8::1]:7", "[fe80::1%gone]:7")
    (peer,) = parse_dump_untrusted("wg0", text, NOW_S).peers
    assert peer.endpoint == Endpoint(bytes.fromhex("fe800000000000000000000000000001"), 7)


@given(st.text() | st.lists(st.text(), min_size=4, max_size=9).map("\t".join))
def test_anything_else_is_refused_without_a_secret(text: str) -> None:
    for dump in (text, HEAD + text):
        with contextlib.suppress(StatusError):
            parse_dump_untrusted("wg0", dump, NOW_S)
    with pytest.raises(StatusError) as refused:
        parse_dump_untrusted("wg0", HEAD + LINE.replace("\t1000", "\tx"), NOW_S)
    assert SECRET not in str(refused.value)


def test_wg_is_asked_where_there_is_no_status_socket(tmp_path: Path) -> None:
    answers = [("interfaces", "wg0 wg1\n"), ("wg0 dump", HEAD + LINE)]
    interfaces = Interfaces(tmp_path, fake_wg(tmp_path, answers))
    assert interfaces.names() == ["wg0", "wg1"]
    assert interfaces.read("wg0").listen_port == 51820
    with pytest.raises(NoInterfaceError, match="no WireGuard interface wg1"):
        interfaces.read("wg1")


def test_what_is_forbidden_is_said_to_be(tmp_path: Path) -> None:
    wg = fake_wg(tmp_path, failure="Operation not permitted")
    interfaces = Interfaces(tmp_path, wg)
    with pytest.raises(StatusError, match=r"^wg0: Unable .*: Operation not permitted") as refused:
        interfaces.read("wg0")
    assert not isinstance(refused.value, NoInterfaceError)


def test_without_wg_there_are_still_our_own(tmp_path: Path) -> None:
    interfaces = Interfaces(tmp_path, str(tmp_path / "missing"))
    assert interfaces.names() == []
    with pytest.raises(NoInterfaceError):
        interfaces.read(f"x{tmp_path.name[-3:]}")
    with pytest.raises(StatusError, match="without wg"):
        interfaces.read("lo")
