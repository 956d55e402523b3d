# SPDX-License-Identifier: MIT
"""What the command line may say, and what has to be permitted."""

import os
import re
import resource
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wgpy.ctl.cli import main
from wgpy.errors import StartError
from wgpy.proxy.limits import Limits
from wgpy.proxy.options import Forward, Options, parse_options
from wgpy.proxy.requests import Target, check_host, parse_target
from wgpy.proxy.run import fit_descriptors
from wgpy.settings import Config

CONFIG = Config(bytes([1]) * 32)
REFUSED: dict[str, dict[str, Any]] = {
    "nothing to do": {},
    "--socks5 takes": {"socks5": ["host:1"]},
    "--http takes": {"http": ["65536"]},
    "-L takes": {"local": ["80"]},
    "-R takes": {"remote": ["80=host:1/sctp"]},
    "0.0.0.0:1080 is open to other hosts": {"socks5": ["0.0.0.0:1080"]},
    "[::]:80 is open to other hosts": {"local": ["[::]:80=a:1"]},
    "would let everybody into the tunnel": {"http": ["192.0.2.1:80"], "allow_remote": True},
    "--auth is for": {"local": ["80=a:1"], "auth": "FILE"},
    "at least one connection": {"socks5": ["1"], "max_connections": 0},
    "--idle takes": {"socks5": ["1"], "idle": -1},
}


@pytest.fixture
def users(tmp_path: Path) -> Path:
    path = tmp_path / "users"
    path.write_text("alice:secret\n")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("reason", REFUSED)
def test_what_it_is_not_to_do_is_refused_with_a_sentence(reason: str, users: Path) -> None:
    said = dict(REFUSED[reason])
    if "auth" in said:
        said["auth"] = str(users)
    with pytest.raises(ValueError, match=re.escape(reason)):
        parse_options(CONFIG, **said)


def test_what_is_permitted_is_done(users: Path) -> None:
    every: tuple[dict[str, Any], ...] = (
        {"socks5": ["0.0.0.0:1080"], "allow_remote": True, "auth": str(users)},
        {"socks5": ["[::]:1080"], "allow_remote": True, "allow_open": True},
        {"local": ["0.0.0.0:80=a:1"], "allow_remote": True},
        {"remote": ["80=a:1/udp"]},
        {"socks5": ["127.0.0.2:1080", "[::1]:0"]},
    )
    for permitted in every:
        assert isinstance(parse_options(CONFIG, **permitted), Options)


def test_a_forward_is_what_it_says() -> None:
    assert Forward.parse("80=[fd00::1]:443", "127.0.0.1") == Forward(
        Target("127.0.0.1", 80), Target("fd00::1", 443), is_udp=False
    )
    assert (
        str(Forward.parse("[::1]:53=dns.internal:53/udp", "")) == "[::1]:53 to dns.internal:53/udp"
    )


@pytest.mark.parametrize(
    ("text", "mode", "reason"),
    [
        ("alice:secret\n", 0o640, "others may have access to it"),
        ("# nobody\n\n", 0o600, "nobody is in it"),
        ("alice\n", 0o600, "a line is not NAME:PASSWORD"),
        (":secret\n", 0o600, "a name or a password is not of 1 to 255 bytes"),
        ("a:" + "x" * 256, 0o600, "a name or a password is not of 1 to 255 bytes"),
        ("x" * 70_000, 0o600, "longer than 65536 bytes"),
    ],
)
def test_a_file_of_passwords_is_refused_without_telling_any(
    text: str, mode: int, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "users"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(ValueError, match="--auth") as refused:
        parse_options(CONFIG, socks5=["1"], auth=str(path))
    assert reason in str(refused.value)
    assert "secret" not in str(refused.value)


def test_what_is_no_file_is_no_file_of_passwords(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for name, reason in (("fifo", "not a file"), ("none", "No such file or directory")):
        with pytest.raises(ValueError, match=reason):
            parse_options(CONFIG, socks5=["1"], auth=str(tmp_path / name))


@given(st.text(max_size=300))
def test_a_host_is_one_or_refused(text: str) -> None:
    try:
        host = check_host(text)
    except ValueError:
        return
    assert host.isascii()
    assert host.isprintable()
    host.encode("idna")  # which raises for what getaddrinfo would not take


@pytest.mark.parametrize("text", ["", "a", "a:", ":1", "a b:1", "a..b:1", "::1:1", "[a]:1", "a:-1"])
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse_target(text)


def test_limits_are_of_all_and_of_each() -> None:
    limits = Limits(3, 2)
    assert [limits.admit("a") for _ in range(3)] == [True, True, False]
    assert [limits.admit("b") for _ in range(2)] == [True, False]
    limits.leave("a")
    assert [limits.admit(who) for who in ("c", "d")] == [True, False]
    for who in ("a", "b", "c"):
        limits.leave(who)
    assert not limits._counts


def test_there_are_no_more_connections_than_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    for hard, connections in ((664, 100), (64 + 6 * 5000, 1000), (resource.RLIM_INFINITY, 1000)):
        limits = (64, hard)
        monkeypatch.setattr(resource, "getrlimit", lambda _, limits=limits: limits)
        assert fit_descriptors(1000) == connections
        assert asked.pop() == (64 + 6 * connections, hard)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 64))
    with pytest.raises(StartError, match="too few"):
        fit_descriptors(1000)


def test_a_wrong_call_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    conf = tmp_path / "home.conf"
    conf.write_text("[Interface]\nPrivateKey = AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n")
    broken = tmp_path / "broken.conf"
    broken.write_text("[Interface]\nPrivateKey = nonsense\n")
    for arguments, reason in (
        ((str(conf),), "nothing to do"),
        ((str(broken), "--socks5", "1"), "broken.conf, line 2"),
        ((str(tmp_path / "none.conf"), "--socks5", "1"), "none.conf: No such file"),
    ):
        assert main(["proxy", *arguments]) == 2
        said = capsys.readouterr().err
        assert said.startswith("wgpyctl: ")
        assert said.count("\n") == 1
        assert reason in said
        assert "nonsense" not in said
