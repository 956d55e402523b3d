# SPDX-License-Identifier: MIT
"""Every option of `wg set`, and the ways to apply a file: setconf, addconf and syncconf."""

import subprocess

import pytest
from netns.lab import Side, key_pair, ping, run, taken


@pytest.fixture
def left(tunnel: tuple[Side, Side]) -> Side:
    return tunnel[0]


@pytest.fixture
def other() -> str:
    """The public key of a peer that is not there."""
    return key_pair()[1]


def of_peer(side: Side, public_key: str, field: str) -> str:
    return dict(line.split("\t", 1) for line in side.show(field).splitlines())[public_key]


def refusal(side: Side, *command: str, stdin: str = "") -> str:
    """What wg says as it fails."""
    return side.host.refusal("wg", *command, stdin=stdin)


# ---- the interface ----


def test_a_listen_port_is_used_at_once(left: Side) -> None:
    left.set("listen-port", "51999")
    assert left.show("listen-port") == "51999"
    assert ":51999 " in left.host.run("ss", "-uln")


def test_listen_port_0_is_a_random_one_and_it_is_shown(left: Side) -> None:
    left.set("listen-port", "0")
    port = left.show("listen-port")
    assert port not in ("0", "51820")
    assert f":{port} " in left.host.run("ss", "-uln")


@pytest.mark.parametrize(
    ("given", "shown"),
    [("0x2a", "0x2a"), ("42", "0x2a"), ("0xffffffff", "0xffffffff"), ("off", "off"), ("0", "off")],
)
def test_a_fwmark_is_set_and_cleared(left: Side, given: str, shown: str) -> None:
    left.set("fwmark", "1")
    left.set("fwmark", given)
    assert left.show("fwmark") == shown


def test_the_public_key_is_that_of_the_private_key(left: Side) -> None:
    private_key = left.host.run("wg", "genkey")
    left.set("private-key", "/dev/stdin", stdin=private_key)
    assert left.show("private-key") == private_key.strip()
    assert left.show("public-key") == left.host.run("wg", "pubkey", stdin=private_key).strip()


def test_a_private_key_is_cleared_by_an_empty_file(left: Side) -> None:
    left.set("private-key", "/dev/null")
    assert left.show("private-key") == "(none)"
    assert left.show("public-key") == "(none)"
    assert len(left.show("peers").splitlines()) == 1


def test_a_port_in_use_is_reported_by_its_name(left: Side) -> None:
    with taken(left.host, 7):
        message = refusal(left, "set", left.interface, "listen-port", "7", "fwmark", "9")
    assert "Address already in use" in message
    assert (left.show("listen-port"), left.show("fwmark")) == ("51820", "off")


# ---- peers ----


def test_a_peer_is_added_with_nothing_and_removed(left: Side, other: str) -> None:
    before = left.show("dump")
    left.set("peer", other)
    added = f"{other}\t(none)\t(none)\t(none)\t0\t0\t0\toff"
    assert left.show("dump") == f"{before}\n{added}"
    left.set("peer", other, "remove")
    assert left.show("dump") == before
    left.set("peer", other, "remove")  # it is gone already
    assert left.show("dump") == before


def test_a_preshared_key_is_set_and_cleared(left: Side, other: str) -> None:
    psk = run(["wg", "genpsk"])
    left.set("peer", other, "preshared-key", "/dev/stdin", stdin=psk)
    assert of_peer(left, other, "preshared-keys") == psk.strip()
    left.set("peer", other, "preshared-key", "/dev/null")
    assert of_peer(left, other, "preshared-keys") == "(none)"


@pytest.mark.parametrize(
    "endpoint", ["192.0.2.9:1", "192.0.2.9:65535", "[2001:db8::9]:7", "[fe80::9%cable]:7"]
)
def test_an_endpoint_is_set(left: Side, other: str, endpoint: str) -> None:
    left.set("peer", other, "endpoint", endpoint)
    assert of_peer(left, other, "endpoints") == endpoint


def test_a_link_local_endpoint_is_reached(tunnel: tuple[Side, Side]) -> None:
    for side, address in zip(tunnel, ("fe80::1", "fe80::2"), strict=True):
        side.host.run("ip", "address", "replace", f"{address}/64", "dev", "cable", "nodad")
    left, right = tunnel
    left.set("peer", right.public_key, "endpoint", "[fe80::2%cable]:51820")
    ping(left.host, right.inner4)
    assert of_peer(right, left.public_key, "endpoints") == "[fe80::1%cable]:51820"


@pytest.mark.parametrize(
    ("given", "shown"), [("1", "1"), ("65535", "65535"), ("off", "off"), ("0", "off")]
)
def test_a_persistent_keepalive_is_set_and_switched_off(
    left: Side, other: str, given: str, shown: str
) -> None:
    left.set("peer", other, "persistent-keepalive", "25")
    assert of_peer(left, other, "persistent-keepalive") == "25"
    left.set("peer", other, "persistent-keepalive", given)
    assert of_peer(left, other, "persistent-keepalive") == shown


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("10.9.0.0/16,fd09::/32", "10.9.0.0/16 fd09::/32"),
        ("10.9.8.7/16", "10.9.0.0/16"),
        ("fd09:1:2::3/32", "fd09:1::/32"),
        ("10.9.8.7", "10.9.8.7/32"),
        ("fd09::7", "fd09::7/128"),
        ("0.0.0.0/0,::/0", "0.0.0.0/0 ::/0"),
        ("", "(none)"),
    ],
)
def test_allowed_ips_replace_those_before(left: Side, other: str, given: str, shown: str) -> None:
    left.set("peer", other, "allowed-ips", "10.1.0.0/16,fd01::/32")
    left.set("peer", other, "allowed-ips", given)
    assert of_peer(left, other, "allowed-ips") == shown


def test_an_allowed_ip_moves_to_the_peer_that_asked_last(
    tunnel: tuple[Side, Side], other: str
) -> None:
    left, right = tunnel
    left.set("peer", other, "allowed-ips", "10.77.0.2/32")
    assert of_peer(left, other, "allowed-ips") == "10.77.0.2/32"
    assert of_peer(left, right.public_key, "allowed-ips") == "fd77::2/128"


def test_allowed_ips_with_a_sign_are_added_and_removed(left: Side, other: str) -> None:
    usage = subprocess.run(["wg", "set"], capture_output=True, text=True, check=False).stderr
    if "[+|-]" not in usage:
        pytest.skip("wg is older than allowed-ips with + and -")
    left.set("peer", other, "allowed-ips", "10.1.0.0/16")
    left.set("peer", other, "allowed-ips", "+10.2.0.0/16,-10.1.0.0/16,-10.3.0.0/16")
    assert of_peer(left, other, "allowed-ips") == "10.2.0.0/16"


def test_many_peers_are_set_at_once(left: Side, other: str) -> None:
    another = run(["wg", "genpsk"]).strip()
    left.set("fwmark", "7", "peer", other, "allowed-ips", "10.9.0.0/16", "peer", another, "remove")
    left.set("peer", other, "persistent-keepalive", "9", "peer", another, "endpoint", "[::1]:1")
    assert left.show("fwmark") == "0x7"
    assert left.show("peers").splitlines()[1:] == [other, another]
    assert of_peer(left, other, "allowed-ips") == "10.9.0.0/16"
    assert of_peer(left, other, "persistent-keepalive") == "9"


def test_a_peer_with_our_own_key_is_skipped(left: Side) -> None:
    before = left.show("dump")
    left.set("peer", left.public_key, "allowed-ips", "10.9.0.0/16")
    assert left.show("dump") == before


# ---- files ----


def peer_section(public_key: str, allowed_ips: str) -> str:
    return f"[Peer]\nPublicKey = {public_key}\nAllowedIPs = {allowed_ips}\n"


def test_setconf_replaces_everything(left: Side, other: str) -> None:
    left.set("fwmark", "7")
    left.setconf(
        f"[Interface]\nPrivateKey = {left.private_key}\nListenPort = 51820\n"
        f"{peer_section(other, '10.9.0.0/16')}"
    )
    assert left.show("fwmark") == "off"
    assert left.show("allowed-ips") == f"{other}\t10.9.0.0/16"


def test_addconf_adds_and_keeps_the_rest(tunnel: tuple[Side, Side], other: str) -> None:
    left, right = tunnel
    ping(left.host, right.inner4)
    before = left.show("dump")
    addition = f"[Interface]\nFwMark = 7\n{peer_section(other, '10.9.0.0/16')}"
    left.host.run("wg", "addconf", left.interface, "/dev/stdin", stdin=addition)
    own, first, second = left.show("dump").splitlines()
    assert own == before.splitlines()[0].removesuffix("off") + "0x7"
    assert first == before.splitlines()[1]
    assert second == f"{other}\t(none)\t(none)\t10.9.0.0/16\t0\t0\t0\toff"


def test_syncconf_leaves_what_is_the_same_alone(tunnel: tuple[Side, Side], other: str) -> None:
    left, right = tunnel
    ping(left.host, right.inner4)
    left.set("peer", other, "allowed-ips", "10.9.0.0/16")
    before = left.show("dump").splitlines()
    another = run(["wg", "genpsk"]).strip()
    settings = left.settings(right) + peer_section(another, "10.8.0.0/16")
    left.host.run("wg", "syncconf", left.interface, "/dev/stdin", stdin=settings)
    after = left.show("dump").splitlines()
    assert after[:2] == before[:2]
    assert after[2:] == [f"{another}\t(none)\t(none)\t10.8.0.0/16\t0\t0\t0\toff"]


def test_a_file_that_wg_refuses_changes_nothing(left: Side) -> None:
    before = left.show("dump")
    bad = f"[Interface]\nListenPort = 7\n{peer_section('short', '10.9.0.0/16')}"
    assert "not the correct length" in refusal(
        left, "setconf", left.interface, "/dev/stdin", stdin=bad
    )
    assert left.show("dump") == before
