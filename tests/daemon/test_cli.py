# SPDX-License-Identifier: MIT
"""Command line and environment."""

import grp
import logging
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from wgpy.daemon import cli
from wgpy.daemon.cli import parse
from wgpy.daemon.options import Options
from wgpy.dataplane.plane import aead_backends
from wgpy.log import NOTICE


def refusal(
    argv: list[str], environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> tuple[int | str | None, str]:
    """Exit status, and what stands on stderr."""
    with pytest.raises(SystemExit) as caught:
        parse(argv, environ)
    return caught.value.code, capsys.readouterr().err


def test_a_name_alone_means_background_with_everything_on() -> None:
    options = parse(["wg0"], {})
    assert replace(options, workers=1, lanes=1) == Options(interface="wg0")
    assert not options.foreground
    assert options.log_level == NOTICE
    assert not options.keep_stderr


@pytest.mark.parametrize("argv", [["-f", "wg0"], ["--foreground", "wg0"], ["wg0", "-f"]])
def test_foreground_by_option(argv: list[str]) -> None:
    assert parse(argv, {}).foreground


def test_foreground_by_environment() -> None:
    assert parse(["wg0"], {"WG_PROCESS_FOREGROUND": "1"}).foreground
    assert not parse(["wg0"], {"WG_PROCESS_FOREGROUND": "0"}).foreground


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("verbose", logging.DEBUG),
        ("debug", logging.DEBUG),
        ("info", logging.INFO),
        ("notice", NOTICE),
        ("error", logging.ERROR),
        ("ERROR", logging.ERROR),
        ("silent", logging.CRITICAL + 1),
        ("gibberish", NOTICE),
    ],
)
def test_log_levels_are_those_of_wireguard_go_and_more(name: str, level: int) -> None:
    assert parse(["wg0"], {"LOG_LEVEL": name}).log_level == level


@pytest.mark.parametrize(
    ("name", "kept"), [("", False), ("silent", False), ("error", True), ("verbose", True)]
)
def test_who_asks_for_a_log_has_stderr_kept_as_by_wireguard_go(name: str, kept: bool) -> None:
    assert parse(["wg0"], {"LOG_LEVEL": name}).keep_stderr == kept


def test_descriptors_come_by_environment() -> None:
    options = parse(["wg0"], {"WG_TUN_FD": "5", "WG_UAPI_FD": "6"})
    assert (options.tun_fd, options.uapi_fd) == (5, 6)
    assert parse(["wg0"], {"WG_TUN_FD": ""}).tun_fd is None


def test_the_socket_group_comes_by_name() -> None:
    group = grp.getgrgid(os.getgid())
    assert parse(["wg0"], {"WGPY_SOCKET_GROUP": group.gr_name}).socket_gid == group.gr_gid
    assert parse(["wg0"], {"WGPY_SOCKET_GROUP": ""}).socket_gid is None


def test_the_status_group_comes_by_name() -> None:
    group = grp.getgrgid(os.getgid())
    assert parse(["wg0"], {"WGPY_STATUS_GROUP": group.gr_name}).status_gid == group.gr_gid
    assert parse(["wg0"], {"WGPY_STATUS_GROUP": ""}).status_gid is None


def test_the_status_socket_is_there_unless_somebody_says_no() -> None:
    assert parse(["wg0"], {}).status
    assert not parse(["wg0"], {"WGPY_STATUS": "0"}).status


@pytest.mark.parametrize("variable", ["WGPY_SOCKET_GROUP", "WGPY_STATUS_GROUP"])
def test_an_unknown_group_is_refused(variable: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, errors = refusal(["wg0"], {variable: "no-such-group"}, capsys)
    assert status == 2
    assert variable in errors


def test_the_directory_of_the_socket_is_trusted_only_if_somebody_says_so() -> None:
    assert not parse(["wg0"], {}).trust_socket_dir
    assert not parse(["wg0"], {"WGPY_TRUST_SOCKET_DIR": "0"}).trust_socket_dir
    assert parse(["wg0"], {"WGPY_TRUST_SOCKET_DIR": "1"}).trust_socket_dir


def test_nobody_inherits_the_managers_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str | None, str | None]] = []

    def note(options: Options) -> None:
        seen.append((options.notify_socket, os.environ.get("NOTIFY_SOCKET")))

    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    monkeypatch.setattr(cli, "run", note)
    assert cli.main(["wg0"]) == 0
    assert seen == [("/run/notify", None)]


def test_each_offload_has_its_switch() -> None:
    switches = {
        "WGPY_TUN_OFFLOAD": "tun_offload",
        "WGPY_VNET_HDR": "vnet_hdr",
        "WGPY_UDP_GSO": "udp_gso",
        "WGPY_UDP_GRO": "udp_gro",
    }
    for variable, field in switches.items():
        off = {
            name for name in switches.values() if not getattr(parse(["wg0"], {variable: "0"}), name)
        }
        assert off == {field}
        assert parse(["wg0"], {variable: "1"}) == parse(["wg0"], {})


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 1), (3, 1), (4, 2), (8, 4), (64, 4)])
def test_there_are_half_as_many_workers_as_cores_but_not_many(
    monkeypatch: pytest.MonkeyPatch, cores: int, workers: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cores)))
    assert parse(["wg0"], {}).workers == workers
    assert parse(["wg0"], {"WGPY_WORKERS": ""}).workers == workers


def test_the_number_of_workers_can_be_set() -> None:
    assert parse(["wg0"], {"WGPY_WORKERS": "16"}).workers == 16


@pytest.mark.parametrize("number", ["0", "17", "-1", "two", "1.5", "9" * 5000])
def test_a_wrong_number_of_workers_is_refused(
    number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, errors = refusal(["wg0"], {"WGPY_WORKERS": number}, capsys)
    assert status == 2
    assert "WGPY_WORKERS is no number from 1 to 16" in errors


@pytest.mark.parametrize(
    ("cores", "lanes"), [(1, 1), (2, 1), (3, 1), (4, 2), (8, 2), (12, 3), (16, 4), (64, 4)]
)
def test_there_are_as_many_lanes_as_cores_among_the_workers_but_not_many(
    monkeypatch: pytest.MonkeyPatch, cores: int, lanes: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cores)))
    assert parse(["wg0"], {}).lanes == lanes
    assert parse(["wg0"], {"WGPY_PIPELINE": ""}).lanes == lanes


def test_one_worker_has_half_the_cores_and_the_most_workers_a_lane_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    assert parse(["wg0"], {"WGPY_WORKERS": "1"}).lanes == 4
    assert parse(["wg0"], {"WGPY_WORKERS": "16"}).lanes == 1


def test_the_number_of_lanes_can_be_set() -> None:
    options = parse(["wg0"], {"WGPY_WORKERS": "2", "WGPY_PIPELINE": "6"})
    assert (options.workers, options.lanes) == (2, 6)


@pytest.mark.parametrize(("workers", "most"), [("1", 6), ("4", 4), ("16", 1)])
def test_a_wrong_number_of_lanes_is_refused(
    workers: str, most: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in ("0", str(most + 1), "two"):
        environment = {"WGPY_WORKERS": workers, "WGPY_PIPELINE": number}
        status, errors = refusal(["wg0"], environment, capsys)
        assert status == 2
        assert f"WGPY_PIPELINE is no number from 1 to {most}" in errors


def test_variables_of_other_implementations_are_ignored() -> None:
    assert parse(["wg0"], {"WG_SUDO": "1", "WG_THREADS": "4"}) == parse(["wg0"], {})


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "a b", "a\tb", "wg0\n", "wg:0", "wg%d", "sixteen-letters-", "ééééééééé"],
)
def test_a_bad_name_is_refused_in_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, errors = refusal([name], {}, capsys)
    assert status == 2
    assert re.fullmatch(r"wgpy: .*interface name.*\n", errors)


@pytest.mark.parametrize("name", ["w", "fifteen-letters", "wg-0.1_x", "ü"])
def test_a_good_name_is_taken(name: str) -> None:
    assert parse([name], {}).interface == name


@pytest.mark.parametrize("argv", [[], ["wg0", "wg1"], ["--forge", "wg0"], ["--fore", "wg0"]])
def test_a_wrong_call_is_refused_in_one_line(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    status, errors = refusal(argv, {}, capsys)
    assert status == 2
    assert re.fullmatch(r"wgpy: .*\n", errors)


@pytest.mark.parametrize("value", ["-1", "three", "3.0", "²"])
def test_a_descriptor_that_is_no_number_is_refused(
    value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, errors = refusal(["wg0"], {"WG_TUN_FD": value}, capsys)
    assert status == 2
    assert "WG_TUN_FD" in errors


def test_version_names_the_aeads() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "wgpy", "--version"], capture_output=True, text=True, check=True
    ).stdout
    assert re.fullmatch(r"wgpy \d+\.\d+\.\d+ \(AEAD: (.*)\)\n", said)
    assert all(name in said for name in aead_backends())


def test_help_names_every_variable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["--help"], {})
    assert caught.value.code == 0
    said = capsys.readouterr().out
    for name in ("WG_TUN_FD", "WG_UAPI_FD", "WG_PROCESS_FOREGROUND", "LOG_LEVEL", "WGPY_AEAD"):
        assert name in said
