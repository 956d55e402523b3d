# SPDX-License-Identifier: MIT
"""What a configuration file can ask of wg-quick beside a tunnel, and wg-quick's other commands."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from netns.lab import Namespace, Side, eventually, ping, run

pytestmark = pytest.mark.skipif(
    Path("/sys/module/wireguard").exists(),
    reason="this kernel has WireGuard: wg-quick does not ask for wgpy",
)

# Stands in for resolvconf: notes how it was called and keeps what it was given.
RESOLVCONF = """#!/bin/sh
cd "$(dirname "$0")"
echo "$*" >>calls
case $1 in
-a) cat >"$2" ;;
-d) rm "$2" ;;
-l) cat "$2" ;;
esac
"""


def write_config(side: Side, peer: Side, *options: str, allowed: str = "") -> None:
    side.write_config(peer, allowed=allowed)
    settings = side.config.read_text()
    lines = "".join(f"{option}\n" for option in options)
    side.config.write_text(settings.replace("[Interface]\n", f"[Interface]\n{lines}", 1))


def assert_down(side: Side) -> None:
    eventually(lambda: not side.host.pids(), "the end of the daemon")
    assert not side.socket.exists()
    assert not side.host.has_interface(side.interface)


def routes(side: Side, table: str) -> list[str]:
    """Destinations, but for that of the link-local address which the kernel may give it."""
    return [
        route.split()[0]
        for family in ("-4", "-6")
        for route in side.host.run("ip", family, "route", "show", "table", table).splitlines()
        if side.interface in route and not route.startswith("fe80:")
    ]


# ---- routes ----


def test_routes_follow_the_allowed_ips(sides: tuple[Side, Side]) -> None:
    left, right = sides
    write_config(left, right, allowed="10.77.0.2/32, 10.9.0.0/16, fd09::/32")
    left.quick("up")
    assert sorted(set(routes(left, "main"))) == ["10.77.0.2", "10.9.0.0/16", "fd09::/32", "fd77::1"]


def test_table_off_adds_no_routes(sides: tuple[Side, Side]) -> None:
    left, right = sides
    write_config(left, right, "Table = off", allowed="10.9.0.0/16, 0.0.0.0/0, fd09::/32")
    left.quick("up")
    assert routes(left, "main") == ["fd77::1"]
    assert left.show("fwmark") == "off"


def test_another_table_takes_the_routes(sides: tuple[Side, Side]) -> None:
    left, right = sides
    write_config(left, right, "Table = 1234", allowed="10.9.0.0/16, 0.0.0.0/0, fd09::/32")
    left.quick("up")
    assert routes(left, "main") == ["fd77::1"]
    assert sorted(routes(left, "1234")) == ["10.9.0.0/16", "default", "fd09::/32"]


@pytest.mark.parametrize("outside", [4, 6])
def test_a_full_tunnel_has_its_mark_its_rules_and_its_firewall(
    sides: tuple[Side, Side], outside: int
) -> None:
    left, right = sides
    left.write_config(right, outside=outside, allowed="0.0.0.0/0, ::/0")
    right.write_config(left, outside=outside)
    for address in ("198.51.100.1/32", "2001:db8:1::1/128"):
        right.host.run("ip", "address", "add", address, "dev", "lo")
    right.quick("up")
    left.quick("up")
    assert left.show("fwmark") == "0xca6c"
    for family in ("-4", "-6"):
        rules = left.host.run("ip", family, "rule", "show")
        assert "not from all fwmark 0xca6c lookup 51820" in rules
        assert "from all lookup main suppress_prefixlength 0" in rules
    assert routes(left, "51820") == ["default", "default"]
    tables = left.host.run("nft", "list", "tables").splitlines()
    assert sorted(tables) == [f"table {pf} wg-quick-{left.interface}" for pf in ("ip", "ip6")]
    ping(left.host, "198.51.100.1")
    ping(left.host, "2001:db8:1::1")
    left.quick("down")
    assert "51820" not in left.host.run("ip", "rule", "show")
    assert left.host.run("nft", "list", "tables") == ""


# ---- link and names ----


@pytest.mark.parametrize(("options", "mtu"), [([], 1420), (["MTU = 1337"], 1337)])
def test_the_mtu_is_that_of_the_file_or_fits_the_cable(
    sides: tuple[Side, Side], options: list[str], mtu: int
) -> None:
    left, right = sides
    write_config(left, right, *options)
    write_config(right, left, *options)
    left.quick("up")
    right.quick("up")
    assert f" mtu {mtu} " in left.host.run("ip", "link", "show", left.interface)
    ping(left.host, right.inner4, size=mtu - 28)


def test_dns_servers_are_handed_over_and_taken_back(
    sides: tuple[Side, Side], tmp_path: Path
) -> None:
    left, right = sides
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "resolvconf").write_text(RESOLVCONF)
    (tools / "resolvconf").chmod(0o755)
    wg_quick = shutil.which("wg-quick")
    assert wg_quick is not None
    quick = str(shutil.copy(wg_quick, tools))  # it looks for other tools beside itself first
    write_config(left, right, "DNS = 192.0.2.53, 2001:db8::53, example.net")
    left.host.run(quick, "up", str(left.config))
    assert (tools / left.interface).read_text().splitlines() == [
        "nameserver 192.0.2.53",
        "nameserver 2001:db8::53",
        "search example.net",
    ]
    left.host.run(quick, "save", str(left.config))
    assert "DNS = 192.0.2.53\nDNS = 2001:db8::53\n" in left.config.read_text()
    left.host.run(quick, "down", str(left.config))
    assert not (tools / left.interface).exists()
    calls = (tools / "calls").read_text().splitlines()
    assert calls[0] == f"-a {left.interface} -m 0 -x"
    assert calls[-1] == f"-d {left.interface} -f"


# ---- hooks ----


def test_hooks_find_the_interface_as_they_should(sides: tuple[Side, Side], tmp_path: Path) -> None:
    left, right = sides
    log = tmp_path / "log"
    look = f"(wg show %i listen-port || echo none) 2>/dev/null >>{log}"
    hooks = [f"{hook} = echo {hook} >>{log}" for hook in ("PreUp", "PostUp", "PreDown", "PostDown")]
    looks = [hook.partition("=")[0] + f"= {look}" for hook in hooks]
    change = "PostUp = wg set %i listen-port 51999"
    write_config(left, right, *hooks, change, *looks)
    left.quick("up")
    left.quick("down")
    said = log.read_text().split()
    if said[1] == "0":  # newer versions of wg-quick make the interface before
        said[1] = "none"
    assert said == [
        *("PreUp", "none"),
        *("PostUp", "51999"),
        *("PreDown", "51999"),
        *("PostDown", "none"),
    ]


def failed_up(side: Side) -> str:
    return side.host.refusal("wg-quick", "up", str(side.config))


def test_a_hook_that_fails_undoes_it_all(sides: tuple[Side, Side]) -> None:
    left, right = sides
    write_config(left, right, "PostUp = false")
    assert "ip link delete" in failed_up(left)
    assert_down(left)


def test_a_file_that_wg_refuses_undoes_it_all(sides: tuple[Side, Side]) -> None:
    left, right = sides
    write_config(left, replace(right, public_key="short"))
    assert "not the correct length" in failed_up(left)
    assert_down(left)


# ---- save, strip, reload ----


def test_saveconfig_keeps_what_was_set_meanwhile(sides: tuple[Side, Side]) -> None:
    left, right = sides
    write_config(left, right, "SaveConfig = true", "MTU = 1337")
    left.quick("up")
    other = run(["wg", "genpsk"]).strip()
    left.set("fwmark", "7", "peer", other, "persistent-keepalive", "9", "allowed-ips", "10.9.0.1")
    left.host.run("ip", "address", "add", "10.77.9.1/24", "dev", left.interface)
    before = left.show("dump")
    left.quick("down")
    left.quick("up")
    assert left.show("dump") == before
    addresses = left.host.run("ip", "-br", "address", "show", left.interface)
    assert "10.77.9.1/24" in addresses
    assert f"{left.inner6}/128" in addresses
    assert left.config.stat().st_mode & 0o777 == 0o600


def test_save_writes_the_present_state(sides: tuple[Side, Side]) -> None:
    left, right = sides
    write_config(left, right, "PostUp = true # a comment")
    left.quick("up")
    left.set("peer", right.public_key, "persistent-keepalive", "9")
    left.quick("save")
    saved = left.config.read_text()
    assert "PersistentKeepalive = 9\n" in saved
    assert "PostUp = true" in saved
    assert f"Address = {left.inner4}/32\n" in saved
    left.quick("down")
    left.quick("up")
    assert left.show("persistent-keepalive") == f"{right.public_key}\t9"


def test_a_file_is_reloaded_without_a_break(sides: tuple[Side, Side]) -> None:
    left, right = sides
    for side, peer in (sides, sides[::-1]):
        write_config(side, peer, "Table = off", "MTU = 1337")
        side.quick("up")
        side.host.run("ip", "route", "add", f"{peer.inner4}/32", "dev", side.interface)
    ping(left.host, right.inner4)
    before = left.show("dump").splitlines()
    other = run(["wg", "genpsk"]).strip()
    with left.config.open("a") as file:
        file.write(f"[Peer]\nPublicKey = {other}\nAllowedIPs = 10.9.0.0/16\n")
    reload = f"wg syncconf {left.interface} <(wg-quick strip {left.config})"
    left.host.run("bash", "-c", reload)
    after = left.show("dump").splitlines()
    assert after[:2] == before
    assert after[2].startswith(f"{other}\t(none)\t(none)\t10.9.0.0/16\t")
    ping(left.host, right.inner4)


# ---- many times, many interfaces ----


def another(side: Side, number: int, port: int) -> Side:
    """A second interface on the same host."""
    return replace(
        side.with_new_keys(),
        interface=f"{side.interface}b",
        inner4=f"10.78.0.{number}",
        inner6=f"fd78::{number}",
        port=port,
    )


def in_parallel(host: Namespace, *commands: list[str]) -> None:
    processes = [host.popen(*command) for command in commands]
    for process in processes:
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 0, errors


def test_interfaces_go_up_and_down_at_the_same_time(sides: tuple[Side, Side]) -> None:
    left, right = sides
    more = another(left, 1, 51821), another(right, 2, 51821)
    for one, other in (sides, more):
        one.write_config(other)
        other.write_config(one)
    for both in zip(sides, more, strict=True):
        in_parallel(both[0].host, *(["wg-quick", "up", str(side.config)] for side in both))
    for one, other in (sides, more):
        ping(one.host, other.inner4)
        ping(other.host, one.inner6)
    left.quick("down")
    ping(more[0].host, more[1].inner4)
    left.quick("up")
    ping(left.host, right.inner4)
    for both in zip(sides, more, strict=True):
        in_parallel(both[0].host, *(["wg-quick", "down", str(side.config)] for side in both))
        for side in both:
            assert_down(side)


def test_up_follows_down_at_once_20_times_and_it_works(sides: tuple[Side, Side]) -> None:
    left, right = sides
    left.write_config(right)
    right.write_config(left)
    right.quick("up")
    left.quick("up")
    for _ in range(20):
        left.quick("down")
        left.quick("up")
        ping(left.host, right.inner4, count=1)
