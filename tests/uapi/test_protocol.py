# SPDX-License-Identifier: MIT
"""The text of set requests: every key and rule, and what is refused."""

import errno

import pytest
from uapi.requests import KEY, KEY_HEX, OTHER, OTHER_HEX, PEER_LINE, parse, parse_peer, refusal

from wgpy.config import ZERO_KEY, AllowedIP, DeviceChange, Endpoint, PeerChange

# ---- set: the device ----


def test_no_lines_change_nothing() -> None:
    assert parse() == DeviceChange()


def test_device_lines_become_their_fields() -> None:
    change = parse(
        f"private_key={KEY_HEX}", "listen_port=51820", "fwmark=51820", "replace_peers=true"
    )
    assert change == DeviceChange(
        private_key=KEY, listen_port=51820, fwmark=51820, replace_peers=True
    )


def test_zeros_are_values_and_not_absence() -> None:
    change = parse(f"private_key={'0' * 64}", "listen_port=0", "fwmark=0")
    assert change == DeviceChange(private_key=ZERO_KEY, listen_port=0, fwmark=0)


def test_the_later_of_two_equal_lines_wins() -> None:
    assert parse("listen_port=1", "listen_port=2").listen_port == 2


@pytest.mark.parametrize(
    ("line", "largest"),
    [
        ("listen_port", 0xFFFF),
        ("fwmark", 0xFFFFFFFF),
        ("persistent_keepalive_interval", 0xFFFF),
    ],
)
def test_numbers_reach_their_range_and_no_further(line: str, largest: int) -> None:
    section = [PEER_LINE] if line.startswith("persistent") else []
    parse(*section, f"{line}={largest}")
    assert refusal(*section, f"{line}={largest + 1}").errno == errno.EINVAL


@pytest.mark.parametrize(
    "value", ["", "-1", "+1", " 1", "1 ", "0x10", "1_0", "1.0", "\xb2", "\u0665", "1\0", "9" * 5000]
)
def test_a_number_is_decimal_digits_only(value: str) -> None:
    assert refusal(f"fwmark={value}").errno == errno.EINVAL


def test_leading_zeros_of_a_number_mean_nothing() -> None:
    assert parse("listen_port=0051820").listen_port == 51820


@pytest.mark.parametrize("value", ["false", "True", "1", "", "true "])
@pytest.mark.parametrize(
    "section", [("replace_peers",), (PEER_LINE, "remove"), (PEER_LINE, "update_only")]
)
def test_a_boolean_is_exactly_true(section: tuple[str, ...], value: str) -> None:
    *before, name = section
    parse(*before, f"{name}=true")
    assert refusal(*before, f"{name}={value}").errno == errno.EINVAL


def test_hex_keys_may_have_either_case() -> None:
    assert parse(f"private_key={OTHER_HEX.upper()}").private_key == OTHER


@pytest.mark.parametrize(
    "value",
    [
        "",
        KEY_HEX[:-1],
        KEY_HEX[:-2],
        KEY_HEX + "00",
        KEY_HEX[:-1] + "g",
        KEY_HEX[:-2] + "  ",
        " " + KEY_HEX[:-1],
        KEY_HEX[:-1] + "\xb2",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    ],
)
@pytest.mark.parametrize("name", ["private_key", "public_key", "preshared_key"])
def test_a_key_is_exactly_64_hex_characters(name: str, value: str) -> None:
    section = [PEER_LINE] if name == "preshared_key" else []
    assert refusal(*section, f"{name}={value}").errno == errno.EINVAL


# ---- set: peers ----


def test_peer_lines_become_their_fields() -> None:
    peer = parse_peer(
        "update_only=true",
        f"preshared_key={OTHER_HEX}",
        "endpoint=192.0.2.1:51820",
        "persistent_keepalive_interval=25",
        "replace_allowed_ips=true",
        "allowed_ip=10.0.0.0/8",
        "allowed_ip=fd00::/64",
        "protocol_version=1",
    )
    assert peer == PeerChange(
        public_key=KEY,
        update_only=True,
        preshared_key=OTHER,
        endpoint=Endpoint(bytes([192, 0, 2, 1]), 51820),
        persistent_keepalive_s=25,
        replace_allowed_ips=True,
        allowed_ips=(
            AllowedIP(bytes([10, 0, 0, 0]), 8),
            AllowedIP(bytes.fromhex("fd00" + "00" * 14), 64),
        ),
    )


def test_a_peer_without_lines_changes_nothing_of_it() -> None:
    assert parse_peer() == PeerChange(public_key=KEY)


def test_a_peer_can_be_removed() -> None:
    assert parse_peer("remove=true") == PeerChange(public_key=KEY, remove=True)


def test_peers_keep_their_order_and_a_repeated_key_its_sections() -> None:
    other = f"public_key={OTHER_HEX}"
    change = parse(PEER_LINE, "allowed_ip=10.0.0.1", other, PEER_LINE, "allowed_ip=10.0.0.2")
    assert [peer.public_key for peer in change.peers] == [KEY, OTHER, KEY]
    assert [len(peer.allowed_ips) for peer in change.peers] == [1, 0, 1]


def test_fields_of_one_section_do_not_reach_the_next() -> None:
    change = parse(PEER_LINE, "remove=true", "endpoint=1.2.3.4:5", f"public_key={OTHER_HEX}")
    assert change.peers[1] == PeerChange(public_key=OTHER)


def test_replace_allowed_ips_replaces_by_what_follows_it() -> None:
    peer = parse_peer("allowed_ip=10.0.0.1/32", "replace_allowed_ips=true", "allowed_ip=10.0.0.2")
    assert peer.replace_allowed_ips
    assert [allowed.address[3] for allowed in peer.allowed_ips] == [2]


@pytest.mark.parametrize(
    "line",
    [
        "remove=true",
        "update_only=true",
        f"preshared_key={KEY_HEX}",
        "endpoint=1.2.3.4:5",
        "persistent_keepalive_interval=1",
        "replace_allowed_ips=true",
        "allowed_ip=10.0.0.0/8",
        "protocol_version=1",
    ],
)
def test_a_peer_line_before_any_peer_is_refused(line: str) -> None:
    parse(PEER_LINE, line)
    assert refusal(line).errno == errno.EINVAL


@pytest.mark.parametrize(
    "line", [f"private_key={KEY_HEX}", "listen_port=1", "fwmark=1", "replace_peers=true"]
)
def test_a_device_line_in_a_peer_section_is_refused(line: str) -> None:
    parse(line)
    assert refusal(PEER_LINE, line).errno == errno.EINVAL


@pytest.mark.parametrize("version", ["0", "2", "01", ""])
def test_only_protocol_version_1_is_spoken(version: str) -> None:
    assert refusal(PEER_LINE, f"protocol_version={version}").errno == errno.EINVAL


@pytest.mark.parametrize(
    ("value", "endpoint"),
    [
        ("0.0.0.0:0", Endpoint(bytes(4), 0)),
        ("192.0.2.1:65535", Endpoint(bytes([192, 0, 2, 1]), 65535)),
        ("[::1]:7", Endpoint(bytes(15) + b"\x01", 7)),
        ("[fe80::1%7]:7", Endpoint(b"\xfe\x80" + bytes(13) + b"\x01", 7, scope_id=7)),
        ("[fe80::1%lo]:7", Endpoint(b"\xfe\x80" + bytes(13) + b"\x01", 7, scope_id=1)),
        ("[::ffff:192.0.2.1]:7", Endpoint(bytes([192, 0, 2, 1]), 7)),
    ],
)
def test_an_endpoint_is_a_numeric_address_and_port(value: str, endpoint: Endpoint) -> None:
    assert parse_peer(f"endpoint={value}").endpoint == endpoint


@pytest.mark.parametrize(
    "value",
    [
        "",
        ":",
        "192.0.2.1",
        "192.0.2.1:",
        "192.0.2.1:65536",
        "192.0.2.1:-1",
        "192.0.2.1:domain",
        "192.0.2:1",
        "192.0.2.01:1",
        "[192.0.2.1]:1",
        "192.0.2.1%lo:1",
        "localhost:1",
        "[localhost]:1",
        "::1:1",
        "2001:db8::1:51820",
        "[::1]",
        "[::1]1",
        "[::1:1",
        "[]:1",
        "[fe80::1%]:1",
        "[fe80::1%no-such-device]:1",
        "[fe80::1%\0]:1",
        "[fe80::1%4294967296]:1",
        "None:None",
        "192.0.2.1\0:1",
    ],
)
def test_any_other_endpoint_is_refused(value: str) -> None:
    error = refusal(PEER_LINE, f"endpoint={value}")
    assert (error.errno, error.line) == (errno.EINVAL, f"endpoint={value}")


@pytest.mark.parametrize(
    ("value", "allowed"),
    [
        ("0.0.0.0/0", AllowedIP(bytes(4), 0)),
        ("10.1.2.3/24", AllowedIP(bytes([10, 1, 2, 3]), 24)),
        ("10.1.2.3", AllowedIP(bytes([10, 1, 2, 3]), 32)),
        ("::/0", AllowedIP(bytes(16), 0)),
        ("::1", AllowedIP(bytes(15) + b"\x01", 128)),
        ("-10.1.2.3/32", AllowedIP(bytes([10, 1, 2, 3]), 32, True)),
        ("-::/0", AllowedIP(bytes(16), 0, True)),
    ],
)
def test_an_allowed_ip_is_a_prefix_to_add_or_remove(value: str, allowed: AllowedIP) -> None:
    assert parse_peer(f"allowed_ip={value}").allowed_ips == (allowed,)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "-",
        "/",
        "10.0.0.0/",
        "10.0.0.0/33",
        "10.0.0.0/-1",
        "10.0.0.0/08",
        "10.0.0.0/8/8",
        "10.0.0.0/255.0.0.0",
        "10.0.0/8",
        "--10.0.0.0/8",
        "+10.0.0.0/8",
        "::/129",
        "fe80::1%lo/128",
        "[::]/0",
        "10.0.0.0 /8",
        "10.0.0.0\0/8",
        "\xb2.0.0.0/8",
    ],
)
def test_any_other_allowed_ip_is_refused(value: str) -> None:
    error = refusal(PEER_LINE, f"allowed_ip={value}")
    assert (error.errno, error.line) == (errno.EINVAL, f"allowed_ip={value}")


# ---- set: errors ----


def test_a_line_without_an_equals_sign_is_a_protocol_error() -> None:
    error = refusal("listen_port")
    assert (error.errno, error.line) == (errno.EPROTO, "listen_port")


@pytest.mark.parametrize("line", ["jc=4", "=", "=1", " listen_port=1", "listen_port =1", "errno=0"])
def test_an_unknown_line_is_invalid(line: str) -> None:
    assert (refusal(line).errno, refusal(line).line) == (errno.EINVAL, line)
    assert refusal(PEER_LINE, line).errno == errno.EINVAL


@pytest.mark.parametrize(
    "line",
    [
        f"private_key={KEY_HEX}0",
        "private_key=short",
        f"public_key={KEY_HEX[1:]}",
        f"PrivateKey={KEY_HEX}",
        f"secret={KEY_HEX}",
        f"fwmark={KEY_HEX}",
        f"listen_port=1{KEY_HEX}",
        KEY_HEX,
        "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=",
    ],
)
def test_an_error_does_not_tell_a_line_that_may_hold_a_key(line: str) -> None:
    error = refusal(line)
    assert error.line is None
    assert KEY_HEX[1:] not in error.reason + str(error.args)


def test_a_preshared_key_in_base64_is_refused_and_not_told() -> None:
    error = refusal(PEER_LINE, "preshared_key=yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=")
    assert (error.errno, error.line) == (errno.EINVAL, None)
