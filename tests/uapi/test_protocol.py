"""The text of the configuration protocol: every key and rule, and whatever else may come in."""

import errno
import ipaddress
import socket
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wgpy.config import (
    ZERO_KEY,
    AllowedIP,
    DeviceChange,
    DeviceSnapshot,
    Endpoint,
    PeerChange,
    PeerSnapshot,
)
from wgpy.errors import ConfigError
from wgpy.uapi import protocol
from wgpy.uapi.protocol import (
    LINE_MAX,
    GetRequest,
    Request,
    RequestParser,
    SetRequest,
    format_errno,
    format_get,
)

KEY = bytes(range(32))
KEY_HEX = KEY.hex()
OTHER = bytes(range(32, 64))
OTHER_HEX = OTHER.hex()
PEER_LINE = f"public_key={KEY_HEX}"


def parse(*lines: str) -> DeviceChange:
    request = SetRequest()
    request.add_untrusted(lines)
    return request.finish()


def parse_peer(*lines: str) -> PeerChange:
    (peer,) = parse(PEER_LINE, *lines).peers
    return peer


def refusal(*lines: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse(*lines)
    return caught.value


def requests(*chunks: bytes) -> list[Request]:
    """What a connection that sends these chunks, and then ends, amounts to."""
    parser = RequestParser()
    found = [request for chunk in chunks for request in parser.feed_untrusted(chunk)]
    last = parser.end_untrusted()
    return found if last is None else [*found, last]


# ---- set: the device ----------------------------------------------------------------------------


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


# ---- set: peers ---------------------------------------------------------------------------------


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


# ---- set: errors --------------------------------------------------------------------------------


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


# ---- requests in a stream -----------------------------------------------------------------------


def test_a_set_request_as_wg_sends_it_is_understood() -> None:
    sent = (
        f"set=1\nprivate_key={OTHER_HEX}\nlisten_port=51820\nfwmark=51820\nreplace_peers=true\n"
        f"public_key={KEY_HEX}\npreshared_key={OTHER_HEX}\nendpoint=[2001:db8::1]:51820\n"
        "persistent_keepalive_interval=25\nreplace_allowed_ips=true\nallowed_ip=10.0.0.0/24\n"
        f"allowed_ip=::/0\npublic_key={OTHER_HEX}\nremove=true\n\n"
    ).encode()
    peer = PeerChange(
        public_key=KEY,
        preshared_key=OTHER,
        endpoint=Endpoint(ipaddress.ip_address("2001:db8::1").packed, 51820),
        persistent_keepalive_s=25,
        replace_allowed_ips=True,
        allowed_ips=(AllowedIP(bytes([10, 0, 0, 0]), 24), AllowedIP(bytes(16), 0)),
    )
    assert requests(sent) == [
        DeviceChange(
            private_key=OTHER,
            listen_port=51820,
            fwmark=51820,
            replace_peers=True,
            peers=(peer, PeerChange(public_key=OTHER, remove=True)),
        )
    ]


def test_a_get_request_is_understood() -> None:
    assert requests(b"get=1\n\n") == [GetRequest()]


def test_requests_may_follow_each_other_with_more_blank_lines_than_needed() -> None:
    sent = b"\nset=1\nfwmark=1\n\n\n\nget=1\n\nset=1\n\n\n"
    assert requests(sent) == [DeviceChange(fwmark=1), GetRequest(), DeviceChange()]


def test_an_empty_connection_asks_for_nothing() -> None:
    assert requests() == []


@given(st.lists(st.integers(0, 40), max_size=12))
def test_fragmentation_makes_no_difference(cuts: list[int]) -> None:
    sent = b"set=1\nfwmark=1\n\n\nget=1\n\nset=1\nbad\nfwmark=2\n\nset=1\nlisten_port=3\n\n"
    chunks = [sent[a:b] for a, b in zip([0, *sorted(cuts)], [*sorted(cuts), None], strict=True)]
    first, second, refused, last = requests(*chunks)
    assert (first, second, last) == (
        DeviceChange(fwmark=1),
        GetRequest(),
        DeviceChange(listen_port=3),
    )
    assert isinstance(refused, ConfigError)


def test_the_rest_of_a_refused_request_is_passed_over() -> None:
    refused, following = requests(b"set=1\nfwmark=x\nget=1\nset=1\nrubbish\n\nget=1\n\n")
    assert isinstance(refused, ConfigError)
    assert (refused.errno, refused.line) == (errno.EINVAL, "fwmark=x")
    assert following == GetRequest()


@pytest.mark.parametrize(
    ("operation", "code"),
    [(b"set=2", errno.EINVAL), (b"del=1", errno.EINVAL), (b"hello", errno.EPROTO)],
)
def test_an_unknown_operation_is_refused(operation: bytes, code: int) -> None:
    refused, following = requests(operation + b"\nfwmark=1\n\nget=1\n\n")
    assert isinstance(refused, ConfigError)
    assert refused.errno == code
    assert following == GetRequest()


def test_a_get_request_has_no_lines() -> None:
    (refused,) = requests(b"get=1\nfwmark=1\n\n")
    assert isinstance(refused, ConfigError)
    assert refused.errno == errno.EINVAL


@pytest.mark.parametrize(
    ("sent", "found"),
    [(b"set=1\nfwmark=1\n", DeviceChange(fwmark=1)), (b"get=1\n", GetRequest())],
)
def test_the_end_of_the_stream_ends_a_request_after_a_whole_line(
    sent: bytes, found: Request
) -> None:
    assert requests(sent) == [found]


@pytest.mark.parametrize("sent", [b"set=1\nlisten_port=518", b"get=1", b"set=1\nfwmark=x\nfw"])
def test_the_end_of_the_stream_within_a_line_refuses_the_request(sent: bytes) -> None:
    (refused,) = requests(sent)
    assert isinstance(refused, ConfigError)
    assert refused.errno == errno.EPROTO


def test_a_line_without_end_is_not_kept() -> None:
    parser = RequestParser()
    for _ in range(LINE_MAX):
        assert list(parser.feed_untrusted(b"x")) == []
    with pytest.raises(ConfigError, match="line too long") as caught:
        list(parser.feed_untrusted(b"x"))
    assert caught.value.errno == errno.EMSGSIZE


@pytest.mark.parametrize("start", [b"set=1\nfwmark=1\n", b"set=1\nrubbish\n", b"rubbish\n"])
def test_a_request_without_end_is_not_kept(start: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "REQUEST_MAX", 10_000)
    parser = RequestParser()
    assert list(parser.feed_untrusted(start)) == []
    for _ in range(990):
        assert list(parser.feed_untrusted(b"fwmark=12\n")) == []
    with pytest.raises(ConfigError, match="request too long") as caught:
        list(parser.feed_untrusted(b"fwmark=12\n" * 10))
    assert caught.value.errno == errno.EMSGSIZE


def test_the_bound_of_a_request_is_not_one_of_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "REQUEST_MAX", 100)
    assert requests(*[b"set=1\nfwmark=1\n\nget=1\n\n"] * 50)[-1] == GetRequest()


LINES = st.sampled_from(
    [
        "set=1",
        "get=1",
        "",
        PEER_LINE,
        f"private_key={KEY_HEX}",
        "listen_port=1",
        "allowed_ip=10.0.0.0/8",
        "endpoint=[fe80::1%lo]:1",
        "remove=true",
        "protocol_version=1",
    ]
) | st.builds(
    "{}={}".format,
    st.sampled_from(
        [
            "private_key",
            "public_key",
            "preshared_key",
            "listen_port",
            "fwmark",
            "replace_peers",
            "remove",
            "endpoint",
            "allowed_ip",
            "persistent_keepalive_interval",
        ]
    ),
    st.text(max_size=80) | st.text("0123456789abcdef.:/%[]-", max_size=66),
)


@settings(max_examples=500)
@given(st.lists(LINES, max_size=12))
@example(["public_key=" + "\ud800" * 64])
def test_no_lines_raise_anything_but_a_config_error(lines: list[str]) -> None:
    try:
        outcome: Request = parse(*lines)
    except ConfigError as error:
        outcome = error
    assert isinstance(outcome, DeviceChange | ConfigError)


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=60) | LINES.map(lambda line: f"{line}\n".encode()), max_size=20))
def test_no_bytes_raise_anything_but_a_config_error(chunks: list[bytes]) -> None:
    for request in requests(b"set=1\n", *chunks):
        assert isinstance(request, GetRequest | DeviceChange | ConfigError)


# ---- get ----------------------------------------------------------------------------------------

SNAPSHOT = DeviceSnapshot(
    private_key=OTHER,
    listen_port=51820,
    fwmark=51821,
    peers=(
        PeerSnapshot(
            public_key=KEY,
            preshared_key=ZERO_KEY,
            endpoint=Endpoint(b"\xfe\x80" + bytes(13) + b"\x01", 7, scope_id=2),
            last_handshake_ns=1_700_000_000_000_000_009,
            tx_bytes=2**64 - 1,
            rx_bytes=3,
            persistent_keepalive_s=25,
            allowed_ips=(AllowedIP(bytes([10, 0, 0, 0]), 8), AllowedIP(bytes(16), 0)),
        ),
        PeerSnapshot(
            public_key=OTHER,
            preshared_key=KEY,
            endpoint=None,
            last_handshake_ns=0,
            tx_bytes=0,
            rx_bytes=0,
            persistent_keepalive_s=0,
            allowed_ips=(),
        ),
    ),
)


def get(snapshot: DeviceSnapshot) -> str:
    return b"".join(format_get(snapshot)).decode("ascii")


def test_a_get_reply_has_every_line_in_its_order() -> None:
    assert get(SNAPSHOT) == (
        f"private_key={OTHER_HEX}\n"
        "listen_port=51820\n"
        "fwmark=51821\n"
        f"public_key={KEY_HEX}\n"
        f"preshared_key={'0' * 64}\n"
        "protocol_version=1\n"
        "endpoint=[fe80::1%2]:7\n"
        "last_handshake_time_sec=1700000000\n"
        "last_handshake_time_nsec=9\n"
        "tx_bytes=18446744073709551615\n"
        "rx_bytes=3\n"
        "persistent_keepalive_interval=25\n"
        "allowed_ip=10.0.0.0/8\n"
        "allowed_ip=::/0\n"
        f"public_key={OTHER_HEX}\n"
        f"preshared_key={KEY_HEX}\n"
        "protocol_version=1\n"
        "last_handshake_time_sec=0\n"
        "last_handshake_time_nsec=0\n"
        "tx_bytes=0\n"
        "rx_bytes=0\n"
        "persistent_keepalive_interval=0\n"
    )


def test_a_get_reply_omits_a_missing_private_key_and_fwmark() -> None:
    bare = DeviceSnapshot(private_key=ZERO_KEY, listen_port=0, fwmark=0, peers=())
    assert get(bare) == "listen_port=0\n"


def test_a_big_get_reply_comes_in_small_chunks() -> None:
    many = tuple(AllowedIP(bytes([10, 0, n >> 8, n & 255]), 32) for n in range(50_000))
    chunks = list(
        format_get(replace(SNAPSHOT, peers=(replace(SNAPSHOT.peers[0], allowed_ips=many),)))
    )
    assert max(map(len, chunks)) < 1 << 18
    assert b"".join(chunks).count(b"\n") == 3 + 9 + len(many)


@pytest.mark.parametrize(("code", "line"), [(0, b"errno=0\n\n"), (errno.EINVAL, b"errno=-22\n\n")])
def test_the_end_of_a_reply_has_the_errno_negated(code: int, line: bytes) -> None:
    assert format_errno(code) == line


keys = st.binary(min_size=32, max_size=32)
addresses = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)
u16 = st.integers(0, 0xFFFF)
u64 = st.integers(0, 2**64 - 1)


@st.composite
def endpoints(draw: st.DrawFn) -> Endpoint:
    address = draw(addresses)
    scope_id = draw(st.integers(0, 0xFFFFFFFF)) if len(address) == 16 else 0
    return Endpoint(address, draw(u16), scope_id)


snapshots = st.builds(
    DeviceSnapshot,
    private_key=keys | st.just(ZERO_KEY),
    listen_port=u16,
    fwmark=st.integers(0, 0xFFFFFFFF),
    peers=st.lists(
        st.builds(
            PeerSnapshot,
            public_key=keys,
            preshared_key=keys,
            endpoint=st.none() | endpoints(),
            last_handshake_ns=st.integers(0, 2**63 - 1),
            tx_bytes=u64,
            rx_bytes=u64,
            persistent_keepalive_s=u16,
            allowed_ips=st.lists(
                addresses.flatmap(
                    lambda address: st.builds(
                        AllowedIP,
                        st.just(address),
                        st.integers(0, 8 * len(address)),
                        st.just(False),
                    )
                ),
                max_size=4,
            ).map(tuple),
        ),
        max_size=4,
    ).map(tuple),
)


def read_endpoint(text: str) -> Endpoint:
    """The way of a resolver, as wg goes."""
    host, port = text.rsplit(":", 1)
    numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    ((family, _, _, _, address),) = socket.getaddrinfo(
        host.strip("[]"), port, type=socket.SOCK_DGRAM, flags=numeric
    )
    scope_id = address[3] if len(address) == 4 else 0
    packed = socket.inet_pton(family, str(address[0]).partition("%")[0])
    return Endpoint(packed, int(address[1]), scope_id)


def read_get(text: str) -> DeviceSnapshot:
    """A reader of replies that shares nothing with the code under test."""
    head, *sections = text.split("public_key=")
    device = dict(line.split("=") for line in head.splitlines())
    peers = []
    for section in sections:
        public_key, *lines = section.splitlines()
        pairs = [(name, value) for name, _, value in (line.partition("=") for line in lines)]
        only = dict(pairs)
        prefixes = [ipaddress.ip_interface(v) for name, v in pairs if name == "allowed_ip"]
        assert only["protocol_version"] == "1"
        peers.append(
            PeerSnapshot(
                public_key=bytes.fromhex(public_key),
                preshared_key=bytes.fromhex(only["preshared_key"]),
                endpoint=read_endpoint(only["endpoint"]) if "endpoint" in only else None,
                last_handshake_ns=int(only["last_handshake_time_sec"]) * 10**9
                + int(only["last_handshake_time_nsec"]),
                tx_bytes=int(only["tx_bytes"]),
                rx_bytes=int(only["rx_bytes"]),
                persistent_keepalive_s=int(only["persistent_keepalive_interval"]),
                allowed_ips=tuple(AllowedIP(p.packed, p.network.prefixlen) for p in prefixes),
            )
        )
    return DeviceSnapshot(
        private_key=bytes.fromhex(device.get("private_key", "00" * 32)),
        listen_port=int(device["listen_port"]),
        fwmark=int(device.get("fwmark", "0")),
        peers=tuple(peers),
    )


@given(snapshots)
def test_a_get_reply_tells_the_whole_snapshot(snapshot: DeviceSnapshot) -> None:
    assert read_get(get(snapshot)) == snapshot


@given(st.lists(addresses.map(lambda address: Endpoint(address, 1)), min_size=1))
def test_an_endpoint_from_a_reply_can_be_set_again(endpoints: list[Endpoint]) -> None:
    peers = tuple(replace(SNAPSHOT.peers[1], endpoint=endpoint) for endpoint in endpoints)
    lines = get(replace(SNAPSHOT, peers=peers)).splitlines()
    settable = [line for line in lines if line.startswith(("public_key", "endpoint"))]
    for endpoint, change in zip(endpoints, parse(*settable).peers, strict=True):
        assert change.endpoint is not None
        assert change.endpoint.port == endpoint.port
        mapped = endpoint.address.startswith(bytes(10) + b"\xff\xff")
        assert change.endpoint.address == (endpoint.address[12:] if mapped else endpoint.address)
