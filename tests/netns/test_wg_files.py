# SPDX-License-Identifier: MIT
"""Files of wg-quick: what wg and wg-quick make of them, wgpy's own reader does as well."""

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from netns.lab import Side, key_pair, namespaces, plan_side

from wgpy.errors import ConfigFileError
from wgpy.settings import Config

PRIVATE_KEY = key_pair()[0]
PUBLIC_KEYS = [key_pair()[1] for _ in range(3)]
PSK = key_pair()[0]

Kinds = dict[str, tuple[list[str], list[str]]]

# Of each setting what is right, however oddly it is written, and what is wrong.
BY_WG: Kinds = {
    "ListenPort": (["0", "51820", "65535", "051820", "51 820"], ["", "x"]),
    "FwMark": (
        ["off", "OFF", "0", "0xca6c", "4294967295", "012"],
        ["0X1", "0x", "1x", "4294967296", ""],
    ),
}
OF_PEER: Kinds = {
    "PublicKey": (
        [*PUBLIC_KEYS, f"{PUBLIC_KEYS[0][:9]} {PUBLIC_KEYS[0][9:]}"],
        [PSK[:-2], PSK + "=", PSK[:-2] + "/="],
    ),
    "PresharedKey": ([PSK], [PSK[:-1], ""]),
    "AllowedIPs": (
        [
            "10.0.0.0/8",
            "10.0.0.1/8 , 10.0.0.1",
            "0.0.0.0/0, ::/0",
            "::1/0",
            "fd00::1/64,fd00::1",
            "FD00:0:0::1",
            "::ffff:10.0.0.1/104",
            "10.0.0.1/032",
        ],
        [
            "10.0.0.0/8,",
            "10.0.0/8",
            "010.0.0.0/8",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/8 11.0.0.0/8",
            "fe80::1%lo",
            "",
        ],
    ),
    "Endpoint": (
        ["192.0.2.1:51820", "[2001:db8::1]:51820", "2001:db8::2:051820", "[192.0.2.1]:0"],
        ["192.0.2.1", "192.0.2.1:", "[2001:db8::1]51820", "[2001:db8::1:51820", ""],
    ),
    "PersistentKeepalive": (["off", "Off", "0", "25", "65535", "065", "2 5"], ["65536", "-1", ""]),
}
BY_QUICK: Kinds = {
    "Address": (["10.9.0.1/24", "10.9.0.1,fd09::1/64", "10.9.0.1/32 10.9.0.2/32", ""], []),
    "DNS": (["10.9.0.53", "corp.example, fd09::53", ""], []),
    "MTU": (["1400", ""], []),
    "Table": (["off", "auto", "1234", ""], []),
    "SaveConfig": (["true", "False"], []),
    "PostUp": (["echo %i # and so on", "true = true"], []),
}


def odd(draw: random.Random, name: str) -> str:
    """A name as somebody else may write it."""
    return draw.choice([name, name.lower(), name.upper(), f"  {name}\t"])


def written(draw: random.Random, kinds: Kinds) -> str:
    """A line, one in twenty wrong."""
    name = draw.choice(list(kinds))
    right, wrong = kinds[name]
    value = draw.choice(wrong if wrong and not draw.randrange(20) else right)
    equals, end = draw.choice(["=", " = ", "\t=  "]), draw.choice(["", " ", "\r", " # a = b"])
    return f"{odd(draw, name)}{equals}{value}{end}"


def file_of(seed: int, of_interface: Kinds) -> str:
    """A file with a few sections; most are right."""
    draw = random.Random(seed)
    lines = ["[Interface]", f"PrivateKey = {PRIVATE_KEY}"]
    lines += [written(draw, of_interface) for _ in range(draw.randrange(3))]
    for _ in range(draw.randrange(6)):
        lines += ["", "# a comment", odd(draw, "[Peer]"), f"PublicKey={draw.choice(PUBLIC_KEYS)}"]
        lines += [written(draw, OF_PEER) for _ in range(draw.randrange(5))]
    if not draw.randrange(4):
        lines += ["[interface]", written(draw, of_interface)]
    return "\n".join(lines) + draw.choice(["", "\n"])


@pytest.fixture(scope="module")
def side(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Side]:
    """An interface that takes all that it is told; its link is down."""
    with namespaces() as make:
        made = plan_side(make(), 1, tmp_path_factory.mktemp("files"))
        made.host.run("wgpy", made.interface)
        yield made


def taken_by_wg(side: Side, text: str) -> Config | None:
    """What the interface is after it was told, None if wg refused it."""
    done = side.host.attempt("wg", "setconf", side.interface, "/dev/stdin", stdin=text)
    if done.returncode != 0:
        return None
    return Config.from_bytes(side.host.run("wg", "showconf", side.interface).encode(), "shown")


def taken_by_us(text: str) -> Config | None:
    """What is wg's of our reading of it, None if we refuse it."""
    try:
        config = Config.from_bytes(text.encode(), "file", ignore_commands=True)
    except ConfigFileError:
        return None
    return replace(config, addresses=(), dns=(), search_domains=(), mtu=None)


def in_order(config: Config | None) -> Config | None:
    """The same with the prefixes of each peer in an order of their own."""
    if config is None:
        return None
    peers = (
        replace(one, allowed_ips=tuple(sorted(one.allowed_ips, key=str))) for one in config.peers
    )
    return replace(config, peers=tuple(peers))


of_any_file = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@of_any_file
@given(seed=st.integers(0, 2**32))
def test_what_wg_takes_is_taken_alike_and_what_it_refuses_is_refused(side: Side, seed: int) -> None:
    text = file_of(seed, BY_WG)
    assert in_order(taken_by_us(text)) == in_order(taken_by_wg(side, text))


@settings(of_any_file, max_examples=40)
@given(seed=st.integers(0, 2**32))
def test_what_wg_quick_leaves_to_wg_is_taken_alike(side: Side, seed: int) -> None:
    text = file_of(seed, BY_WG | BY_QUICK)
    side.config.write_text(text)
    side.config.chmod(0o600)
    stripped = side.host.run("wg-quick", "strip", str(side.config))
    assert in_order(taken_by_us(text)) == in_order(taken_by_wg(side, stripped))
